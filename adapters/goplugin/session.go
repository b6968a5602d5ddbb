package goplugin

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/describe"
	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/gobwire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// idleMax is how many dispensed streams are kept for the next calls: the
	// default of spec.limits.inFlight. One costs about 10 KiB at each side.
	idleMax = 64
	// writeTimeout is how long the plugin may leave the socket full before the
	// session counts as broken; yamux's default.
	writeTimeout = 10 * time.Second
)

var (
	errClosed = errors.New("the connection is closed")
	errUnsent = errors.New("not sent")
)

// A session is one connection: control stream, two output streams, and the
// dispensed streams, of which each carries one call at a time. So an error that
// kills a stream, as gob's do, fails one call; and a call needs no goroutine.
type session struct {
	d       *dialer
	mux     *yamux.Session
	control *control
	drained chan struct{}  // closed when both output streams have ended
	all     sync.WaitGroup // control, output, refuse

	mu   sync.Mutex
	idle []*stream
}

func openSession(ctx context.Context, d *dialer) (*session, error) {
	conn, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	if d.connected {
		d.endCopiers(conn)
	}
	if conn, err = secured(ctx, d, conn); err != nil {
		return nil, err
	}
	d.connected = true
	settings := yamux.DefaultConfig()
	settings.LogOutput = io.Discard
	settings.ConnectionWriteTimeout = writeTimeout
	mux, err := yamux.Client(&joiner{Conn: conn}, settings)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("session: %w", err)
	}
	s := &session{d: d, mux: mux, drained: make(chan struct{})}
	if err := s.open(); err != nil {
		s.close()
		return nil, fmt.Errorf("session: %w", err)
	}
	return s, nil
}

func secured(ctx context.Context, d *dialer, conn net.Conn) (net.Conn, error) {
	config, err := d.config()
	if err != nil || config == nil {
		return conn, err
	}
	client := tls.Client(conn, config)
	if err := client.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, startFailed("tls", err)
	}
	return client, nil
}

// open opens the three streams in the order that the plugin expects, and drains
// its output: a plugin whose output nobody reads stops after some 600 kB.
func (s *session) open() error {
	var first [3]net.Conn
	for i := range first {
		var err error
		if first[i], err = s.mux.Open(); err != nil {
			close(s.drained)
			return err
		}
	}
	s.control = &control{
		stream: s.stream(first[0]), turns: make(chan *turn),
		closed: s.mux.CloseChan(), fail: func() { _ = s.mux.Close() },
	}
	var output sync.WaitGroup
	for i, to := range []plugin.LogStream{plugin.Stdout, plugin.Stderr} {
		output.Go(func() { _, _ = io.Copy(s.d.causes.tee(s.d.launch.Output.Writer(to)), first[i+1]) }) // ends with the session
	}
	s.all.Go(func() { output.Wait(); close(s.drained) })
	s.all.Go(s.control.run)
	s.all.Go(s.refuse)
	return nil
}

// refuse closes what the plugin opens: callbacks are not offered, and a stream
// that nobody accepts would fill the session's backlog and stop it.
func (s *session) refuse() {
	for {
		conn, err := s.mux.Accept()
		if err != nil {
			return
		}
		_ = conn.Close()
	}
}

// ready dispenses the first stream, which shows that the plugin has the name.
func (s *session) ready(ctx context.Context) error {
	st, err := s.dispense(ctx)
	if err == nil {
		s.put(st)
	}
	return err
}

// call makes one call on a stream of its own. An error that wraps errUnsent
// means that the plugin has not seen it.
func (s *session) call(ctx context.Context, o *describe.Operation, argument []byte, take taker) ([]byte, error) {
	st, err := take(s, ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnsent, err)
	}
	answer, err := st.call(ctx, &query{o.Remote, o.Args, o.Needs, o.Reply, o.ErrorField, argument})
	if st.broken && ctx.Err() != nil {
		s.d.causes.givenUp()
	}
	s.put(st)
	return answer, err
}

