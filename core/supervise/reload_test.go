package supervise_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/supervise"
)

// newReloadable is a world whose instances may overlap, with the first one running.
func newReloadable(t *testing.T, spec string, launch func(context.Context, plugin.Launch, *instance) error) (w *world, first *instance) {
	t.Helper()
	w = newWorld(t, spec, launch)
	w.adapter.both.Store(true)
	w.see(plugin.Starting)
	w.see(plugin.Running)
	return w, w.adapter.last(t)
}

// reload wants another instance of the same manifest.
func (w *world) reload() {
	w.want.Reload++
	w.want.Launch += "+"
	w.plugin.Set(w.want)
}

// over waits for the end of a reload.
func (w *world) over(want plugin.ReloadOutcome) plugin.Reload {
	w.t.Helper()
	select {
	case r := <-w.reloads:
		if r.Outcome != want {
			w.t.Fatalf("got a reload that is %s (%s), want %s", r.Outcome, r.Message, want)
		}
		return r
	case <-time.After(time.Hour): // of synctest's clock
		w.t.Fatalf("no reload is over, want one that is %s", want)
		panic("unreachable")
	}
}

func TestReload_losesNoCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := newReloadable(t, `{"fake":{}}`, func(_ context.Context, _ plugin.Launch, i *instance) error {
			i.calls = time.Millisecond
			<-time.After(5 * time.Millisecond) // synctest's clock
			return nil
		})
		var callers sync.WaitGroup
		var calls, failed atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		for range 32 {
			callers.Go(func() { // ends with ctx
				for ctx.Err() == nil {
					calls.Add(1)
					if _, err := w.invoke("echo", `1`); err != nil {
						failed.Add(1)
						t.Error(err)
					}
				}
			})
		}
		for range 20 {
			w.reload()
			r := w.over(plugin.ReloadDone)
			if now := w.plugin.Status(); now.Instance != r.To || now.State != plugin.Running || now.LastReload.Outcome != plugin.ReloadDone {
				t.Errorf("after it: got %s %s, want %s running", now.Instance, now.State, r.To)
			}
			if n := w.adapter.running.Load(); n != 1 {
				t.Errorf("after it %d instances run", n)
			}
		}
		cancel()
		callers.Wait()
		if failed.Load() > 0 || calls.Load() < 3000 {
			t.Errorf("%d of %d calls failed", failed.Load(), calls.Load())
		}
		w.finish()
	})
}

func TestReload_drainsTheOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, first := newReloadable(t, `{"fake":{}}`, nil)
		answered := make(chan error)
		go func() { _, err := w.invoke("slow", ""); answered <- err }() // ends with the answer
		<-first.invoked
		w.reload()
		if c := w.see(plugin.Running); c.Cause != "reloaded" || c.Status.LastReload.Outcome != plugin.ReloadDraining {
			t.Errorf("got %s, %+v", c.Cause, c.Status.LastReload)
		}
		if _, err := w.invoke("echo", "1"); err != nil || w.adapter.last(t) == first {
			t.Errorf("a call meanwhile: %v", err)
		}
		if closed(first.gone) {
			t.Error("it was stopped with a call in flight")
		}
		close(first.answer)
		if err := <-answered; err != nil {
			t.Errorf("the call in flight: %v", err)
		}
		r := w.over(plugin.ReloadDone)
		if !closed(first.gone) || <-w.forgot != r.From {
			t.Error("the old one is not gone")
		}
		var names []string
		for _, s := range r.Steps {
			names = append(names, s.Name+" "+s.Outcome)
		}
		if got := strings.Join(names, ", "); got != "launch done, probe done, drain done, stop ended, clean done" {
			t.Errorf("steps: got %s", got)
		}
		w.finish()
	})
}

func TestReload_thatFailsLeavesTheOldOne(t *testing.T) {
	for name, tt := range map[string]struct {
		launch func(ctx context.Context, i *instance) error
		says   string
	}{
		"does not start": {func(context.Context, *instance) error { return fmt.Errorf("%w: no such file", plugin.ErrInvalid) }, "no such file"},
		"hangs": {func(ctx context.Context, _ *instance) error { <-ctx.Done(); return ctx.Err() },
			"did not become ready within 15s (spec.timeouts.start)"},
		"dies at its first probe": {func(_ context.Context, i *instance) error {
			i.probe = func(context.Context) error { i.end(plugin.Exit{Code: 7}); return errors.New("broken pipe") }
			return nil
		}, "exit code 7"},
		"is never well": {func(_ context.Context, i *instance) error {
			i.probe = func(context.Context) error { return errors.New("no disk") }
			return nil
		}, "no disk"},
		"panics": {func(context.Context, *instance) error { panic("index out of range") }, "panicked"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				launches := 0
				w, first := newReloadable(t, `{"fake":{}}`, func(ctx context.Context, _ plugin.Launch, i *instance) error {
					if launches++; launches == 2 {
						return tt.launch(ctx, i)
					}
					return nil
				})
				before := w.plugin.Status()
				w.want.Generation++
				w.reload()
				r := w.over(plugin.ReloadFailed)
				now := w.plugin.Status()
				if !strings.Contains(r.Message, tt.says) || now.Reason != "ReloadFailed" || !strings.Contains(now.Message, tt.says) {
					t.Errorf("got %q and %s: %q, want %q", r.Message, now.Reason, now.Message, tt.says)
				}
				if now.State != plugin.Running || now.Instance != before.Instance || now.Generation != 1 || closed(first.gone) {
					t.Errorf("the old one: got %s %s of generation %d", now.State, now.Instance, now.Generation)
				}
				if _, err := w.invoke("echo", "1"); err != nil {
					t.Errorf("a call: %v", err)
				}
				if n := w.adapter.running.Load(); n != 1 {
					t.Errorf("%d instances run", n)
				}
				w.reload() // what failed is tried again
				w.over(plugin.ReloadDone)
				w.finish()
			})
		})
	}
}

