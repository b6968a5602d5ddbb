package client

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// errTooLong ends a stream whose line is longer than any answer.
var errTooLong = fmt.Errorf("stream: %w: a line has more than %d bytes", plugin.ErrInvalid, answerBytesMax)

// message is one event of SSE.
type message struct {
	id    string
	event string
	data  []byte
}

// problem is the error that a problem message tells.
func (m message) problem() error {
	var p wire.Problem
	if err := json.Unmarshal(m.data, &p); err != nil {
		return fmt.Errorf("stream: %w: %w", plugin.ErrUnavailable, err)
	}
	return asError(p)
}

// sse reads Server-Sent Events.
type sse struct {
	from  *bufio.Reader
	alive func() // called for each line, heartbeats among them
}

func newSSE(from io.Reader) *sse {
	return &sse{from: bufio.NewReaderSize(from, 16<<10), alive: func() {}}
}

// next returns the next message. io.EOF means that the connection ended.
func (s *sse) next() (message, error) {
	var m message
	filled := false
	for {
		line, err := s.line()
		if err != nil {
			return message{}, err
		}
		s.alive()
		if len(line) == 0 {
			if filled {
				return m, nil
			}
			m = message{}
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "id":
			m.id = string(value)
		case "event":
			m.event = string(value)
		case "data":
			if filled {
				m.data = append(m.data, '\n')
			}
			m.data, filled = append(m.data, value...), true
		}
	}
}

// rest reads to the end, behind which are the trailers: nothing comes after a stream's
// last message.
func (s *sse) rest() { _, _ = io.CopyN(io.Discard, s.from, 1) }

// line returns the next line without its end. It is valid until the next call.
func (s *sse) line() ([]byte, error) {
	line, err := s.from.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		long := bytes.Clone(line)
		for errors.Is(err, bufio.ErrBufferFull) {
			line, err = s.from.ReadSlice('\n')
			if long = append(long, line...); len(long) > answerBytesMax {
				return nil, errTooLong
			}
		}
		line = long
	}
	if err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
}
