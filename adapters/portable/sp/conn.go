package sp

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A Protocol is one side of a pattern, by its number on the wire.
type Protocol uint16

// The protocols that a portable plugin's sockets speak.
const (
	Req  Protocol = 0x30
	Rep  Protocol = 0x31
	Push Protocol = 0x50
	Pull Protocol = 0x51
)

// Peer is the protocol that p may talk to; 0 when p is unknown.
func (p Protocol) Peer() Protocol {
	switch p {
	case Req:
		return Rep
	case Rep:
		return Req
	case Push:
		return Pull
	case Pull:
		return Push
	}
	return 0
}

const (
	greetingBytes = 8
	// frameHeadBytes is the type byte and the length.
	frameHeadBytes = 9
	frameMessage   = 1
	// greetingTimeout bounds a silent peer. Both sides of a local socket write
	// their eight bytes at once; seconds are for a machine that swaps.
	greetingTimeout = 5 * time.Second
	// readBytes holds hundreds of small frames per system call.
	readBytes = 64 << 10
	// growBytes is the most that is allocated on a peer's word alone; a longer
	// frame gets its memory as its bytes arrive.
	growBytes = 64 << 10
	// frameBytesMax is far over any limit: who says that a frame is longer does not
	// speak the protocol. What is between the two is skipped.
	frameBytesMax = 1<<32 - 1
	// joinBytes is how long a frame is copied behind its head, to leave in one
	// write; a longer one leaves by writev, for which copying costs more.
	joinBytes = 32 << 10
	// keepBytes is how much of a frame that is too large is still handed out: a
	// whole request id, however long its path (8 hops at most in every SP
	// implementation).
	keepBytes = 4 * 9
)

// ErrProtocol is what a peer gets wrong about the wire; the connection is of no
// use after it.
var ErrProtocol = errors.New("it does not speak the expected scalability protocol")

// A TooLargeError says that a frame was over the limit. The frame was skipped,
// and the connection works.
type TooLargeError struct{ Size, Limit uint64 }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("a message of %d bytes is over the limit of %d", e.Size, e.Limit)
}

// A Conn is one greeted connection. One goroutine at a time may receive while any
// number send.
type Conn struct {
	net   net.Conn
	limit uint64
	read  *bufio.Reader

	resumed bool
	astray  bool // where the next frame begins is not known

	// The frame that is being received.
	size, left uint64
	within     bool
	payload    []byte
	skipping   atomic.Uint64 // size, while it is too large; read by others, too

	writing sync.Mutex
	out     []byte
}

// Greet exchanges greetings on c as own and returns the connection, on which
// frames up to limit bytes are accepted. It closes c on error.
func Greet(c net.Conn, own Protocol, limit int) (*Conn, error) {
	if err := greet(c, own); err != nil {
		c.Close()
		return nil, err
	}
	return &Conn{net: c, limit: uint64(limit), read: bufio.NewReaderSize(c, readBytes)}, nil
}

func greet(c net.Conn, own Protocol) error {
	if err := c.SetDeadline(time.Now().Add(greetingTimeout)); err != nil {
		return err
	}
	if _, err := c.Write(greeting(own)); err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	var theirs [greetingBytes]byte
	if _, err := io.ReadFull(c, theirs[:]); err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	peer, err := parseGreeting(theirs)
	if err != nil {
		return err
	}
	if peer != own.Peer() {
		return fmt.Errorf("%w: its greeting has the pattern 0x%02x, want 0x%02x", ErrProtocol, uint16(peer), uint16(own.Peer()))
	}
	return c.SetDeadline(time.Time{})
}

func greeting(p Protocol) []byte {
	return []byte{0, 'S', 'P', 0, byte(p >> 8), byte(p), 0, 0}
}

func parseGreeting(b [greetingBytes]byte) (Protocol, error) {
	if [4]byte(b[:4]) != [4]byte{0, 'S', 'P', 0} || b[6] != 0 || b[7] != 0 {
		return 0, fmt.Errorf("%w: its greeting is % x (%q), want 00 53 50 00", ErrProtocol, b, b)
	}
	return Protocol(binary.BigEndian.Uint16(b[4:6])), nil
}

