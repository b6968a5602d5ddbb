package portable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/portable/sp"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// handshake is what a plugin's request says when it has nothing to answer.
const handshake = "handshake"

// freeWriteBytes is the longest command that a unix socket takes without
// waiting for the plugin: far under its 208 KiB buffer, which holds at most two
// commands since each answers a request. A longer one is written by its caller,
// whose context bounds it.
const freeWriteBytes = 32 << 10

// errNoGreeting is what is wrong with a connection that says nothing.
var errNoGreeting = errors.New("it sent no whole greeting of the scalability protocol")

// errEnded is why a call on a link fails once the plugin is gone.
var errEnded = fmt.Errorf("%w: the plugin has ended", plugin.ErrUnavailable)

// A link is the host's end of one inverted request channel: the plugin asks (its
// first request says handshake), the host's command is the reply, and the answer
// is the plugin's next request. One command is under way at a time; more wait in
// line, each as long as its context allows.
//
// Every request is read as it comes, and told apart by its id:
//
//	the id of the newest request, same connection   the SDK's re-send each 60 s: ignored
//	the id of the newest request, new connection    the reply got lost: the command is sent again
//	a new id, handshake                             a keepalive; a command sent before it was
//	                                                dropped by the plugin, and is sent again
//	a new id, a command is under way                its answer; dropped if nobody waits any more
//	a new id, nothing under way                     an old answer after a reconnect: logged
//
// On a connection of an earlier daemon the table goes on where that one was: what
// it knew is in its mark. A command that it may have sent is under way, and its
// caller has left; the same id again means, once, that it was not sent after all.
//
// Together these deliver each command exactly once, over idle spells, lost
// connections and late answers.
type link struct {
	name string // for errors and logs: "control", "function echo"
	log  *slog.Logger
	gone chan struct{} // closed by close
	used atomic.Bool   // a caller has read since linger looked

	mu    sync.Mutex
	conn  *line         // the newest connection; nil while there is none
	heard bool          // conn has carried a request
	last  []byte        // id of the newest request
	open  bool          // that request came by conn and has no reply yet
	queue []*call       // commands to send; the first one is next
	sent  *call         // was the reply to the newest request, and has no answer yet
	moved chan struct{} // closed, and replaced, when conn or heard changes
	mark  *mark         // what the next daemon needs; nil: there will be none
	past  standing      // how an earlier daemon left it
	doubt bool          // its command may have been sent or not
	fault error         // what was wrong with the newest connection that was of no use
}

// A call is one command and the wait for its answer.
type call struct {
	body      []byte
	again     chan struct{} // cap 1: it may be sent now
	answer    chan answer   // cap 1
	abandoned time.Time     // when its caller left after it was sent
}

type answer struct {
	body []byte
	err  error
}

func newLink(name string, log *slog.Logger) *link {
	return &link{name: name, log: log, gone: make(chan struct{}), moved: make(chan struct{})}
}

// handler serves the link on its socket.
func (l *link) handler(payloadBytesMax int) sp.Handler {
	return sp.Handler{Own: sp.Rep, Limit: payloadBytesMax, Handle: l.serve, Refused: l.failed, Admit: func(*net.UnixConn) error {
		l.failed(errNoGreeting) // until it has greeted
		return nil
	}}
}

// broke is failed for a connection that was served; the one before the newest does
// not count.
func (l *link) broke(conn *line, err error) {
	if err == io.EOF {
		err = errors.New("it closed the connection")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == conn {
		l.fault = err
	}
}

// failed remembers why a connection is of no use, for whoever awaits a better one.
func (l *link) failed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = err
}

func (l *link) attach(conn *line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		l.conn.Close()
	}
	l.conn, l.heard, l.open, l.doubt, l.fault = conn, false, false, false, nil
	if conn.Resumed() {
		l.heard, l.open, l.doubt = l.past != unheard, l.past == awaiting, l.past == replied
	}
	if l.open && len(l.queue) > 0 {
		signal(l.queue[0].again)
	}
	l.announce()
}