func TestReload_isCalledOff(t *testing.T) {
	for name, tt := range map[string]struct {
		by   func(w *world, first *instance)
		next []plugin.State
	}{
		"by a stop": {func(w *world, _ *instance) { w.want.Desired = plugin.DesiredStopped; w.plugin.Set(w.want) },
			[]plugin.State{plugin.Stopping, plugin.Stopped}},
		"by a restart": {func(w *world, _ *instance) { w.want.Restart++; w.want.Launch += "r"; w.plugin.Set(w.want) },
			[]plugin.State{plugin.Stopping, plugin.Stopped, plugin.Starting, plugin.Running}},
		"by the old one's death": {func(_ *world, first *instance) { first.end(plugin.Exit{Code: 1}) },
			[]plugin.State{plugin.Backoff, plugin.Starting, plugin.Running}},
		"by the next reload": {func(w *world, _ *instance) { w.reload() }, []plugin.State{plugin.Running}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				launches, second := 0, make(chan struct{})
				w, first := newReloadable(t, `{"fake":{}}`, func(ctx context.Context, _ plugin.Launch, _ *instance) error {
					if launches++; launches == 2 {
						close(second)
						<-ctx.Done()
						return ctx.Err()
					}
					return nil
				})
				w.reload()
				<-second
				tt.by(w, first)
				for _, state := range tt.next {
					w.see(state)
				}
				w.over(plugin.ReloadCanceled)
				synctest.Wait()
				if n, want := w.adapter.running.Load(), map[bool]int32{true: 1}[tt.next[len(tt.next)-1] == plugin.Running]; n != want {
					t.Errorf("%d instances run, want %d", n, want)
				}
				w.finish()
			})
		})
	}
}

func TestReload_whereThereCannotBeTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{}}`, nil)
		w.see(plugin.Starting)
		w.see(plugin.Running)
		if err := w.plugin.MayReload(); err == nil || !strings.Contains(err.Error(), "two would fight") || !strings.Contains(err.Error(), "patchbay restart p") {
			t.Errorf("got %v", err)
		}
		w.adapter.both.Store(true)
		if err := w.plugin.MayReload(); err != nil {
			t.Error(err)
		}
		w.want.Manifest.Spec.Update = plugin.Replace
		w.want.Generation++
		w.plugin.Set(w.want)
		if err := w.plugin.MayReload(); err == nil || !strings.Contains(err.Error(), "spec.update") {
			t.Errorf("update: replace: got %v", err)
		}
		w.adapter.both.Store(false)
		w.reload() // as a changed manifest: the old one is stopped first
		for _, state := range []plugin.State{plugin.Stopping, plugin.Stopped, plugin.Starting, plugin.Running} {
			w.see(state)
		}
		w.finish()
	})
}

// A reload that was asked for while no daemon ran: the instance is adopted, and then
// followed.
func TestAdopt_whatIsToBeReloadedGoesOnUntilItIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, runDir := newOutliving(), t.TempDir()
		o.both.Store(true)
		first := o.daemon(t, runDir, wanted(t), true)
		before := first.see(t, plugin.Starting, plugin.Running).Status.Instance
		first.leave()
		want := wanted(t)
		want.Reload++
		second := o.daemon(t, runDir, want, false)
		if c := second.see(t, plugin.Starting, plugin.Running); c.Cause != "adopted" || c.Status.Instance != before {
			t.Errorf("got %s of %s, want adopted of %s", c.Cause, c.Status.Instance, before)
		}
		if c := second.see(t, plugin.Running); c.Cause != "reloaded" || c.Status.Instance == before {
			t.Errorf("got %s of %s, want reloaded of another", c.Cause, c.Status.Instance)
		}
		second.end(supervise.ErrDeleted)
		<-second.done
		if !closed(o.alive[before].gone) || o.running.Load() != 0 {
			t.Errorf("%d instances are left", o.running.Load())
		}
		nothingIn(t, runDir)
	})
}