// A taker gets a stream for one call.
type taker func(*session, context.Context) (*stream, error)

// take returns an idle stream, or dispenses one.
func (s *session) take(ctx context.Context) (*stream, error) {
	s.mu.Lock()
	if n := len(s.idle); n > 0 {
		st := s.idle[n-1] // the last used: its types are known, its memory is warm
		s.idle = s.idle[:n-1]
		s.mu.Unlock()
		return st, nil
	}
	s.mu.Unlock()
	return s.fresh(ctx)
}

// fresh dispenses a stream.
func (s *session) fresh(ctx context.Context) (*stream, error) {
	st, err := s.dispense(ctx)
	var no *plugin.Refusal
	if errors.As(err, &no) { // not the call's own no
		return nil, fmt.Errorf("dispense: %s", no.Message)
	}
	return st, err
}

// put keeps a stream for the next call, unless it is broken.
func (s *session) put(st *stream) {
	s.mu.Lock()
	keep := !st.broken && len(s.idle) < idleMax
	if keep {
		s.idle = append(s.idle, st)
	}
	s.mu.Unlock()
	if !keep {
		// Beside the caller, because saying goodbye waits for room in the socket;
		// ends at the latest with the write timeout.
		go func() { _ = st.conn.Close() }()
	}
}

// dispense asks the control stream for a new object and opens the stream to it:
// its number in four bytes, little end first, there and back.
func (s *session) dispense(ctx context.Context) (*stream, error) {
	name, err := json.Marshal(s.d.Plugin)
	if err != nil {
		return nil, err
	}
	answer, err := s.control.call(ctx, "Dispenser.Dispense", s.d.described.Table.Text(), name)
	if err != nil {
		return nil, err
	}
	var id uint32
	if err := json.Unmarshal(answer, &id); err != nil {
		return nil, fmt.Errorf("dispense: the answer is no number")
	}
	conn, err := s.mux.Open()
	if err != nil {
		return nil, fmt.Errorf("dispense: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) })
	err = shakeHands(conn, id)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("dispense: %w", err)
	}
	return s.stream(conn), nil
}

func shakeHands(conn net.Conn, id uint32) error {
	var mine, theirs [4]byte
	binary.LittleEndian.PutUint32(mine[:], id)
	if _, err := conn.Write(mine[:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, theirs[:]); err != nil {
		return err
	}
	if mine != theirs {
		return errors.New("the plugin answers with another number")
	}
	return nil
}

func (s *session) stream(conn net.Conn) *stream {
	// The bytes of the type definitions and of a field's number come on top.
	const slack = 64 << 10
	return &stream{conn: conn, r: gobwire.NewReader(conn, s.d.described.Table, s.d.payload+slack), w: gobwire.NewWriter(s.d.described.Table)}
}

// close breaks the connection; every call under way ends.
func (s *session) close() {
	_ = s.mux.Close()
	s.all.Wait()
}

// joiner sends yamux's header and the body that follows it in one piece: yamux
// writes them in two, which is a system call more per frame. yamux writes from
// one goroutine.
type joiner struct {
	net.Conn
	frame []byte
}

const (
	yamuxHeaderBytes = 12
	// joinMax is the largest body that is copied behind its header.
	joinMax = 16 << 10
)

func (j *joiner) Write(p []byte) (int, error) {
	if len(j.frame) == 0 {
		if len(p) == yamuxHeaderBytes && p[1] == 0 && binary.BigEndian.Uint32(p[8:]) > 0 { // data with a body
			j.frame = append(j.frame, p...)
			return len(p), nil
		}
		return j.Conn.Write(p)
	}
	head := j.frame
	j.frame = j.frame[:0]
	if len(p) <= joinMax {
		head = append(head, p...)
		j.frame = head[:0]
		_, err := j.Conn.Write(head)
		return len(p), err
	}
	if _, err := j.Conn.Write(head); err != nil {
		return 0, err
	}
	return j.Conn.Write(p)
}
