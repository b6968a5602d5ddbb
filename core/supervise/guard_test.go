package supervise_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestLaunch_thatHangsIsGivenUpAndNeverDoubled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var launches atomic.Int32
		w := newWorld(t, `{"fake":{},"timeouts":{"start":"5s"},"restart":{"budget":{"failures":-1}}}`, func(context.Context, plugin.Launch, *instance) error {
			if launches.Add(1) == 1 {
				<-release // whatever its context says
			}
			return nil
		})
		w.see(plugin.Starting)
		began := time.Now()
		c := w.see(plugin.Backoff)
		if took := time.Since(began); took != 15*time.Second || c.Status.Reason != "StartTimeout" {
			t.Errorf("got %s after %s, want StartTimeout after the start time and ten seconds", c.Status.Reason, took)
		}
		w.see(plugin.Starting)
		if c := w.see(plugin.Backoff); !strings.Contains(c.Status.Message, "an earlier instance") || launches.Load() != 1 {
			t.Errorf("got %q after %d launches, want that the first may still be there", c.Status.Message, launches.Load())
		}
		close(release) // it brings an instance that nobody wants any more
		for w.seeOneOf(plugin.Starting, plugin.Backoff, plugin.Running) != plugin.Running {
		}
		if launches.Load() != 2 {
			t.Errorf("%d launches, want a second one once the first is gone", launches.Load())
		}
		w.finish()
	})
}

func TestLaunch_thatHangsDoesNotHoldUpAStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		w := newWorld(t, service, func(context.Context, plugin.Launch, *instance) error { <-release; return nil })
		w.see(plugin.Starting)
		w.want.Desired = plugin.DesiredStopped
		w.plugin.Set(w.want)
		w.see(plugin.Stopping)
		w.see(plugin.Stopped)
		close(release)
		w.finish()
	})
}

func TestStop_thatFailsIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, service, nil)
		w.see(plugin.Starting)
		w.see(plugin.Running)
		var asked atomic.Int32
		w.adapter.last(t).stopErr = func() error {
			if asked.Add(1) < 3 {
				return errors.New("no engine answers")
			}
			return nil
		}
		w.want.Desired = plugin.DesiredStopped
		w.plugin.Set(w.want)
		w.see(plugin.Stopping)
		pass(6 * time.Second)
		synctest.Wait()
		if s := w.plugin.Status(); s.State != plugin.Stopping || s.Reason != "StopFailed" || !strings.Contains(s.Message, "no engine") {
			t.Errorf("while it is still there: got %s %s %q", s.State, s.Reason, s.Message)
		}
		w.see(plugin.Stopped)
		if asked.Load() != 3 {
			t.Errorf("asked %d times, want 3", asked.Load())
		}
		w.finish()
	})
}

func TestProbe_thatHangsHidesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var probes atomic.Int32
		w := newWorld(t, `{"fake":{},"probe":{"interval":"1s","timeout":"1s","failures":2}}`, func(_ context.Context, _ plugin.Launch, i *instance) error {
			i.probe = func(context.Context) error { probes.Add(1); <-release; return nil }
			return nil
		})
		w.see(plugin.Starting)
		w.see(plugin.Running)
		if c := w.see(plugin.Degraded); c.Status.Reason != "ProbeFailed" || probes.Load() != 1 {
			t.Errorf("got %s after %d probes, want the hanging probe to count each time", c.Status.Reason, probes.Load())
		}
		died := time.Now()
		w.adapter.last(t).end(plugin.Exit{Code: 2})
		if w.see(plugin.Backoff); time.Since(died) > time.Second {
			t.Errorf("the exit was told after %s", time.Since(died))
		}
		close(release)
		w.finish()
	})
}