// resume takes over what an earlier daemon knew. It is for a new link.
func (l *link) resume(m *mark) {
	l.mark = m
	l.last, l.past = m.read()
	if l.past == replied {
		l.sent = newCall(nil)
		l.sent.abandoned = time.Now()
	}
}

func (l *link) detach(conn *line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == conn {
		l.conn, l.heard, l.open = nil, false, false
		l.announce()
	}
}

// announce wakes those who wait for a change of conn or heard. Callers hold mu.
func (l *link) announce() {
	close(l.moved)
	l.moved = make(chan struct{})
}

// received takes one request, by the table in link's comment. It returns the call
// that it answers, if any, and the command to reply with, if there is one that
// whoever reads may write.
func (l *link) received(conn *line, id []byte, said answer) (done *call, next *reply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if conn != l.conn {
		return nil, nil
	}
	repeated, first := bytes.Equal(id, l.last), !l.heard
	l.heard = true
	switch {
	case repeated && !first && !l.doubt:
		return nil, nil
	case repeated, string(said.body) == handshake:
		l.undelivered()
	case l.sent != nil:
		done = l.answered()
	default:
		l.log.Warn("an answer that nobody waits for", "channel", l.name, "bytes", len(said.body))
	}
	l.last = append(l.last[:0], id...)
	l.open, l.doubt = true, false
	l.mark.write(l.last, awaiting)
	if first {
		l.announce()
	}
	return done, l.claimShort()
}

// undelivered puts the command under way back in line, unless its caller left.
func (l *link) undelivered() {
	if l.sent != nil && l.sent.abandoned.IsZero() {
		l.queue = slices.Insert(l.queue, 0, l.sent)
	}
	l.sent = nil
}

// answered returns the call under way, or nil when its caller left.
func (l *link) answered() *call {
	c := l.sent
	l.sent = nil
	if c.abandoned.IsZero() {
		return c
	}
	l.log.Warn("late answer dropped", "channel", l.name, "late", time.Since(c.abandoned).String())
	return nil
}

// A reply is a command on its way.
type reply struct {
	conn     *line
	id, body []byte
}

// write sends the reply. What cannot be written is sent again after the plugin
// has connected again.
func (r *reply) write(ctx context.Context) {
	if len(r.body) > freeWriteBytes {
		// Half a frame is of no use to anybody: who cancels loses the connection.
		defer context.AfterFunc(ctx, func() { r.conn.Close() })()
	}
	if err := r.conn.Send(r.id, r.body); err != nil {
		r.conn.Close()
	}
}

// claim makes the first in line the reply to the newest request; nil when there
// is none to reply to. Callers hold mu.
func (l *link) claim() *reply {
	if !l.open || len(l.queue) == 0 {
		return nil
	}
	l.sent, l.open = l.queue[0], false
	l.queue = slices.Delete(l.queue, 0, 1)
	l.mark.write(l.last, replied) // before it is
	return &reply{conn: l.conn, id: bytes.Clone(l.last), body: l.sent.body}
}

// claimShort is claim for somebody else than the caller; a long command is left
// to the caller, who is told.
func (l *link) claimShort() *reply {
	if len(l.queue) > 0 && len(l.queue[0].body) > freeWriteBytes {
		signal(l.queue[0].again)
		return nil
	}
	return l.claim()
}

// claimFor is claim if c is the first in line.
func (l *link) claimFor(c *call) *reply {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 || l.queue[0] != c {
		return nil
	}
	return l.claim()
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// call sends a command when its turn comes and returns the answer.
func (l *link) call(ctx context.Context, body []byte) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, outOfTime(ctx, l.name, "there was no time left")
	}
	c := newCall(body)
	l.mu.Lock()
	l.queue = append(l.queue, c)
	l.mu.Unlock()
	return l.converse(ctx, c)
}

