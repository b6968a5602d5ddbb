package sp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// connsMax bounds the connections of one socket at a time. A plugin opens one,
// and for a moment two while it redials; more are closed at once.
const connsMax = 16

// A Handler decides about the connections of one socket.
type Handler struct {
	// Own is the protocol spoken, Limit the largest payload taken, in bytes.
	Own   Protocol
	Limit int
	// Admit looks at a connection before anything is read from it; an error
	// closes it. nil admits all.
	Admit func(*net.UnixConn) error
	// Handle has the connection until it returns; it is closed then.
	Handle func(*Conn)
	// Refused hears of connections that were not admitted or did not greet; nil
	// hears nothing.
	Refused func(error)
}

// A Server accepts connections on one socket.
type Server struct {
	listener *net.UnixListener
	handler  Handler
	group    sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// Serve begins to accept on l and returns at once. Close ends it.
func Serve(l *net.UnixListener, h Handler) *Server {
	s := &Server{listener: l, handler: h, conns: map[net.Conn]struct{}{}}
	s.group.Add(1)
	go s.accept() // ends when Close closes the listener; Close waits
	return s
}

// Close stops accepting, closes every connection, removes the socket and returns
// when each Handle has returned. Closing twice is harmless.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.listener.Close()
	s.group.Wait()
}

func (s *Server) accept() {
	defer s.group.Done()
	for {
		c, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of file descriptors, most likely: wait for some to be closed.
			s.refuse(err)
			time.Sleep(acceptRetry)
			continue
		}
		if !s.track(c) {
			c.Close()
			s.refuse(fmt.Errorf("more than %d connections", connsMax))
			continue
		}
		s.group.Add(1)
		go s.serve(c) // ends with its connection, which Close closes; Close waits
	}
}

// acceptRetry is the pause after a failed accept, so that it does not spin.
const acceptRetry = 50 * time.Millisecond

func (s *Server) serve(c *net.UnixConn) {
	defer s.group.Done()
	defer s.forget(c)
	if s.handler.Admit != nil {
		if err := s.handler.Admit(c); err != nil {
			s.refuse(err)
			return
		}
	}
	conn, err := Greet(c, s.handler.Own, s.handler.Limit)
	if err != nil {
		s.refuse(err)
		return
	}
	s.handler.Handle(conn)
}

func (s *Server) track(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.conns) >= connsMax {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) forget(c net.Conn) {
	c.Close()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

func (s *Server) refuse(err error) {
	if s.handler.Refused != nil {
		s.handler.Refused(err)
	}
}

// Dial connects to the socket at path and greets as own. admit may be nil.
func Dial(ctx context.Context, path string, h Handler) (*Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if h.Admit != nil {
		if err := h.Admit(c.(*net.UnixConn)); err != nil {
			c.Close()
			return nil, err
		}
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	return Greet(c, h.Own, h.Limit)
}
