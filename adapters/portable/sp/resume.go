package sp

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
)

// A Past is what the earlier owner of a connection knew of it.
type Past struct {
	// Rest is what was read from it and not handed out.
	Rest []byte
	// Whole says that a frame begins with Rest, or after it when that is empty. If
	// not, the owner died over the connection, and what comes is skipped up to the
	// next frame. That is sound for JSON and text, in which a frame's head cannot
	// occur.
	Whole bool
}

// restBytesMax bounds what Past keeps of one frame. A longer one is skipped.
const restBytesMax = 1 << 20

// Resume goes on with a connection that has been greeted by an earlier owner.
func Resume(c net.Conn, limit int, past Past) *Conn {
	from := io.Reader(c)
	if past.Whole && len(past.Rest) > 0 {
		from = io.MultiReader(bytes.NewReader(past.Rest), c)
	}
	return &Conn{net: c, limit: uint64(limit), read: bufio.NewReaderSize(from, readBytes), resumed: true, astray: !past.Whole}
}

// Resumed reports whether the connection was somebody else's before.
func (c *Conn) Resumed() bool { return c.resumed }

// Past is what the next owner needs. It must not be called while somebody receives.
func (c *Conn) Past() Past {
	buffered, _ := c.read.Peek(c.read.Buffered())
	if c.astray {
		return Past{}
	}
	var rest []byte
	if c.within {
		if c.size > c.limit || c.size > restBytesMax {
			return Past{}
		}
		rest = append(binary.BigEndian.AppendUint64([]byte{frameMessage}, c.size), c.payload...)
	}
	return Past{Rest: append(rest, buffered...), Whole: true}
}

// findFrame skips what is no frame's head. It is for a connection gone astray.
func (c *Conn) findFrame() error {
	for {
		head, err := c.read.Peek(frameHeadBytes)
		if err != nil {
			return err
		}
		if head[0] == frameMessage && binary.BigEndian.Uint64(head[1:]) <= frameBytesMax {
			c.astray = false
			return nil
		}
		if _, err := c.read.Discard(1); err != nil {
			return err
		}
	}
}

// Resume lets the server go on with a connection of an earlier one. It is closed
// when it is not admitted, or the server is closed.
func (s *Server) Resume(c *net.UnixConn, past Past) {
	if !s.track(c) {
		c.Close()
		return
	}
	s.group.Add(1)
	go func() { // ends with its connection, which Close closes; Close waits
		defer s.group.Done()
		defer s.forget(c)
		if s.handler.Admit != nil {
			if err := s.handler.Admit(c); err != nil {
				s.refuse(err)
				return
			}
		}
		s.handler.Handle(Resume(c, s.handler.Limit, past))
	}()
}
