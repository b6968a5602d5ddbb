package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Scalability Protocols by their numbers.
const (
	protocolReq  = 0x30
	protocolPush = 0x50
	protocolPull = 0x51
)

// messageMax is what the Go SDK's sockets take.
const messageMax = 1 << 20

// socket is one connection.
type socket struct {
	conn net.Conn
	id   uint32 // of the newest request
}

func path(name string) string { return "/tmp/" + name + ".ipc" }

func dial(name string, own byte) (*socket, error) {
	conn, err := net.Dial("unix", path(name))
	if err != nil {
		return nil, err
	}
	return greet(conn, own)
}

func greet(conn net.Conn, own byte) (*socket, error) {
	var theirs [8]byte
	if _, err := conn.Write([]byte{0, 'S', 'P', 0, 0, own, 0, 0}); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, theirs[:]); err != nil {
		return nil, err
	}
	if want := [8]byte{0, 'S', 'P', 0, 0, own ^ 1, 0, 0}; theirs != want {
		conn.Close()
		return nil, fmt.Errorf("greeting % x, want % x", theirs, want)
	}
	return &socket{conn: conn, id: rand.Uint32()}, nil
}

func (s *socket) send(payload []byte) error {
	frame := append(make([]byte, 0, 9+len(payload)), 1)
	frame = binary.BigEndian.AppendUint64(frame, uint64(len(payload)))
	_, err := s.conn.Write(append(frame, payload...))
	return err
}

func (s *socket) receive() ([]byte, error) {
	var head [9]byte
	if _, err := io.ReadFull(s.conn, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint64(head[1:])
	if head[0] != 1 || size > messageMax {
		return nil, fmt.Errorf("frame of type %d with %d bytes", head[0], size)
	}
	payload := make([]byte, size)
	_, err := io.ReadFull(s.conn, payload)
	return payload, err
}

// request sends body under a new id.
func (s *socket) request(body []byte) error {
	s.id = (s.id + 1) | 1<<31
	return s.send(append(binary.BigEndian.AppendUint32(nil, s.id), body...))
}

// reply waits for the reply to the newest request, and drops others.
func (s *socket) reply() ([]byte, error) {
	for {
		payload, err := s.receive()
		if err != nil {
			return nil, err
		}
		if len(payload) >= 4 && binary.BigEndian.Uint32(payload) == s.id {
			return payload[4:], nil
		}
	}
}

// serve dials and answers until the connection breaks.
func serve(name string, idle time.Duration, handle func([]byte) []byte) error {
	s, err := dial(name, protocolReq)
	if err != nil {
		return err
	}
	return s.requests(idle, handle)
}

// requests says handshake, and then answers each reply with a request. After an
// idle spell it says handshake again; 0 is never.
func (s *socket) requests(idle time.Duration, handle func([]byte) []byte) error {
	defer s.conn.Close()
	said := []byte("handshake")
	for {
		if err := s.request(said); err != nil {
			return err
		}
		if idle > 0 {
			_ = s.conn.SetReadDeadline(time.Now().Add(idle))
		}
		asked, err := s.reply()
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout():
			said = []byte("handshake")
		case err != nil:
			return err
		default:
			said = handle(asked)
		}
	}
}

// listener takes what hosts push.
type listener struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func listen(name string) (*listener, error) {
	l, err := net.Listen("unix", path(name))
	return &listener{Listener: l}, err
}

func (l *listener) serve(own byte, take func([]byte)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		l.mu.Lock()
		l.conns = append(l.conns, conn)
		l.mu.Unlock()
		s, err := greet(conn, own)
		for err == nil {
			var message []byte
			if message, err = s.receive(); err == nil {
				take(message)
			}
		}
		conn.Close()
	}
}

func (l *listener) close() {
	l.Listener.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.conns {
		conn.Close()
	}
}
