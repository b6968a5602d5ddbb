package supervise_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/supervise"
)

// adapter launches instances whose every move the test decides.
type adapter struct {
	launch  func(ctx context.Context, l plugin.Launch, i *instance) error
	both    atomic.Bool // two instances at the same time do no harm
	down    atomic.Pointer[error]
	mu      sync.Mutex
	all     []*instance
	running atomic.Int32
	most    atomic.Int32 // instances that ever ran at the same time
}

func (a *adapter) Name() string                { return "fake" }
func (a *adapter) Check(plugin.Manifest) error { return nil }

func (a *adapter) Overlap(plugin.Manifest) error {
	if !a.both.Load() {
		return errors.New("two would fight")
	}
	return nil
}

func (a *adapter) Available(context.Context) error {
	if err := a.down.Load(); err != nil {
		return *err
	}
	return nil
}

func (a *adapter) Launch(ctx context.Context, l plugin.Launch) (plugin.Instance, error) {
	i := &instance{adapter: a, launch: l, gone: make(chan struct{}), invoked: make(chan struct{}, 100), answer: make(chan struct{})}
	if a.launch != nil {
		if err := a.launch(ctx, l, i); err != nil {
			return nil, err
		}
	}
	now := a.running.Add(1)
	for most := a.most.Load(); now > most && !a.most.CompareAndSwap(most, now); most = a.most.Load() {
	}
	a.mu.Lock()
	a.all = append(a.all, i)
	a.mu.Unlock()
	return i, nil
}

func (a *adapter) last(t *testing.T) *instance {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.all) == 0 {
		t.Fatal("nothing was launched")
	}
	return a.all[len(a.all)-1]
}

type instance struct {
	adapter  *adapter
	launch   plugin.Launch
	once     sync.Once
	gone     chan struct{}
	exit     plugin.Exit
	invoked  chan struct{} // told when "slow" is in the plugin
	answer   chan struct{} // closed to let "slow" answer
	probeErr atomic.Pointer[error]
	stream   func(ctx context.Context, pipe plugin.Pipe) error
	stopped  func(ctx context.Context)
	stopErr  func() error // not nil: it goes on, and Stop fails
	probe    func(ctx context.Context) error
	calls    time.Duration // how long "echo" takes
}

func (i *instance) end(e plugin.Exit) {
	i.once.Do(func() {
		i.exit = e
		i.adapter.running.Add(-1)
		close(i.gone)
	})
}

func (i *instance) Invoke(ctx context.Context, in plugin.Invocation) (plugin.Result, error) {
	switch in.Operation {
	case "echo":
		if i.calls > 0 {
			<-time.After(i.calls) // synctest's clock
		}
		if closed(i.gone) {
			return plugin.Result{}, errors.New("the link broke")
		}
		return plugin.Result{Data: in.Data}, nil
	case "panic":
		panic("index out of range")
	case "slow":
		i.invoked <- struct{}{}
		select {
		case <-i.answer:
			return plugin.Result{Data: []byte(`"late"`)}, nil
		case <-i.gone:
			return plugin.Result{}, errors.New("the link broke")
		case <-ctx.Done():
			return plugin.Result{}, ctx.Err()
		}
	}
	return plugin.Result{}, plugin.ErrNotFound
}

func (i *instance) Wait() plugin.Exit { <-i.gone; return i.exit }

func (i *instance) Stop(ctx context.Context) error {
	if i.stopped != nil {
		i.stopped(ctx)
	}
	if i.stopErr != nil {
		if err := i.stopErr(); err != nil {
			return err
		}
	}
	i.end(plugin.Exit{Code: 0})
	return nil
}

func (i *instance) Probe(ctx context.Context) error {
	if i.probe != nil {
		return i.probe(ctx)
	}
	if err := i.probeErr.Load(); err != nil {
		return *err
	}
	return nil
}

func (i *instance) Inspect() map[string]string { return map[string]string{"pid": "42"} }

func (i *instance) Stream(ctx context.Context, _ plugin.Stream, pipe plugin.Pipe) error {
	return i.stream(ctx, pipe)
}

// memoryLog keeps what is printed.
type memoryLog struct {
	mu     sync.Mutex
	lines  []plugin.LogLine
	stdout []byte
}

func (l *memoryLog) File(plugin.LogStream) (*os.File, error) { return nil, errors.New("not a process") }
func (l *memoryLog) Writer(plugin.LogStream) io.Writer       { return l }
func (l *memoryLog) Close()                                  {}
func (l *memoryLog) Leave()                                  {}

func (l *memoryLog) Write(data []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, plugin.LogLine{Message: string(data)})
	l.stdout = append(l.stdout, data...)
	return len(data), nil
}

func (l *memoryLog) Tail(n int) []plugin.LogLine {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines[max(0, len(l.lines)-n):]
}

func (l *memoryLog) Stdout(most int) ([]byte, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stdout[:min(most, len(l.stdout))], len(l.stdout) <= most
}

func (l *memoryLog) Match(pattern *regexp.Regexp) (seen func() bool, stop func()) {
	return func() bool {
		return slices.ContainsFunc(l.Tail(1000), func(line plugin.LogLine) bool { return pattern.MatchString(line.Message) })
	}, func() {}
}

type pipe struct{ messages atomic.Uint64 }

func (p *pipe) Publish([]byte) error                     { p.messages.Add(1); return nil }
func (p *pipe) Next(ctx context.Context) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }
func (p *pipe) Counts() (messages, dropped uint64)       { return p.messages.Load(), 0 }
func (p *pipe) Close() error                             { return nil }

