package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// lineBytes is what is read of an argument at once.
	lineBytes = 16 << 10
	// lingerMax is how long a caller that has more to say gets to read that nobody
	// listens any more: closing at once would take the answer with it.
	lingerMax = 250 * time.Millisecond
)

// parts reads an argument in parts, NDJSON, from the body of a request while its
// answer is written. One part is read ahead; the rest waits at the caller.
type parts struct {
	body    io.Reader
	answer  *echo.Response
	lines   chan line     // unbuffered
	over    chan struct{} // closed by end
	ended   chan struct{} // closed with the reading goroutine
	whole   atomic.Bool   // the body was read to its end
	control *http.ResponseController
}

type line struct {
	text []byte
	err  error // io.EOF behind the last part
}

func inParts(r *http.Request) bool {
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return media == wire.NDJSONType
}

// readParts begins to read. end must be called once the answer is written.
func readParts(c echo.Context) *parts {
	p := &parts{
		body: c.Request().Body, answer: c.Response(), lines: make(chan line), over: make(chan struct{}), ended: make(chan struct{}),
		control: http.NewResponseController(c.Response().Writer),
	}
	// Best effort, as all of control: a test's recorder has none of it.
	p.control.EnableFullDuplex()
	p.control.SetReadDeadline(time.Time{}) // dispatch bounds the wait for each part
	if c.Request().ProtoMajor == 1 {
		// A body that is not read to its end must not be taken for the next request.
		c.Response().Header().Set("Connection", "close")
	}
	go p.read() // ends with the body, or with end
	return p
}

func (p *parts) read() {
	defer close(p.ended)
	from := bufio.NewReaderSize(p.body, lineBytes)
	for {
		text, err := readLine(from)
		if err == nil && len(text) == 0 {
			continue // a sign of life
		}
		p.whole.Store(errors.Is(err, io.EOF))
		select {
		case p.lines <- line{text, err}:
		case <-p.over:
			return
		}
		if err != nil {
			return
		}
	}
}

// readLine returns one line without its end and the white space around it.
func readLine(from *bufio.Reader) ([]byte, error) {
	var text []byte
	for {
		piece, err := from.ReadSlice('\n')
		if text = append(text, piece...); len(text) > plugin.PayloadBytesMax {
			return nil, tooLarge(plugin.PayloadBytesMax, "send smaller parts")
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			if text = bytes.TrimSpace(text); len(text) > 0 {
				return text, nil // the end comes next
			}
			return nil, io.EOF
		case err != nil:
			return nil, unreadable(err)
		}
		return bytes.TrimSpace(text), nil
	}
}

// next is plugin.Invocation.Parts.
func (p *parts) next(ctx context.Context) ([]byte, error) {
	select {
	case l := <-p.lines:
		return l.text, l.err
	case <-p.ended: // and what it said was taken
		return nil, io.EOF
	case <-ctx.Done():
		return nil, fmt.Errorf("argument: %w", context.Cause(ctx))
	}
}

// end stops reading, and returns once nobody reads.
func (p *parts) end() {
	close(p.over)
	if !p.whole.Load() {
		if p.answer.Committed {
			p.control.Flush()
		}
		p.control.SetReadDeadline(time.Now().Add(lingerMax))
	}
	<-p.ended
}
