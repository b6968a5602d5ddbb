package goplugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/gobwire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// sendAtOnceMax is the largest request written by the caller itself: it fits in
// the socket's buffer, so that a plugin that reads nothing cannot hold the
// caller beyond its context. A larger one costs a goroutine.
const sendAtOnceMax = 32 << 10

// past is a deadline that has passed: it wakes whoever waits on a connection.
var past = time.Unix(1, 0)

// A query is one call.
type query struct {
	method     string // Service.Method
	args       *gobwire.Type
	needs      []int64
	reply      *gobwire.Type
	errorField string
	argument   []byte // JSON
}

// errUncoded says that a stream ended between an answer's header and its body. It
// is what net/rpc does when gob cannot encode the answer, most often because an
// error's type is not registered; or the plugin has ended.
var errUncoded = errors.New("the plugin closed the stream instead of answering")

// A stream carries net/rpc, one call at a time.
type stream struct {
	conn net.Conn
	r    *gobwire.Reader
	w    *gobwire.Writer
	seq  uint64
	buf  []byte
	// broken: an answer is outstanding or the bytes are out of step.
	broken bool
}

// call makes one call and returns the answer as JSON. A *gobwire.Fault means that
// the argument does not fit, a *plugin.Refusal is an error that the plugin
// returned; both leave the stream in step.
func (s *stream) call(ctx context.Context, q *query) ([]byte, error) {
	s.seq++
	var err error
	// Header and argument together: what does not encode leaves nothing behind.
	if s.buf, err = s.w.Request(s.buf[:0], q.method, s.seq, q.args, q.needs, q.argument); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetDeadline(past) })
	if err = s.send(ctx); err == nil {
		var answer []byte
		answer, err = s.answer(q)
		if !stop() {
			s.broken = true
		}
		return answer, err
	}
	stop()
	s.broken = true
	return nil, err
}

func (s *stream) send(ctx context.Context) error {
	if len(s.buf) <= sendAtOnceMax {
		_, err := s.conn.Write(s.buf)
		return err
	}
	request := s.buf
	s.buf = nil // large, and perhaps in use for longer than this call
	done := make(chan error, 1)
	go func() { // ends when the plugin reads, or with the session's write timeout
		_, err := s.conn.Write(request)
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *stream) answer(q *query) (answer []byte, err error) {
	defer func() { // a fault of the reader costs a stream, not the daemon
		if fault := recover(); fault != nil {
			s.broken = true
			answer, err = nil, fmt.Errorf("answer: it cannot be read: %v", fault)
		}
	}()
	h, err := s.r.Header()
	if err == nil && h.Seq != s.seq {
		err = fmt.Errorf("the answer is to call %d, want %d", h.Seq, s.seq)
	}
	if err != nil {
		s.broken = true
		return nil, fmt.Errorf("answer: %w", err)
	}
	if h.Error != "" {
		if err := s.r.Discard(); err != nil { // a body without meaning follows
			s.broken = true
		}
		return nil, &plugin.Refusal{Message: h.Error}
	}
	answer, taken, err := s.r.Answer(nil, q.reply, q.errorField)
	switch {
	case err == nil && (taken == nil || string(taken) == "null"):
		return answer, nil
	case err == nil:
		return nil, answered(taken)
	}
	s.broken = true
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, errUncoded
	}
	return nil, fmt.Errorf("answer: %w", err)
}

// control carries go-plugin's own calls on the session's first stream. Its
// goroutine makes them one after the other; a caller whose context ends leaves,
// and the answer is dropped when it comes.
type control struct {
	stream *stream
	turns  chan *turn // unbuffered: who cannot hand over waits, as long as it wants
	closed <-chan struct{}
	// fail ends the session when the stream is out of step for good, so that a
	// new one is made.
	fail func()
}

type turn struct {
	query  query
	answer []byte
	err    error
	done   chan struct{}
}

// run makes the calls until the session ends.
func (c *control) run() {
	for {
		select {
		case <-c.closed:
			return
		case t := <-c.turns:
			t.answer, t.err = c.stream.call(context.Background(), &t.query)
			close(t.done)
			if c.stream.broken {
				c.fail()
				return
			}
		}
	}
}

// call hands one call over and waits for its answer, but no longer than ctx.
func (c *control) call(ctx context.Context, method string, args *gobwire.Type, argument []byte) ([]byte, error) {
	t := &turn{query: query{method: method, args: args, argument: argument}, done: make(chan struct{})}
	select {
	case c.turns <- t:
	case <-c.closed:
		return nil, errClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case <-t.done:
		return t.answer, t.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