func TestStream_thatHangsDoesNotHoldUpAStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{},"streams":[{"source":"s","publish":"data"}]}`, func(_ context.Context, _ plugin.Launch, i *instance) error {
			i.stream = func(context.Context, plugin.Pipe) error { <-i.gone; return nil } // ends with the instance only
			return nil
		})
		w.see(plugin.Starting)
		w.see(plugin.Running)
		w.finish()
	})
}

func TestPanics_areErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var launches atomic.Int32
		w := newWorld(t, `{"fake":{},"probe":{"interval":"1s","failures":1},"streams":[{"source":"s","publish":"data"}]}`, func(_ context.Context, _ plugin.Launch, i *instance) error {
			if launches.Add(1) == 1 {
				panic("launch")
			}
			i.probe = func(context.Context) error { panic("probe") }
			i.stream = func(context.Context, plugin.Pipe) error { panic("stream") }
			i.stopErr = func() error {
				i.end(plugin.Exit{})
				panic("stop")
			}
			return nil
		})
		w.see(plugin.Starting)
		if c := w.see(plugin.Backoff); !strings.Contains(c.Status.Message, "panicked") {
			t.Errorf("a panic in a launch: got %q", c.Status.Message)
		}
		w.see(plugin.Starting)
		w.see(plugin.Running)
		if _, err := w.invoke("panic", ``); !errors.Is(err, plugin.ErrUnavailable) || strings.Contains(err.Error(), "index") {
			t.Errorf("a panic in an invocation: got %v, want unavailable, and the rest in the log", err)
		}
		if c := w.see(plugin.Degraded); !strings.Contains(c.Status.Message, "panicked") {
			t.Errorf("a panic in a probe: got %q", c.Status.Message)
		}
		if s := w.plugin.Status().Streams[0]; s.State != plugin.Backoff || w.plugin.Status().InFlight != 0 {
			t.Errorf("after a panic in a stream: got %+v, %d in flight", s, w.plugin.Status().InFlight)
		}
		w.finish()
	})
}

func TestNewWish_hasTheWholeBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{},"restart":{"budget":{"failures":2}}}`, nil)
		for _, end := range []plugin.State{plugin.Backoff, plugin.Failed} {
			w.see(plugin.Starting)
			w.see(plugin.Running)
			w.adapter.last(t).end(plugin.Exit{Code: 1})
			w.see(end)
		}
		w.want.Launch = "2" // patchbay start
		w.plugin.Set(w.want)
		w.see(plugin.Starting)
		w.see(plugin.Running)
		w.adapter.last(t).end(plugin.Exit{Code: 1})
		if c := w.see(plugin.Backoff); time.Until(*c.Status.RetryAt) > 250*time.Millisecond {
			t.Errorf("first failure of a new wish: retry in %s", time.Until(*c.Status.RetryAt))
		}
		w.finish()
	})
}

func TestSettings_areReadAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{},"timeouts":{"stop":"10s"}}`, nil)
		w.see(plugin.Starting)
		w.see(plugin.Running)
		w.want.Generation, w.want.Manifest = 2, manifest(t, `{"fake":{},"restart":{"policy":"never"},"probe":{"interval":"1s","failures":1}}`)
		w.plugin.Set(w.want)
		if s, _ := w.told.Load(""); s.(plugin.Status).Generation != 2 {
			t.Errorf("told generation %d, want 2", s.(plugin.Status).Generation)
		}
		pass(10 * time.Second) // the old interval
		deaf := errors.New("no answer")
		w.adapter.last(t).probeErr.Store(&deaf)
		began := time.Now()
		if w.see(plugin.Degraded); time.Since(began) > 2*time.Second {
			t.Errorf("degraded after %s, want the new probe settings", time.Since(began))
		}
		w.adapter.last(t).end(plugin.Exit{Code: 1})
		w.see(plugin.Failed) // the new policy
		w.want.Generation, w.want.Manifest = 3, manifest(t, `{"fake":{},"timeouts":{"start":"1m"}}`)
		w.plugin.Set(w.want) // what failed is tried as it is wanted now
		w.see(plugin.Starting)
		w.see(plugin.Running)
		w.finish()
	})
}

func TestStreams_ofAnEarlierManifestAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{},"streams":[{"source":"s","publish":"data"}]}`, func(_ context.Context, _ plugin.Launch, i *instance) error {
			i.stream = func(ctx context.Context, _ plugin.Pipe) error { <-ctx.Done(); return nil }
			return nil
		})
		w.see(plugin.Starting)
		w.see(plugin.Running)
		w.want.Launch, w.want.Manifest = "2", manifest(t, service)
		w.plugin.Set(w.want)
		for _, s := range []plugin.State{plugin.Stopping, plugin.Stopped, plugin.Starting, plugin.Running} {
			w.see(s)
		}
		synctest.Wait()
		if got := w.plugin.Status().Streams; len(got) != 0 {
			t.Errorf("got %+v, want none", got)
		}
		w.finish()
	})
}

func TestStream_afterAHealthySpellRetriesSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begun []time.Time
		w := newWorld(t, `{"fake":{},"streams":[{"source":"s","publish":"data"}]}`, func(_ context.Context, _ plugin.Launch, i *instance) error {
			i.stream = func(ctx context.Context, pipe plugin.Pipe) error {
				begun = append(begun, time.Now())
				_ = pipe.Publish(nil)
				select {
				case <-time.After(time.Hour):
				case <-ctx.Done():
				}
				return errors.New("broke")
			}
			return nil
		})
		w.see(plugin.Starting)
		w.see(plugin.Running)
		pass(20*time.Hour + time.Minute)
		synctest.Wait()
		for i := 1; i < len(begun); i++ {
			if wait := begun[i].Sub(begun[i-1]) - time.Hour; wait > 250*time.Millisecond {
				t.Fatalf("break %d: tried again after %s, want at most 250ms", i, wait)
			}
		}
		if got := w.plugin.Status().Streams[0].Messages; got != uint64(len(begun)) {
			t.Errorf("%d messages, want all %d since the start", got, len(begun))
		}
		w.finish()
	})
}

func TestInvoke_isNotKeptWaitingByAPluginThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, service, func(ctx context.Context, _ plugin.Launch, _ *instance) error {
			<-ctx.Done()
			return ctx.Err()
		})
		w.see(plugin.Starting)
		answer := make(chan error, 1)
		go func() { // ends with the plugin
			_, err := w.invoke("echo", ``)
			answer <- err
		}()
		synctest.Wait()
		w.finish()
		synctest.Wait()
		select {
		case err := <-answer:
			if !errors.Is(err, plugin.ErrUnavailable) {
				t.Errorf("got %v, want unavailable", err)
			}
		default:
			t.Fatal("the caller still waits for a plugin that has ended")
		}
	})
}

func TestJob_stoppedRunSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{},"mode":"job"}`, nil)
		w.see(plugin.Starting)
		w.see(plugin.Running)
		answer := make(chan error, 1)
		go func() { // ends with the job
			_, err := w.invoke("run", ``)
			answer <- err
		}()
		synctest.Wait()
		w.finish()
		if err := <-answer; !errors.Is(err, plugin.ErrUnavailable) || errors.Is(err, plugin.ErrDeadline) {
			t.Errorf("got %v, want unavailable: the job was stopped", err)
		}
	})
}

func TestJob_runThatDoesNotStopDoesNotHoldItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		w := newWorld(t, `{"fake":{},"mode":"job","timeouts":{"stop":"1s"}}`, func(_ context.Context, _ plugin.Launch, i *instance) error {
			i.stopped = func(context.Context) { <-release }
			return nil
		})
		w.see(plugin.Starting)
		w.see(plugin.Running)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := w.plugin.Invoke(ctx, plugin.Invocation{Plugin: "p", Operation: "run"})
		if took := time.Since(began); !errors.Is(err, plugin.ErrDeadline) || took > 15*time.Second {
			t.Errorf("got %v after %s, want deadline after the stop time and ten seconds", err, took)
		}
		close(release)
		w.finish()
	})
}
