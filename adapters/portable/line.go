package portable

import (
	"context"
	"errors"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/portable/sp"
)

// lingerTime is how long after an answer the next caller may take the baton. Then
// the connection's own goroutine reads again. It is far under the time between two
// keepalives, and far over that between two calls in a run.
const lingerTime = 10 * time.Millisecond

// A line is one connection of a link and the right to read it, the baton. Its own
// goroutine has it while the link is idle, and while several callers wait: it
// then writes the next command before it hands out an answer. In a run of single
// calls it lingers, and each caller reads for itself, so that an answer wakes the
// one who waits for it and nobody else; that saves a third of the processor time.
type line struct {
	*sp.Conn
	baton  chan struct{} // cap 1: full while nobody reads
	resume chan struct{} // cap 1: its own goroutine must read again
}

// serve reads conn until it ends. The newest connection is the one that counts;
// the one before is closed.
func (l *link) serve(conn *sp.Conn) {
	c := &line{Conn: conn, baton: make(chan struct{}, 1), resume: make(chan struct{}, 1)}
	l.attach(c)
	defer l.detach(c)
	for {
		answered, err := l.receive(c)
		if err != nil {
			l.broke(c, err)
			return
		}
		if answered && !l.busy() && !l.linger(c) {
			return
		}
	}
}

// receive reads one request and passes on what follows from it. Who calls it
// holds the baton. It reports whether the request was an answer.
func (l *link) receive(c *line) (bool, error) {
	payload, err := c.Recv(nil)
	var large *sp.TooLargeError
	if err != nil && !errors.As(err, &large) {
		return false, err
	}
	id, body, idErr := sp.SplitRequest(payload)
	if idErr != nil {
		l.log.Warn("request without an id", "channel", l.name)
		c.Close()
		return false, idErr
	}
	said := answer{body: body, err: err}
	done, next := l.received(c, id, said)
	if next != nil {
		next.write(context.Background()) // a short one, which does not wait
	}
	if done != nil {
		done.answer <- said
	}
	return done != nil, nil
}

// busy reports whether there is anything to send or to wait for.
func (l *link) busy() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent != nil || len(l.queue) > 0
}

// linger leaves c to callers until they leave it idle, and takes the baton back;
// false when the link is closed.
func (l *link) linger(c *line) bool {
	c.baton <- struct{}{}
	pause := time.NewTicker(lingerTime)
	defer pause.Stop()
	for waiting := true; waiting; {
		select {
		case <-pause.C:
			waiting = l.used.Swap(false)
		case <-c.resume:
			waiting = false
		case <-l.gone:
			c.Close()
			<-c.baton // nobody reads any more
			return false
		}
	}
	select {
	case <-c.baton:
		return true
	case <-l.gone:
		c.Close()
		<-c.baton
		return false
	}
}

// readFor reads in the caller's own goroutine until c is answered. It returns at
// once when somebody else reads, and early when ctx or the connection ends or c
// is to be sent by its caller.
func (l *link) readFor(ctx context.Context, c *call) {
	l.mu.Lock()
	conn := l.conn
	l.mu.Unlock()
	if conn == nil {
		return
	}
	select {
	case <-conn.baton:
	default:
		return
	}
	l.used.Store(true)
	undo := interrupt(ctx, conn)
	var err error
	for err == nil && len(c.answer) == 0 && len(c.again) == 0 {
		_, err = l.receive(conn)
	}
	undo()
	conn.baton <- struct{}{}
	if err != nil || l.busy() {
		signal(conn.resume)
	}
}

// interrupt makes conn's reader return when ctx ends, until it is undone.
func interrupt(ctx context.Context, conn *line) (undo func()) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = conn.SetReadDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-done
			_ = conn.SetReadDeadline(time.Time{})
		}
	}
}
