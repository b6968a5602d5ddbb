package dispatch_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/patchbay-dev/patchbay/core/dispatch"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/supervise"
)

// adapter's one instance does what the operation's name says.
type adapter struct {
	host  plugin.Host
	in    chan plugin.Invocation
	talks bool // operations take parts
}

func (a *adapter) Name() string                { return "fake" }
func (a *adapter) Check(plugin.Manifest) error { return nil }
func (a *adapter) Resident()                   {}
func (a *adapter) Launch(_ context.Context, l plugin.Launch) (plugin.Instance, error) {
	a.host = l.Host
	i := &instance{adapter: a, gone: make(chan struct{})}
	if a.talks {
		return talker{i}, nil
	}
	return i, nil
}

type instance struct {
	adapter *adapter
	gone    chan struct{}
}

func (i *instance) Wait() plugin.Exit          { <-i.gone; return plugin.Exit{} }
func (i *instance) Stop(context.Context) error { close(i.gone); return nil }

func (i *instance) Invoke(ctx context.Context, in plugin.Invocation) (plugin.Result, error) {
	switch in.Operation {
	case "seen":
		i.adapter.in <- in
		return plugin.Result{Data: in.Data}, nil
	case "refuse":
		return plugin.Result{}, &plugin.Refusal{Code: "no", Message: "not today"}
	case "hang":
		<-ctx.Done()
		return plugin.Result{}, ctx.Err()
	case "late":
		<-ctx.Done()
		return plugin.Result{}, fmt.Errorf("call: %w: %w", plugin.ErrUnavailable, ctx.Err())
	case "break":
		return plugin.Result{}, io.ErrUnexpectedEOF
	case "big":
		return plugin.Result{Data: make([]byte, 2000)}, nil
	case "cycle":
		return i.adapter.host.Invoke(ctx, in)
	}
	return plugin.Result{}, plugin.ErrNotFound
}

func (i *instance) InvokeStream(ctx context.Context, in plugin.Invocation, send func([]byte) error) error {
	for range 5 {
		<-time.After(800 * time.Millisecond) // synctest's clock
		if err := send([]byte("part")); err != nil {
			return err
		}
	}
	if in.Operation == "stall" {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

type noLog struct{}

func (noLog) File(plugin.LogStream) (*os.File, error) { return nil, errors.New("not a process") }
func (noLog) Writer(plugin.LogStream) io.Writer       { return io.Discard }
func (noLog) Tail(int) []plugin.LogLine               { return nil }
func (noLog) Stdout(int) ([]byte, bool)               { return nil, true }
func (noLog) Match(*regexp.Regexp) (func() bool, func()) {
	return func() bool { return false }, func() {}
}
func (noLog) Close() {}
func (noLog) Leave() {}

type one struct{ p *supervise.Pool }

func (o one) Lookup(name string) (*supervise.Pool, bool) { return o.p, name == "p" }

type world struct {
	*dispatch.Dispatch
	adapter *adapter
	records []plugin.InvocationRecord
	events  []plugin.Event
}

// start runs one plugin with an argument limit of 1000 bytes and a deadline of a
// second.
func start(t *testing.T) *world {
	t.Helper()
	return startAs(t, &adapter{in: make(chan plugin.Invocation, 1)})
}

func startAs(t *testing.T, a *adapter) *world {
	t.Helper()
	w := &world{adapter: a}
	var m plugin.Manifest
	if err := json.Unmarshal([]byte(`{"metadata":{"name":"p"},"spec":{"fake":{},"limits":{"payload":"1000"},"timeouts":{"invoke":"1s"}}}`), &m); err != nil {
		t.Fatal(err)
	}
	p := supervise.New(&supervise.Deps{
		Adapters:  map[string]plugin.Adapter{"fake": w.adapter},
		OpenLog:   func(string, string, string, int) supervise.Log { return noLog{} },
		Resolve:   func(map[string]plugin.EnvValue) (map[string]string, error) { return nil, nil },
		Changed:   func(plugin.StateChange) {},
		Refreshed: func(plugin.Status) {},
		Forget:    func(string, string) {},
		Host: func(name string) plugin.Host {
			return dispatch.Host{Plugin: name, Node: "n", Dispatch: w.Dispatch, Publish: func(e plugin.Event) { w.events = append(w.events, e) }}
		},
		Starts: make(chan struct{}, 1), Removals: make(chan struct{}, 1), Log: slog.New(slog.DiscardHandler),
	}, supervise.Want{Manifest: m.WithDefaults(), Generation: 1, Desired: plugin.DesiredRunning})
	w.Dispatch = dispatch.New(one{p}, func(r plugin.InvocationRecord) { w.records = append(w.records, r) })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { // ends with the cleanup
		defer close(done)
		p.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
	return w
}

func TestInvoke_outcomes(t *testing.T) {
	for _, tt := range []struct {
		plugin, operation string
		argument          int
		want              error
		text, outcome     string
	}{
		{"p", "seen", 10, nil, "", "ok"},
		{"p", "hang", 0, plugin.ErrDeadline, "", "deadline"},
		{"p", "late", 0, plugin.ErrDeadline, "", "deadline"},
		{"p", "break", 0, plugin.ErrUnavailable, "plugin p: break: unexpected EOF", "unavailable"},
		{"p", "big", 0, plugin.ErrInvalid, "spec.limits.payload allows 1000", "invalid"},
		{"p", "none", 0, plugin.ErrNotFound, "plugin p: none", "not-found"},
		{"p", "cycle", 0, plugin.ErrBusy, "16 deep", "busy"},
		{"p", "seen", 1001, plugin.ErrInvalid, "1001 bytes", ""},
		{"q", "seen", 0, plugin.ErrNotFound, `plugin "q"`, ""},
	} {
		t.Run(tt.plugin+" "+tt.operation, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t)
				_, err := w.Invoke(t.Context(), plugin.Invocation{Plugin: tt.plugin, Operation: tt.operation, Data: make([]byte, tt.argument), Caller: "rest"})
				if !errors.Is(err, tt.want) || (err != nil && !strings.Contains(err.Error(), tt.text)) {
					t.Errorf("got %v, want class %v with %q", err, tt.want, tt.text)
				}
				if tt.outcome == "" {
					if len(w.records) != 0 {
						t.Errorf("got records %+v, want none: nothing was invoked", w.records)
					}
					return
				}
				last := w.records[len(w.records)-1] // of a cycle, the outermost
				if last.Outcome != tt.outcome || last.Operation != tt.operation || last.Caller != "rest" || last.ID == "" {
					t.Errorf("got record %+v, want outcome %s", last, tt.outcome)
				}
			})
		})
	}
}

