package supervise_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/supervise"
)

// newPool is a world of several instances, all running.
func newPool(t *testing.T, instances int, launch func(context.Context, plugin.Launch, *instance) error) *world {
	t.Helper()
	w := newWorld(t, fmt.Sprintf(`{"fake":{},"instances":%d,"restart":{"backoff":{"min":"1s","max":"1s"}}}`, instances), launch)
	w.adapter.both.Store(true)
	w.settled()
	if s := w.plugin.Status(); s.State != plugin.Running || s.Ready != instances || s.Instances != instances {
		t.Fatalf("got %s, %d of %d ready (%s), want all %d", s.State, s.Ready, s.Instances, s.Message, instances)
	}
	return w
}

// settled waits until nothing happens without time going by, and drops the changes.
func (w *world) settled() {
	synctest.Wait()
	for len(w.changes) > 0 {
		<-w.changes
	}
}

// within lets time go by.
func (w *world) within(d time.Duration) {
	<-time.After(d) // synctest's clock
	w.settled()
}

func TestPool_spreadsCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPool(t, 3, nil)
		var slow sync.WaitGroup
		for range 6 {
			slow.Go(func() { _, _ = w.invoke("slow", "") }) // ends with the answers
		}
		synctest.Wait()
		for _, i := range w.adapter.all {
			if n := len(i.invoked); n != 2 {
				t.Errorf("%s has %d calls of 6 in flight, want 2", i.launch.ID, n)
			}
		}
		if s := w.plugin.Status(); s.InFlight != 6 {
			t.Errorf("in flight: got %d, want 6", s.InFlight)
		}
		for _, i := range w.adapter.all {
			close(i.answer)
		}
		slow.Wait()
		w.finish()
	})
}

func TestPool_aDeadOneFailsNoCallOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPool(t, 3, nil)
		dead, deaf := w.adapter.all[0], w.adapter.all[1]
		dead.end(plugin.Exit{Code: 7})
		no := errors.New("no answer")
		deaf.probeErr.Store(&no)
		w.settled()
		s := w.plugin.Status()
		if s.State != plugin.Degraded || s.Reason != "InstancesDown" || s.Ready != 2 || !strings.Contains(s.Message, "2 of 3 instances are ready; "+dead.launch.ID+" is backoff: exit code 7") {
			t.Errorf("got %s, %s: %s", s.State, s.Reason, s.Message)
		}
		if c, _ := s.Condition(plugin.ConditionReady); c.Status != plugin.ConditionFalse || c.Reason != "InstancesDown" {
			t.Errorf("ready: got %+v", c)
		}
		for range 100 {
			if _, err := w.invoke("echo", "1"); err != nil {
				t.Fatal(err)
			}
		}
		w.within(time.Minute)
		if s := w.plugin.Status(); s.Ready != 2 || s.Restarts != 1 || !strings.Contains(s.Message, deaf.launch.ID+" is degraded") {
			t.Errorf("restarted, and one deaf: got %d ready, %d restarts, %s", s.Ready, s.Restarts, s.Message)
		}
		deaf.probeErr.Store(nil)
		w.within(time.Minute)
		if s := w.plugin.Status(); s.State != plugin.Running || s.Ready != 3 {
			t.Errorf("all well: got %s, %d ready", s.State, s.Ready)
		}
		w.finish()
	})
}

func TestPool_growsAndShrinksWithoutARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPool(t, 1, nil)
		first := w.adapter.last(t)
		w.want.Generation++
		w.want.Manifest.Spec.Instances = 4
		w.plugin.Set(w.want)
		w.settled()
		if s := w.plugin.Status(); s.Ready != 4 || s.Generation != 2 || w.adapter.running.Load() != 4 {
			t.Errorf("grown: got %d ready of generation %d", s.Ready, s.Generation)
		}
		var slow sync.WaitGroup
		var failed []error
		var mu sync.Mutex
		for range 4 {
			slow.Go(func() { // ends with the answer
				if _, err := w.invoke("slow", ""); err != nil {
					mu.Lock()
					failed = append(failed, err)
					mu.Unlock()
				}
			})
		}
		synctest.Wait()
		w.want.Generation++
		w.want.Manifest.Spec.Instances = 2
		w.plugin.Set(w.want)
		w.settled()
		if s := w.plugin.Status(); s.Instances != 2 || s.Ready != 2 {
			t.Errorf("shrunk: got %d of %d ready", s.Ready, s.Instances)
		}
		for _, i := range w.adapter.all {
			close(i.answer)
		}
		slow.Wait()
		w.settled()
		if len(failed) > 0 || w.adapter.running.Load() != 2 || closed(first.gone) || len(w.forgot) != 2 {
			t.Errorf("after it: calls failed: %v; %d run, %d forgotten", failed, w.adapter.running.Load(), len(w.forgot))
		}
		w.finish()
	})
}

func TestPool_isReloadedInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := false
		w := newPool(t, 3, func(context.Context, plugin.Launch, *instance) error {
			if slow {
				<-time.After(time.Second) // synctest's clock
			}
			return nil
		})
		slow = true
		w.reload()
		w.settled()
		if last := w.plugin.Status().LastReload; last == nil || last.Outcome != plugin.ReloadLaunching {
			t.Errorf("got %+v, want launching", last)
		}
		for n := range 3 {
			w.over(plugin.ReloadDone)
			if last := w.plugin.Status().LastReload; (last.Outcome == plugin.ReloadDone) != (n == 2) {
				t.Errorf("after %d of 3: got %s", n+1, last.Outcome)
			}
		}
		if most := w.adapter.most.Load(); most > 4 {
			t.Errorf("%d instances ran at the same time, want at most one more than 3", most)
		}
		w.finish()
	})
}

