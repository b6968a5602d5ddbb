package bus

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// invocationsInFlightMax bounds the goroutines of the bus's door; more are
	// answered busy. Each plugin's own limit is dispatch's.
	invocationsInFlightMax = 1024
	// queueGroup is the micro protocol's usual one: of several daemons one answers.
	queueGroup = "q"
	// drainMax is how long invocations under way may take once Serve shall end.
	drainMax                     = 5 * time.Second
	errorHeader, errorCodeHeader = "Nats-Service-Error", "Nats-Service-Error-Code"
	contentTypeHeader            = "Content-Type"
)

// ServiceInfo is a plugin as the micro protocol shows it.
type ServiceInfo struct {
	Name        string
	ID          string // of the instance; Name when empty
	Version     string // semantic; "0.0.0" when empty
	Description string
	Metadata    map[string]string
	Started     time.Time
	// Operations are the endpoints; empty when they are not known.
	Operations []plugin.Operation
}

// Services is what the bus asks about plugins, and where invocations go.
type Services interface {
	// Plugins lists those that can be invoked, sorted by name.
	Plugins() []ServiceInfo
	// Plugin is one of them, with its operations where they can be known; it may
	// take a moment.
	Plugin(name string) (ServiceInfo, bool)
	Invoker
}

// Invoker is dispatch.
type Invoker interface {
	Invoke(ctx context.Context, in plugin.Invocation) (plugin.Result, error)
	InvokeStream(ctx context.Context, in plugin.Invocation, send func(part []byte) error) error
}

// Serve answers discovery ($SRV.PING, INFO and STATS, for all, by name, and by
// name and id) and invocations (patchbay.v1.invoke.<plugin>.<operation>) until
// ctx ends; then what is under way has five seconds to finish. Two wildcard
// subscriptions serve all plugins.
//
// An invocation's payload is the argument and the reply's the result, both with
// a Content-Type header. Other headers become metadata. An error is told by the
// headers Nats-Service-Error and Nats-Service-Error-Code, which are those of
// REST; the payload of a refusal is the plugin.Refusal. Who sends
// Patchbay-Want-Metadata, keys or *, gets headers Patchbay-Meta-KEY of what the plugin
// says beside its answer.
//
// A request with the header Patchbay-Stream goes in parts. With "answer" or "both" each
// part of the answer is a message to the request's reply subject, numbered by
// Patchbay-Sequence; an empty one with Patchbay-Stream: end, or an error, is the last.
// With "argument" or "both" a message with Patchbay-Stream: open comes first: its
// reply subject takes the argument, a part per message and Patchbay-Stream: end behind
// the last. Each part that has a reply subject is answered, with nothing, when the
// plugin takes it; more than 16 that wait are too many. An argument in the request
// itself is the first part.
//
// Parts of an answer have that reply subject, too. With Patchbay-Window: N, 1 to 1024,
// only N may be without acknowledgement, an empty message there; without it a
// caller that does not keep up loses parts, as NATS has it, and sees it by the numbers.
// Patchbay-Stream: cancel ends the invocation, and so does it that the caller's
// subscription is gone.
func (b *Bus) Serve(ctx context.Context, s Services) error {
	d := door{bus: b, services: s, nc: b.conns[data], places: make(chan struct{}, invocationsInFlightMax)}
	d.ctx, d.cancel = context.WithCancel(context.WithoutCancel(ctx)) // ends in finish
	defer d.cancel()
	invoked, err := d.nc.QueueSubscribe(invokeAll(), queueGroup, d.invoke)
	if err != nil {
		return unavailable("serve", err)
	}
	asked, err := d.nc.Subscribe(serviceAll(), d.discover)
	if err != nil {
		_ = invoked.Unsubscribe()
		return unavailable("serve", err)
	}
	_ = d.nc.FlushTimeout(requestMax) // when it fails the link is down, and subscribes again by itself
	select {
	case <-ctx.Done():
	case <-b.stopping:
	}
	d.finish(invoked, asked)
	return nil
}

// door is one call of Serve.
type door struct {
	bus      *Bus
	services Services
	nc       *nats.Conn
	places   chan struct{}
	ctx      context.Context
	cancel   context.CancelFunc
}

// finish takes nothing new, and waits for what has arrived; what takes too long
// is cancelled.
func (d *door) finish(subs ...*nats.Subscription) {
	late := time.AfterFunc(drainMax, d.cancel)
	defer late.Stop()
	for _, sub := range subs {
		drained := make(chan struct{})
		sub.SetClosedHandler(func(string) { close(drained) })
		if sub.Drain() != nil { // the link is down: nothing arrives
			continue
		}
		select {
		case <-drained:
		case <-d.ctx.Done():
		}
	}
	for range cap(d.places) {
		d.places <- struct{}{}
	}
}

func (d *door) invoke(m *nats.Msg) {
	select {
	case d.places <- struct{}{}:
	default:
		d.refuse(m, plugin.ErrBusy, nil, nats.Header{})
		return
	}
	go func() { // ends with the invocation; Serve waits
		defer func() { <-d.places }()
		d.invokeNow(m)
	}()
}