func TestInvoke_refusalKeepsItsWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		_, err := w.Invoke(t.Context(), plugin.Invocation{Plugin: "p", Operation: "refuse"})
		if r, ok := errors.AsType[*plugin.Refusal](err); !ok || r.Code != "no" || r.Message != "not today" {
			t.Errorf("got %v", err)
		}
		if w.records[0].Outcome != "refused" {
			t.Errorf("got outcome %s", w.records[0].Outcome)
		}
	})
}

func TestInvoke_callersDeadlineWinsWhenItIsEarlier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		if _, err := w.Invoke(ctx, plugin.Invocation{Plugin: "p", Operation: "hang"}); !errors.Is(err, plugin.ErrDeadline) || time.Since(began) != 100*time.Millisecond {
			t.Errorf("got %v after %s", err, time.Since(began))
		}
	})
}

// TestInvoke_tellsWhoseDeadlineItIs: the test's manifest gives a second.
func TestInvoke_tellsWhoseDeadlineItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		for callers, want := range map[time.Duration]bool{0: true, 100 * time.Millisecond: false, time.Minute: false} {
			ctx, cancel := t.Context(), func() {}
			if callers > 0 {
				ctx, cancel = context.WithTimeout(ctx, callers)
			}
			_, err := w.Invoke(ctx, plugin.Invocation{Plugin: "p", Operation: "seen"})
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			if got := (<-w.adapter.in).HouseDeadline; got != want {
				t.Errorf("caller's time %s: got house deadline %t, want %t", callers, got, want)
			}
		}
	})
}

func TestInvokeStream_boundsTheWaitNotTheWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		parts := 0
		count := func([]byte) error { parts++; return nil }
		if err := w.InvokeStream(t.Context(), plugin.Invocation{Plugin: "p", Operation: "count"}, count); err != nil || parts != 5 {
			t.Errorf("five parts in four seconds: got %d, %v", parts, err)
		}
		if err := w.InvokeStream(t.Context(), plugin.Invocation{Plugin: "p", Operation: "stall"}, count); !errors.Is(err, plugin.ErrDeadline) || parts != 10 {
			t.Errorf("a stream that stalls: got %d parts, %v; want deadline", parts, err)
		}
		full := errors.New("the reader left")
		if err := w.InvokeStream(t.Context(), plugin.Invocation{Plugin: "p", Operation: "count"}, func([]byte) error { return full }); !errors.Is(err, full) {
			t.Errorf("a reader that left: got %v", err)
		}
	})
}

func TestHost_emit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		host := w.adapter.host
		if err := host.Emit(t.Context(), plugin.Event{Type: "com.example.done", Data: plugin.RawJSON(`{"a":1}`), Plugin: "somebody else"}); err != nil {
			t.Fatal(err)
		}
		if e := w.events[0]; e.Plugin != "p" || e.Source != "/patchbay/n/plugins/p" || e.ID == "" || string(e.Data) != `{"a":1}` {
			t.Errorf("got %+v, want an event of p", e)
		}
		for _, bad := range []plugin.Event{
			{Type: ""}, {Type: "a b"}, {Type: plugin.EventState}, {Type: strings.Repeat("x", 200)}, {Type: "ok", Data: plugin.RawJSON(`{`)},
			{Type: "ok", Data: plugin.RawJSON(`"` + strings.Repeat("x", plugin.EventDataBytesMax) + `"`)},
		} {
			if err := host.Emit(t.Context(), bad); !errors.Is(err, plugin.ErrInvalid) {
				t.Errorf("emit %.20q with %d bytes: got %v, want invalid", bad.Type, len(bad.Data), err)
			}
		}
		if err := host.Permit(t.Context(), plugin.Ask{Verb: "read", Object: "x"}); !errors.Is(err, plugin.ErrDenied) {
			t.Errorf("permit: got %v, want denied", err)
		}
	})
}