// tryCall is call, unless another call is under way: then it reports false.
func (l *link) tryCall(ctx context.Context, body []byte) (bool, error) {
	c := newCall(body)
	l.mu.Lock()
	busy := l.sent != nil || len(l.queue) > 0
	if !busy {
		l.queue = append(l.queue, c)
	}
	l.mu.Unlock()
	if busy {
		return false, nil
	}
	_, err := l.converse(ctx, c)
	return true, err
}

func newCall(body []byte) *call {
	return &call{body: body, again: make(chan struct{}, 1), answer: make(chan answer, 1)}
}

// converse sees c, which stands in line, through.
func (l *link) converse(ctx context.Context, c *call) ([]byte, error) {
	for {
		if r := l.claimFor(c); r != nil {
			r.write(ctx)
		}
		l.readFor(ctx, c)
		select {
		case said := <-c.answer:
			return said.body, said.err
		case <-c.again:
		case <-ctx.Done():
			return nil, l.abandon(ctx, c)
		case <-l.gone:
			return nil, errEnded
		}
	}
}

// abandon takes c out of the line, or marks it, once sent, so that its answer is
// dropped when it comes.
func (l *link) abandon(ctx context.Context, c *call) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := slices.Index(l.queue, c)
	if at < 0 {
		c.abandoned = time.Now()
		return outOfTime(ctx, l.name, "no answer")
	}
	l.queue = slices.Delete(l.queue, at, at+1)
	if at > 0 || l.sent != nil {
		return outOfTime(ctx, l.name, "it waited for earlier calls")
	}
	if l.open && len(l.queue) > 0 {
		signal(l.queue[0].again)
	}
	return outOfTime(ctx, l.name, "the plugin did not ask for it")
}

func outOfTime(ctx context.Context, what, why string) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w: %s", what, plugin.ErrDeadline, why)
	}
	return fmt.Errorf("%s: %w: %s", what, context.Cause(ctx), why)
}

// await blocks until the plugin has connected and asked.
func (l *link) await(ctx context.Context) error {
	for {
		l.mu.Lock()
		ready, moved := l.conn != nil && l.heard, l.moved
		l.mu.Unlock()
		if ready {
			return nil
		}
		select {
		case <-moved:
		case <-l.gone:
			return l.endedEarly()
		case <-ctx.Done():
			return outOfTime(ctx, l.name, l.whyUnheard())
		}
	}
}

// endedEarly is errEnded, with what was wrong before it came to that.
func (l *link) endedEarly() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault == nil || l.fault == errNoGreeting {
		return errEnded
	}
	return fmt.Errorf("%w; it connected in vain: %w", errEnded, l.fault)
}

// whyUnheard says how far the plugin came towards its first request.
func (l *link) whyUnheard() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.conn == nil && l.fault == nil:
		return "the plugin did not connect"
	case l.conn == nil:
		return "the plugin connected in vain: " + l.fault.Error()
	}
	if size := l.conn.Skipping(); size > 0 {
		return "the plugin connected, but sends " + (&sp.TooLargeError{Size: size, Limit: l.conn.Limit()}).Error()
	}
	return "the plugin connected, but sent no whole request"
}

// lost blocks until the link has no connection; false when it is closed or ctx
// ended instead.
func (l *link) lost(ctx context.Context) bool {
	for {
		l.mu.Lock()
		conn, moved := l.conn, l.moved
		l.mu.Unlock()
		if conn == nil {
			return ctx.Err() == nil
		}
		select {
		case <-moved:
		case <-l.gone:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// health says what is wrong with the link, if anything: no connection, or a
// call whose caller left and that has no answer to this day.
func (l *link) health() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.conn == nil:
		return fmt.Errorf("%s: %w: not connected", l.name, plugin.ErrUnavailable)
	case l.sent != nil && !l.sent.abandoned.IsZero():
		return fmt.Errorf("%s: %w: an earlier call has no answer since it was given up %s ago",
			l.name, plugin.ErrUnavailable, time.Since(l.sent.abandoned).Round(time.Millisecond))
	}
	return nil
}

// close ends the connection and every call. It must be called once.
func (l *link) close() {
	close(l.gone)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mark = nil
	if l.conn != nil {
		l.conn.Close()
	}
}