func TestPool_tellsOthersOfANewInstanceThatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		launches, bad := 0, false
		w := newPool(t, 3, func(context.Context, plugin.Launch, *instance) error {
			if bad {
				launches++
				return fmt.Errorf("%w: no such file", plugin.ErrInvalid)
			}
			return nil
		})
		bad = true
		w.reload()
		for range 3 {
			if r := w.over(plugin.ReloadFailed); !strings.Contains(r.Message, "no such file") {
				t.Errorf("got %q", r.Message)
			}
		}
		if launches != 1 || w.adapter.running.Load() != 3 {
			t.Errorf("%d launches, want one; %d instances run", launches, w.adapter.running.Load())
		}
		if s := w.plugin.Status(); s.State != plugin.Running || s.LastReload.Outcome != plugin.ReloadFailed {
			t.Errorf("got %s, %+v", s.State, s.LastReload)
		}
		w.finish()
	})
}

// Of what an earlier daemon left as many go on as are wanted, those that fit first.
func TestPool_adoptsWhatItNeeds(t *testing.T) {
	for name, tt := range map[string]struct{ left, wanted, launched int }{
		"as many":  {3, 3, 3},
		"too many": {3, 2, 3},
		"too few":  {2, 3, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, runDir := newOutliving(), t.TempDir()
				o.both.Store(true)
				want := wanted(t)
				want.Manifest.Spec.Instances = tt.left
				first := o.daemon(t, runDir, want, true)
				synctest.Wait()
				before := first.Instances()
				first.leave()
				want.Manifest.Spec.Instances = tt.wanted
				second := o.daemon(t, runDir, want, true)
				synctest.Wait()
				if s := second.Status(); s.Ready != tt.wanted || int(o.running.Load()) != tt.wanted || len(o.all) != tt.launched {
					t.Errorf("got %d ready, %d run, %d were launched", s.Ready, o.running.Load(), len(o.all))
				}
				kept := 0
				for _, s := range before {
					if second.Has(s.Instance) {
						kept++
					}
				}
				if kept != min(tt.left, tt.wanted) {
					t.Errorf("%d of %d were adopted", kept, tt.left)
				}
				second.end(supervise.ErrDeleted)
				<-second.done
				nothingIn(t, runDir)
			})
		})
	}
}

func TestLazy_startsAtItsFirstCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{},"start":"lazy"}`, nil)
		w.settled()
		if s := w.plugin.Status(); !s.Asleep() || len(w.adapter.all) != 0 {
			t.Fatalf("applied: got %s, %s after %d launches", s.State, s.Reason, len(w.adapter.all))
		}
		w.want.Generation++
		w.want.Manifest.Spec.Env = map[string]plugin.EnvValue{"A": {Value: "b"}}
		w.want.Launch += "+"
		w.plugin.Set(w.want)
		w.settled()
		if s := w.plugin.Status(); !s.Asleep() || s.Generation != 2 {
			t.Errorf("changed: got %s, %s of generation %d", s.State, s.Reason, s.Generation)
		}
		if got, err := w.invoke("echo", "1"); err != nil || got != "1" {
			t.Errorf("first call: got %q, %v", got, err)
		}
		w.see(plugin.Starting)
		w.see(plugin.Running)
		w.adapter.last(t).end(plugin.Exit{Code: 1})
		for _, state := range []plugin.State{plugin.Backoff, plugin.Starting, plugin.Running} {
			w.see(state) // it is awake: what dies is restarted
		}
		w.desire(plugin.DesiredStopped, plugin.Stopping, plugin.Stopped)
		if _, err := w.invoke("echo", "1"); !errors.Is(err, plugin.ErrUnavailable) {
			t.Errorf("stopped: got %v", err)
		}
		w.desire(plugin.DesiredRunning, plugin.Pending)
		if s := w.plugin.Status(); !s.Asleep() {
			t.Errorf("started again: got %s, %s", s.State, s.Reason)
		}
		w.want.Restart++
		w.want.Launch += "r"
		w.plugin.Set(w.want) // who asks for a restart wants it to run
		w.see(plugin.Starting)
		w.see(plugin.Running)
		w.finish()
	})
}

// desire wants it running or stopped, and sees the states.
func (w *world) desire(d plugin.Desired, states ...plugin.State) {
	w.t.Helper()
	w.want.Desired = d
	w.plugin.Set(w.want)
	for _, s := range states {
		w.see(s)
	}
}

func TestLazy_isAdoptedAwake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, runDir := newOutliving(), t.TempDir()
		want := wanted(t)
		want.Manifest.Spec.Start = plugin.Lazy
		first := o.daemon(t, runDir, want, true)
		if _, err := first.Invoke(t.Context(), plugin.Invocation{Operation: "echo"}); err != nil {
			t.Fatal(err)
		}
		first.leave()
		second := o.daemon(t, runDir, want, true)
		second.see(t, plugin.Starting, plugin.Running)
		o.last(t).end(plugin.Exit{Code: 1})
		second.see(t, plugin.Backoff, plugin.Starting, plugin.Running)
		second.end(supervise.ErrDeleted)
		<-second.done
		nothingIn(t, runDir)
	})
}