// world is one supervised plugin and what was told about it.
type world struct {
	t       *testing.T
	adapter *adapter
	plugin  *supervise.Pool
	want    supervise.Want
	changes chan plugin.StateChange
	asked   atomic.Pointer[string] // the subject of the last request on the bus
	starts  chan struct{}          // launches under way
	silent  atomic.Bool            // nobody answers there
	forgot  chan string            // instances
	reloads chan plugin.Reload     // those that are over
	told    sync.Map               // the newest status told, of either kind; key ""
	runDir  string
	end     context.CancelFunc
	done    chan struct{}
}

func newWorld(t *testing.T, spec string, launch func(context.Context, plugin.Launch, *instance) error) *world {
	t.Helper()
	return newWorldWithSecrets(t, spec, new(atomic.Pointer[error]), launch)
}

// newWorldWithSecrets is newWorld where resolving the environment fails while
// noSecret says why.
func newWorldWithSecrets(t *testing.T, spec string, noSecret *atomic.Pointer[error], launch func(context.Context, plugin.Launch, *instance) error) *world {
	t.Helper()
	w := &world{
		t: t, adapter: &adapter{launch: launch}, changes: make(chan plugin.StateChange, 1000), forgot: make(chan string, 1000),
		reloads: make(chan plugin.Reload, 100),
		runDir:  t.TempDir(), done: make(chan struct{}), starts: make(chan struct{}, 4),
	}
	w.want = supervise.Want{Manifest: manifest(t, spec), Generation: 1, Desired: plugin.DesiredRunning, Launch: "1"}
	deps := &supervise.Deps{
		Adapters: map[string]plugin.Adapter{"fake": w.adapter},
		OpenLog:  func(string, string, string, int) supervise.Log { return &memoryLog{} },
		Resolve: func(map[string]plugin.EnvValue) (map[string]string, error) {
			if err := noSecret.Load(); err != nil {
				return nil, *err
			}
			return nil, nil
		},
		Changed:   func(c plugin.StateChange) { w.told.Store("", c.Status); w.changes <- c },
		Refreshed: func(s plugin.Status) { w.told.Store("", s) },
		Reloaded:  func(_ string, r plugin.Reload) { w.reloads <- r },
		Forget:    func(_, instance string) { w.forgot <- instance },
		Host:      func(string) plugin.Host { return nil },
		Request:   w.request,
		OpenPipe:  func(plugin.Stream) (supervise.Pipe, error) { return &pipe{}, nil },
		RunDir:    w.runDir,
		Starts:    w.starts,
		Removals:  make(chan struct{}, 1),
		Log:       slog.New(slog.DiscardHandler),
	}
	w.plugin = supervise.New(deps, w.want)
	ctx, cancel := context.WithCancel(t.Context())
	w.end = cancel
	go func() { // ends with finish
		defer close(w.done)
		w.plugin.Run(ctx)
	}()
	return w
}

// request answers for the bus.
func (w *world) request(_ context.Context, subject string) error {
	w.asked.Store(&subject)
	if w.silent.Load() {
		return errors.New("no responders")
	}
	return nil
}

func manifest(t *testing.T, spec string) plugin.Manifest {
	t.Helper()
	var m plugin.Manifest
	if err := json.Unmarshal([]byte(`{"metadata":{"name":"p"},"spec":`+spec+`}`), &m); err != nil {
		t.Fatal(err)
	}
	return m.WithDefaults()
}

// see waits for the next change and checks where it leads.
func (w *world) see(want plugin.State) plugin.StateChange {
	w.t.Helper()
	select {
	case c := <-w.changes:
		if c.To != want {
			w.t.Fatalf("got %s -> %s (%s: %s), want a change to %s", c.From, c.To, c.Status.Reason, c.Status.Message, want)
		}
		return c
	case <-time.After(time.Hour): // of synctest's clock
		w.t.Fatalf("no change, want one to %s", want)
		panic("unreachable")
	}
}

// seeOneOf waits for the next change and checks that it leads to one of several.
func (w *world) seeOneOf(want ...plugin.State) plugin.State {
	w.t.Helper()
	c := <-w.changes
	if !slices.Contains(want, c.To) {
		w.t.Fatalf("got %s -> %s, want a change to one of %v", c.From, c.To, want)
	}
	return c.To
}

// finish ends the supervisor and checks that nothing is left.
func (w *world) finish() {
	w.t.Helper()
	w.end()
	<-w.done
	if got := w.plugin.Status().State; got != plugin.Stopped {
		w.t.Errorf("at the end: got state %s, want stopped", got)
	}
	if n := w.adapter.running.Load(); n != 0 {
		w.t.Errorf("%d instances are left", n)
	}
	if n := w.adapter.most.Load(); n > 1 && w.want.Manifest.Spec.Mode == plugin.Service && !w.adapter.both.Load() {
		w.t.Errorf("%d instances ran at the same time", n)
	}
	left, err := os.ReadDir(w.runDir)
	if err != nil || len(left) > 0 {
		w.t.Errorf("left in the run folder: %v %v", left, err)
	}
}

func (w *world) invoke(operation, data string) (string, error) {
	result, err := w.plugin.Invoke(w.t.Context(), plugin.Invocation{Plugin: "p", Operation: operation, Data: []byte(data)})
	return string(result.Data), err
}
