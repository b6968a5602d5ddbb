package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// requestMax bounds one request to JetStream: a sync takes milliseconds, a
	// new leader of a cluster a few seconds.
	requestMax = 5 * time.Second
	// connectMax bounds the first connection to an external server.
	connectMax = 5 * time.Second
	// reconnectWait is the pause between two attempts; short, since lost events
	// are kept in memory meanwhile.
	reconnectWait, reconnectJitter = 200 * time.Millisecond, 100 * time.Millisecond
	// flushMax bounds what Close spends on what is still queued.
	flushMax = 10 * time.Second
)

// Options say where the bus is and who uses it. The zero value of all but Dir or
// URL is good.
type Options struct {
	// Dir is the embedded server's folder: its store, its token, its lock.
	Dir string
	// Listen is the embedded server's TCP address, "127.0.0.1:0" for any free
	// port; empty: no listener.
	Listen string
	// URL of an external server (or several, by commas) instead of the embedded one.
	URL string
	// CredentialsFile or Token authenticate at the external server. With the
	// embedded one Token replaces the token made at the first start.
	CredentialsFile, Token string
	// Replicas of each stream at an external server; 0 means 1.
	Replicas int
	// Node names this daemon in event sources and connection names.
	Node string
	// NoInvocationEvents turns Invoked off.
	NoInvocationEvents bool
	// Log may be nil.
	Log *slog.Logger

	patience    time.Duration // usualPatience when 0; tests of order want more
	logSubjects uint64        // logsSubjectsMax when 0
}

// Bus is one daemon's link to NATS. It is safe for concurrent use.
type Bus struct {
	o      Options
	server *embedded // nil with an external server
	conns  [4]*nats.Conn
	js     [4]jetstream.JetStream

	hub         hub
	events      eventQueue
	statuses    statusQueue
	invocations invocationRing
	atomicBatch atomic.Bool // the events stream takes atomic batches
	ages        atomic.Bool // the logs stream takes an age with each message
	retention   retention
	beginnings  map[string]*atomic.Uint64 // where each stream ended when it was opened
	readers     chan struct{}
	illness     chan struct{} // holds one token when the embedded server may be ill
	buffers     sync.Pool     // *[]byte: encoded log batches
	served      serviceCounters
	counters    counters

	ctx       context.Context // of the goroutines below; ends in Close
	cancel    context.CancelFunc
	stopping  chan struct{} // closed first: finish what is queued
	workers   sync.WaitGroup
	closeOnce sync.Once

	reconnects sync.Mutex
	onConnect  map[int]func()
	nextHook   int
}

// role is what a connection is for: one shared by all would let a log storm
// delay the exit of a plugin.
type role int

const (
	control role = iota // streams, KV, statuses
	eventing
	logging
	data // data streams, invocations
)

func (r role) String() string { return [...]string{"control", "events", "logs", "data"}[r] }

// Open starts the embedded server, or connects to the external one, and makes
// sure that the streams are there. The publishers run until Close, or until the
// ctx given to Run ends. On error nothing is left running.
func Open(ctx context.Context, o Options) (*Bus, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Node == "" {
		o.Node = "local"
	}
	if o.patience == 0 {
		o.patience = usualPatience
	}
	if o.logSubjects == 0 {
		o.logSubjects = logsSubjectsMax
	}
	if o.URL == "" && o.Dir == "" {
		return nil, fmt.Errorf("bus: %w: neither a folder nor the URL of a server", plugin.ErrInvalid)
	}
	b := &Bus{
		o: o, stopping: make(chan struct{}), onConnect: map[int]func(){},
		beginnings: map[string]*atomic.Uint64{streamStatus: {}, streamEvents: {}, streamLogs: {}},
		readers:    make(chan struct{}, readersMax), illness: make(chan struct{}, 1),
	}
	b.events.init()
	b.statuses.init()
	b.invocations.init()
	b.retention.init()
	// The publishers end by Close, not with the ctx of the start.
	b.ctx, b.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := b.open(ctx); err != nil {
		b.cancel()
		b.disconnect()
		return nil, err
	}
	b.workers.Go(b.publishEvents)      // ends with stopping
	b.workers.Go(b.publishStatuses)    // ends with stopping
	b.workers.Go(b.publishInvocations) // ends with stopping
	if b.server != nil {
		b.workers.Go(b.nurse) // ends with stopping
	}
	b.workers.Go(b.retain) // ends with stopping
	return b, nil
}

func (b *Bus) open(ctx context.Context) error {
	if b.o.URL == "" {
		s, err := startServer(ctx, b.o, b.ill)
		if err != nil {
			return err
		}
		b.server = s
	}
	for r := control; r <= data; r++ {
		if err := b.connect(r); err != nil {
			return err
		}
	}
	return b.ensureStreams(ctx)
}

// Run blocks until ctx ends, then closes the bus.
func (b *Bus) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
	case <-b.ctx.Done(): // closed by someone else
	}
	b.Close()
	return nil
}

// Close publishes what is queued, for at most two seconds, and ends the
// connections and the embedded server. What is called later is dropped. Closing
// twice is harmless.
func (b *Bus) Close() {
	b.closeOnce.Do(func() {
		close(b.stopping)
		late := time.AfterFunc(flushMax, b.cancel)
		b.workers.Wait()
		late.Stop()
		b.cancel()
		b.hub.close()
		b.disconnect()
	})
}

func (b *Bus) disconnect() {
	for _, nc := range b.conns {
		if nc == nil {
			continue
		}
		if nc.IsConnected() {
			_ = nc.FlushTimeout(flushMax / 4) // data streams have no acknowledgement
		}
		nc.Close()
	}
	if b.server != nil {
		b.server.shutdown()
	}
}