// Unix is the socket itself, for whoever hands it on; nil for another kind.
func (c *Conn) Unix() *net.UnixConn {
	u, _ := c.net.(*net.UnixConn)
	return u
}

// Close ends the connection, and whatever waits in Recv or Send.
func (c *Conn) Close() error { return c.net.Close() }

// SetReadDeadline bounds Recv, also one that is waiting. What it cut short goes on
// where it was with the next Recv.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.net.SetReadDeadline(t) }

// Recv waits for one frame and returns its payload, in buf if that has the room.
// io.EOF means that the peer closed between two frames. On a *TooLargeError the
// payload's first bytes are returned beside it and the next call works.
func (c *Conn) Recv(buf []byte) ([]byte, error) {
	if !c.within {
		if err := c.head(); err != nil {
			return nil, err
		}
		c.within, c.payload = true, buf[:0]
	}
	if err := c.body(); err != nil {
		return nil, err
	}
	payload := c.payload
	c.within, c.payload = false, nil
	if c.size > c.limit {
		c.skipping.Store(0)
		return payload, &TooLargeError{Size: c.size, Limit: c.limit}
	}
	return payload, nil
}

// Skipping is the size of the message that is being skipped because it is over
// Limit, or 0. It may be asked while somebody receives.
func (c *Conn) Skipping() uint64 { return c.skipping.Load() }

// Limit is the largest payload taken, in bytes.
func (c *Conn) Limit() uint64 { return c.limit }

func (c *Conn) head() error {
	if c.astray {
		if err := c.findFrame(); err != nil {
			return err
		}
	}
	head, err := c.read.Peek(frameHeadBytes)
	if err != nil {
		if err == io.EOF && len(head) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if head[0] != frameMessage {
		return fmt.Errorf("%w: got a frame of type %d, want %d", ErrProtocol, head[0], frameMessage)
	}
	c.size = binary.BigEndian.Uint64(head[1:])
	c.left = c.size
	if c.size > frameBytesMax {
		return fmt.Errorf("%w: got a frame of %d bytes, want at most %d", ErrProtocol, c.size, c.limit)
	}
	if c.size > c.limit {
		c.skipping.Store(c.size)
	}
	_, err = c.read.Discard(frameHeadBytes)
	return err
}

// body reads the rest of the frame. Of one that is too large it keeps the
// beginning.
func (c *Conn) body() error {
	keep := c.size
	if keep > c.limit {
		keep = min(keep, keepBytes)
	}
	for c.left > 0 {
		var n int
		var err error
		if missing := keep - min(keep, uint64(len(c.payload))); missing > 0 {
			n, err = c.more(int(min(missing, uint64(max(growBytes, len(c.payload))))))
		} else {
			n, err = c.read.Discard(int(min(c.left, readBytes)))
		}
		c.left -= uint64(n)
		if err == io.EOF {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// more appends up to n bytes to the payload.
func (c *Conn) more(n int) (int, error) {
	have := len(c.payload)
	if cap(c.payload)-have < n {
		c.payload = append(make([]byte, 0, have+n), c.payload...)
	}
	n, err := io.ReadFull(c.read, c.payload[have:have+n])
	c.payload = c.payload[:have+n]
	return n, unexpected(err)
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Send writes one frame, whose payload is prefix and then body, as one write. An
// error means that the connection is of no use any more.
func (c *Conn) Send(prefix, body []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.out = append(c.out[:0], frameMessage)
	c.out = binary.BigEndian.AppendUint64(c.out, uint64(len(prefix)+len(body)))
	c.out = append(c.out, prefix...)
	if len(body) <= joinBytes {
		c.out = append(c.out, body...)
		_, err := c.net.Write(c.out)
		return err
	}
	parts := net.Buffers{c.out, body}
	_, err := parts.WriteTo(c.net)
	return err
}