func (d *door) invokeNow(m *nats.Msg) {
	in, ok := invocation(m)
	if !ok {
		d.refuse(m, plugin.ErrNotFound, nil, nats.Header{})
		return
	}
	began := time.Now()
	told := toldOf(m)
	if told != nil {
		in.Told = told.take
	}
	last := nats.Header{}
	var err error
	if kind := m.Header.Get(streamHeader); kind != "" {
		last[streamHeader] = []string{streamEnd}
		err = d.talk(m, in, told)
	} else {
		err = d.whole(m, in, told)
	}
	if !errors.Is(err, plugin.ErrNotFound) {
		d.bus.served.add(in.Plugin, in.Operation, time.Since(began), err)
	}
	if err == nil {
		return
	}
	var no *plugin.Refusal
	var body []byte
	if errors.As(err, &no) {
		body, _ = json.Marshal(no) // details are JSON already; else the header tells
	}
	told.into(last)
	d.refuse(m, err, body, last)
}

// whole invokes with one answer.
func (d *door) whole(m *nats.Msg, in plugin.Invocation, told *told) error {
	result, err := d.services.Invoke(d.ctx, in)
	if err != nil {
		return err
	}
	h := nats.Header{}
	told.into(h)
	return d.answer(m, result, h)
}

// invocation reads a request: what its subject and headers say.
func invocation(m *nats.Msg) (plugin.Invocation, bool) {
	name, operation, ok := strings.Cut(strings.TrimPrefix(m.Subject, invokePrefix), ".")
	if !ok {
		return plugin.Invocation{}, false
	}
	in := plugin.Invocation{
		ID: nuid.Next(), Plugin: untoken(name), Operation: untoken(operation), Data: m.Data, Caller: "bus",
	}
	for key, values := range m.Header {
		switch lower := strings.ToLower(key); {
		case len(values) == 0 || strings.HasPrefix(lower, "nats-"), strings.HasPrefix(lower, ownPrefix):
		case lower == "content-type":
			in.ContentType = values[0]
		default:
			if in.Metadata == nil {
				in.Metadata = map[string]string{}
			}
			in.Metadata[lower] = values[0]
		}
	}
	return in, true
}

// answer sends a result with the headers h.
func (d *door) answer(m *nats.Msg, r plugin.Result, h nats.Header) error {
	if m.Reply == "" {
		return nil // a publish: nobody waits
	}
	kind := r.ContentType
	if kind == "" {
		kind = jsonType
	}
	if len(r.Data) > 0 || h.Get(streamHeader) == "" {
		h[contentTypeHeader] = []string{kind}
	}
	err := m.RespondMsg(&nats.Msg{Data: r.Data, Header: h})
	if err != nil {
		return unavailable("result of "+strconv.Itoa(len(r.Data))+" bytes", err)
	}
	return nil
}

// refuse tells an error, with the headers h.
func (d *door) refuse(m *nats.Msg, why error, body []byte, h nats.Header) {
	if m.Reply == "" {
		return
	}
	text := strings.ToValidUTF8(strings.NewReplacer("\r", " ", "\n", " ").Replace(why.Error()), "?")
	h[errorHeader], h[errorCodeHeader] = []string{text}, []string{strconv.Itoa(code(why))}
	if body != nil {
		h[contentTypeHeader] = []string{jsonType}
	}
	if err := m.RespondMsg(&nats.Msg{Data: body, Header: h}); err != nil {
		d.bus.o.Log.Debug("an answer was lost", "subject", m.Subject, "why", err)
	}
}

// code is REST's status for an error.
func code(err error) int {
	var no *plugin.Refusal
	if errors.As(err, &no) {
		return no.HTTP()
	}
	for _, c := range []struct {
		class error
		code  int
	}{
		{plugin.ErrInvalid, 400}, {plugin.ErrDenied, 403}, {plugin.ErrNotFound, 404}, {plugin.ErrConflict, 409},
		{plugin.ErrBusy, 429}, {plugin.ErrDeadline, 504}, {context.DeadlineExceeded, 504}, {plugin.ErrUnavailable, 503},
	} {
		if errors.Is(err, c.class) {
			return c.code
		}
	}
	return 500
}

// servedMax bounds the counters: as many operations as 10,000 plugins with six.
const servedMax = 65536

// serviceCounters count what came through the bus's door, per plugin and operation.
type serviceCounters struct {
	mu    sync.Mutex
	all   map[string]map[string]*served
	count int
}

type served struct {
	requests, errors int
	last             string
	took             time.Duration
}

func (c *serviceCounters) add(name, operation string, took time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.all[name][operation]
	if one == nil {
		if c.count >= servedMax {
			return
		}
		if c.all == nil {
			c.all = map[string]map[string]*served{}
		}
		if c.all[name] == nil {
			c.all[name] = map[string]*served{}
		}
		one = &served{}
		c.all[name][operation] = one
		c.count++
	}
	one.requests++
	one.took += took
	if err != nil {
		one.errors++
		one.last = err.Error()
	}
}

// of returns an operation's counts; with "" those of the whole plugin.
func (c *serviceCounters) of(name, operation string) (sum served) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for o, one := range c.all[name] {
		if operation == "" || o == operation {
			sum.requests += one.requests
			sum.errors += one.errors
			sum.took += one.took
			if one.last != "" {
				sum.last = one.last
			}
		}
	}
	return sum
}