// Addr is the URL of the embedded server's listener, or of the external server;
// empty when there is no listener.
func (b *Bus) Addr() string {
	switch {
	case b.server == nil:
		return redacted(b.o.URL)
	case b.o.Listen == "":
		return ""
	}
	return b.server.url
}

// redacted takes the passwords out of a list of URLs.
func redacted(urls string) string {
	all := strings.Split(urls, ",")
	for i, one := range all {
		if u, err := url.Parse(strings.TrimSpace(one)); err == nil && u.User != nil {
			u.User = nil
			all[i] = u.String()
		}
	}
	return strings.Join(all, ",")
}

// Token is what clients of Addr must present; empty with an external server,
// whose credentials are its operator's to give.
func (b *Bus) Token() string {
	if b.server == nil {
		return ""
	}
	return b.server.token
}

// JetStream is the control connection's, for core/store.
func (b *Bus) JetStream() jetstream.JetStream { return b.js[control] }

// Log is where the bus and what lives on it write; never nil.
func (b *Bus) Log() *slog.Logger { return b.o.Log }

// Embedded reports whether the server is inside this process.
func (b *Bus) Embedded() bool { return b.server != nil }

// Connected reports whether every connection is up now.
func (b *Bus) Connected() bool {
	for _, nc := range b.conns {
		if !nc.IsConnected() {
			return false
		}
	}
	return true
}

// OnReconnect calls f, in a goroutine of its own, whenever the control
// connection is up again, until the returned function is called.
func (b *Bus) OnReconnect(f func()) (stop func()) {
	b.reconnects.Lock()
	defer b.reconnects.Unlock()
	b.nextHook++
	id := b.nextHook
	b.onConnect[id] = f
	return func() {
		b.reconnects.Lock()
		defer b.reconnects.Unlock()
		delete(b.onConnect, id)
	}
}

func (b *Bus) connect(r role) error {
	opts := []nats.Option{
		nats.Name("patchbay-" + b.o.Node + "-" + r.String()),
		nats.MaxReconnects(-1), nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectJitter, reconnectJitter),
		// Nothing is buffered while the link is down: each path has a queue
		// of its own, and knows what was lost.
		nats.ReconnectBufSize(-1),
		nats.Timeout(connectMax), nats.DisconnectErrHandler(b.lost(r)),
		nats.ReconnectHandler(b.regained(r)), nats.ErrorHandler(b.complained(r)),
	}
	url := b.o.URL
	switch {
	case b.server != nil:
		opts = append(opts, nats.InProcessServer(b.server), nats.Token(b.server.own))
		url = ""
	case b.o.CredentialsFile != "":
		opts = append(opts, nats.UserCredentials(b.o.CredentialsFile))
	case b.o.Token != "":
		opts = append(opts, nats.Token(b.o.Token))
	}
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		return fmt.Errorf("bus: %w: connect: %w", plugin.ErrUnavailable, err)
	}
	b.conns[r] = nc
	b.js[r], err = jetstream.New(nc, jetstream.WithDefaultTimeout(requestMax), jetstream.WithPublishAsyncMaxPending(asyncPendingMax))
	return err
}

func (b *Bus) lost(r role) nats.ConnErrHandler {
	return func(_ *nats.Conn, err error) {
		if b.ctx.Err() == nil && err != nil {
			b.o.Log.Warn("bus is down; what happens meanwhile is kept", "connection", r.String(), "why", err)
		}
	}
}

func (b *Bus) regained(r role) nats.ConnHandler {
	return func(*nats.Conn) {
		b.o.Log.Info("bus is up again", "connection", r.String())
		b.events.poke()
		if r != control {
			return
		}
		b.statuses.republish()
		b.reconnects.Lock()
		defer b.reconnects.Unlock()
		for _, f := range b.onConnect {
			go f() // ends by itself: hooks only signal
		}
	}
}

func (b *Bus) complained(r role) nats.ErrHandler {
	return func(_ *nats.Conn, sub *nats.Subscription, err error) {
		subject := ""
		if sub != nil {
			subject = sub.Subject
		}
		if errors.Is(err, nats.ErrSlowConsumer) {
			b.o.Log.Debug("a subscriber is too slow", "subject", subject)
			return
		}
		b.o.Log.Warn("bus error", "connection", r.String(), "subject", subject, "why", err)
	}
}

// counters are what Stats shows.
type counters struct {
	eventsPublished, eventsDropped           atomic.Uint64
	invocationsDropped, logBatches, logLines atomic.Uint64
}

// Stats is what the bus has done since it was opened.
type Stats struct {
	EventsPublished    uint64        // stored in the stream
	EventsPending      int           // waiting to be stored
	EventsDropped      uint64        // lost because too many were waiting
	EventLag           time.Duration // age of the oldest that waits
	InvocationsDropped uint64        // records lost to a full ring
	LogBatches         uint64
	LogLines           uint64
	Followers          int // live readers of events
}

// Stats is cheap enough for every scrape.
func (b *Bus) Stats() Stats {
	return Stats{
		EventsPublished: b.counters.eventsPublished.Load(), EventsPending: b.events.len(), EventLag: b.events.lag(time.Now()),
		EventsDropped: b.counters.eventsDropped.Load(), InvocationsDropped: b.counters.invocationsDropped.Load(),
		LogBatches: b.counters.logBatches.Load(), LogLines: b.counters.logLines.Load(), Followers: b.hub.len(),
	}
}

// unavailable gives an error of NATS the class that callers understand.
func unavailable(what string, err error) error {
	class := plugin.ErrUnavailable
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		class = plugin.ErrInvalid
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return fmt.Errorf("%s: %w: the bus did not answer in time: %w", what, plugin.ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w: %w", what, class, err)
}
