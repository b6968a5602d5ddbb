package supervise_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// pass lets d go by on synctest's clock.
func pass(d time.Duration) { <-time.After(d) }

const service = `{"fake":{}}`

func TestLife_startInvokeStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, service, nil)
		w.see(plugin.Starting)
		if c := w.see(plugin.Running); c.Status.Facts["pid"] != "42" || !strings.HasPrefix(c.Status.Instance, "p-") {
			t.Errorf("got status %+v, want the instance and its facts", c.Status)
		}
		if got, err := w.invoke("echo", `{"a":1}`); err != nil || got != `{"a":1}` {
			t.Errorf("echo: got %q %v", got, err)
		}
		w.want.Desired = plugin.DesiredStopped
		w.plugin.Set(w.want)
		w.see(plugin.Stopping)
		w.see(plugin.Stopped)
		if _, err := w.invoke("echo", `1`); !errors.Is(err, plugin.ErrUnavailable) || !strings.Contains(err.Error(), "stopped") {
			t.Errorf("while stopped: got %v, want unavailable: it is stopped", err)
		}
		w.want.Desired = plugin.DesiredRunning
		w.plugin.Set(w.want)
		w.see(plugin.Starting)
		w.see(plugin.Running)
		w.finish()
	})
}

func TestExit_isToldAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, service, nil)
		w.see(plugin.Starting)
		first := w.see(plugin.Running)
		died := time.Now()
		w.adapter.last(t).launch.Output.Writer(plugin.Stderr).Write([]byte("panic: at the disco\n\tdance()"))
		w.adapter.last(t).end(plugin.Exit{Code: -1, Signal: "SIGKILL"})
		c := w.see(plugin.Backoff)
		if c.Status.Reason != "Exited" || c.Status.LastExit.Signal != "SIGKILL" || c.Status.LastWords[0] != "panic: at the disco" || len(c.Status.LastWords) != 2 {
			t.Errorf("got %+v, want the exit and the last words", c.Status)
		}
		if wait := c.Status.RetryAt.Sub(died); wait > 250*time.Millisecond {
			t.Errorf("first retry after %s, want at most 250ms", wait)
		}
		w.see(plugin.Starting)
		second := w.see(plugin.Running)
		if second.Status.Restarts != 1 || second.Status.Instance == first.Status.Instance {
			t.Errorf("got %+v, want a new instance and one restart", second.Status)
		}
		w.finish()
	})
}

func TestLife_forgetsOnlyWhatWasTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, service, nil)
		w.see(plugin.Starting)
		first := w.see(plugin.Running).Status.Instance
		if n := len(w.forgot); n != 0 {
			t.Errorf("before the first instance: told to forget %q", <-w.forgot)
		}
		w.adapter.last(t).end(plugin.Exit{Code: 1})
		w.see(plugin.Backoff)
		w.see(plugin.Starting)
		w.see(plugin.Running)
		if got := <-w.forgot; got != first || len(w.forgot) != 0 {
			t.Errorf("got %s and %d more, want the first instance %s", got, len(w.forgot), first)
		}
		w.finish()
	})
}

func TestCrashLoop_endsInFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{},"restart":{"budget":{"failures":3,"window":"10m"}}}`, nil)
		for range 2 {
			w.see(plugin.Starting)
			w.see(plugin.Running)
			w.adapter.last(t).end(plugin.Exit{Code: 7})
			w.see(plugin.Backoff)
		}
		w.see(plugin.Starting)
		w.see(plugin.Running)
		w.adapter.last(t).end(plugin.Exit{Code: 7})
		c := w.see(plugin.Failed)
		if c.Status.Reason != "CrashLoop" || !strings.Contains(c.Status.Message, "3 failures within 10m0s") || !strings.Contains(c.Status.Message, "exit code 7") {
			t.Errorf("got %s: %s", c.Status.Reason, c.Status.Message)
		}
		w.want.Launch = "2" // what patchbay start does
		w.plugin.Set(w.want)
		w.see(plugin.Starting)
		w.see(plugin.Running)
		w.finish()
	})
}

func TestHealthySpell_resetsTheBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{},"restart":{"budget":{"failures":2,"window":"1m"}}}`, nil)
		for range 5 {
			w.see(plugin.Starting)
			w.see(plugin.Running)
			pass(2 * time.Minute)
			w.adapter.last(t).end(plugin.Exit{Code: 1})
			if c := w.see(plugin.Backoff); time.Until(*c.Status.RetryAt) > 250*time.Millisecond {
				t.Errorf("after a healthy spell: retry in %s, want at most 250ms", time.Until(*c.Status.RetryAt))
			}
		}
		w.see(plugin.Starting)
		w.see(plugin.Running)
		w.finish()
	})
}

func TestCleanExit_byPolicy(t *testing.T) {
	for _, tt := range []struct {
		policy string
		code   int
		want   plugin.State
	}{
		{"always", 0, plugin.Backoff}, {"on-failure", 0, plugin.Finished}, {"on-failure", 1, plugin.Backoff},
		{"never", 0, plugin.Finished}, {"never", 1, plugin.Failed},
	} {
		t.Run(fmt.Sprintf("%s %d", tt.policy, tt.code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, `{"fake":{},"restart":{"policy":"`+tt.policy+`"}}`, nil)
				w.see(plugin.Starting)
				w.see(plugin.Running)
				w.adapter.last(t).end(plugin.Exit{Code: tt.code})
				w.see(tt.want)
				w.finish()
			})
		})
	}
}

func TestLaunch_failures(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		err          error
		want         plugin.State
	}{
		{"will never work", "StartFailed", fmt.Errorf("%w: digest differs", plugin.ErrInvalid), plugin.Failed},
		{"may work later", "StartFailed", fmt.Errorf("%w: port taken", plugin.ErrUnavailable), plugin.Backoff},
		{"too slow", "StartTimeout", fmt.Errorf("handshake: %w", context.DeadlineExceeded), plugin.Backoff},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, service, func(_ context.Context, l plugin.Launch, _ *instance) error {
					l.Output.Writer(plugin.Stderr).Write([]byte("no luck"))
					return tt.err
				})
				w.see(plugin.Starting)
				c := w.see(tt.want)
				if c.Status.Reason != tt.reason || !strings.Contains(c.Status.Message, tt.err.Error()) || c.Status.LastWords[0] != "no luck" {
					t.Errorf("got %+v", c.Status)
				}
				w.finish()
			})
		})
	}
}

func TestAdapterDown_isNotThePluginsFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		away := make(chan struct{})
		w := newWorld(t, `{"fake":{},"restart":{"budget":{"failures":2}}}`, func(context.Context, plugin.Launch, *instance) error {
			<-away
			if !up.Load() {
				return plugin.ErrUnavailable
			}
			return nil
		})
		down := errors.New("no engine answers")
		w.adapter.down.Store(&down)
		close(away)
		for range 20 {
			w.see(plugin.Starting)
			if c := w.see(plugin.Backoff); c.Status.Reason != "AdapterUnavailable" {
				t.Fatalf("got reason %s, want AdapterUnavailable", c.Status.Reason)
			}
		}
		up.Store(true)
		w.see(plugin.Starting)
		w.see(plugin.Running)
		w.finish()
	})
}

func TestSecretMissing_isWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var noSecret atomic.Pointer[error]
		missing := fmt.Errorf("spec.env.KEY: secret: %w", plugin.ErrUnavailable)
		noSecret.Store(&missing)
		w := newWorldWithSecrets(t, `{"fake":{},"restart":{"budget":{"failures":2}}}`, &noSecret, nil)
		for range 10 {
			w.see(plugin.Starting)
			if c := w.see(plugin.Backoff); c.Status.Reason != "SecretUnavailable" || c.Status.Restarts != 0 {
				t.Fatalf("got %+v, want it to wait for its secret", c.Status)
			}
		}
		noSecret.Store(nil)
		w.see(plugin.Starting)
		w.see(plugin.Running)
		w.finish()
	})
}

func TestStop_whileStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, service, func(ctx context.Context, _ plugin.Launch, _ *instance) error {
			<-ctx.Done()
			return ctx.Err()
		})
		w.see(plugin.Starting)
		w.want.Desired = plugin.DesiredStopped
		w.plugin.Set(w.want)
		w.see(plugin.Stopping)
		w.see(plugin.Stopped)
		w.finish()
	})
}

func TestNewManifest_replacesTheInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, service, nil)
		w.see(plugin.Starting)
		w.see(plugin.Running)
		w.want.Generation, w.want.Launch = 2, "2"
		w.plugin.Set(w.want)
		w.see(plugin.Stopping)
		w.see(plugin.Stopped)
		w.see(plugin.Starting)
		if c := w.see(plugin.Running); c.Status.Generation != 2 {
			t.Errorf("got generation %d, want 2", c.Status.Generation)
		}
		w.want.Generation = 3 // the same launch: labels, for instance
		w.plugin.Set(w.want)
		synctest.Wait()
		if len(w.changes) != 0 || w.plugin.Status().Generation != 3 {
			t.Errorf("a change that needs no new instance: got %d changes, generation %d", len(w.changes), w.plugin.Status().Generation)
		}
		w.finish()
	})
}

func TestProbe_degradesAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{},"probe":{"interval":"1s","failures":2}}`, nil)
		w.see(plugin.Starting)
		up := w.see(plugin.Running)
		deaf := errors.New("no answer")
		w.adapter.last(t).probeErr.Store(&deaf)
		c := w.see(plugin.Degraded)
		if c.Status.Reason != "ProbeFailed" || !strings.Contains(c.Status.Message, "no answer") {
			t.Errorf("got %+v", c.Status)
		}
		if after := c.Status.Since.Sub(up.Status.Since); after != 2*time.Second {
			t.Errorf("degraded after %s, want 2s: two failures", after)
		}
		w.adapter.last(t).probeErr.Store(nil)
		w.see(plugin.Running)
		w.finish()
	})
}

func TestInFlight_limitAndDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{},"limits":{"inFlight":1},"timeouts":{"stop":"10s"}}`, nil)
		w.see(plugin.Starting)
		w.see(plugin.Running)
		answer := make(chan error, 1)
		go func() { // ends with the answer
			_, err := w.invoke("slow", ``)
			answer <- err
		}()
		<-w.adapter.last(t).invoked
		if _, err := w.invoke("echo", ``); !errors.Is(err, plugin.ErrBusy) {
			t.Errorf("beyond the limit: got %v, want busy", err)
		}
		one := w.adapter.last(t)
		w.want.Desired = plugin.DesiredStopped
		w.plugin.Set(w.want)
		w.see(plugin.Stopping)
		pass(time.Second) // the drain goes on
		close(one.answer)
		if err := <-answer; err != nil {
			t.Errorf("an invocation in flight at the stop: got %v, want its answer", err)
		}
		w.see(plugin.Stopped)
		w.finish()
	})
}

func TestDrain_isBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{},"timeouts":{"stop":"10s"}}`, nil)
		w.see(plugin.Starting)
		w.see(plugin.Running)
		answer := make(chan error, 1)
		go func() { // ends with the link
			_, err := w.invoke("slow", ``)
			answer <- err
		}()
		<-w.adapter.last(t).invoked
		began := time.Now()
		w.finish()
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("stop took %s, want 5s: half of the stop time for the drain", took)
		}
		if err := <-answer; err == nil {
			t.Error("an invocation that never ended was answered")
		}
	})
}

func TestInvoke_waitsForTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, service, func(context.Context, plugin.Launch, *instance) error {
			pass(3 * time.Second)
			return nil
		})
		w.see(plugin.Starting)
		if got, err := w.invoke("echo", `"hello"`); err != nil || got != `"hello"` {
			t.Errorf("got %q %v, want the echo once it is up", got, err)
		}
		w.finish()
	})
}

func TestJob_runs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exit := plugin.Exit{}
		w := newWorld(t, `{"fake":{},"mode":"job"}`, func(_ context.Context, l plugin.Launch, i *instance) error {
			l.Output.Writer(plugin.Stdout).Write([]byte(`{"got":` + string(l.Input) + `}`))
			go i.end(exit) // at once
			return nil
		})
		w.see(plugin.Starting)
		w.see(plugin.Running)
		if got, err := w.invoke("run", `5`); err != nil || got != `{"got":5}` {
			t.Errorf("got %q %v", got, err)
		}
		exit = plugin.Exit{Code: 3}
		_, err := w.invoke("run", `6`)
		if refusal, ok := errors.AsType[*plugin.Refusal](err); !ok || refusal.Code != "exit-3" || refusal.Message != `{"got":6}` {
			t.Errorf("exit 3: got %v, want a refusal with the last words", err)
		}
		exit = plugin.Exit{Code: -1, Signal: "SIGKILL"}
		if _, err := w.invoke("run", `7`); !errors.Is(err, plugin.ErrUnavailable) {
			t.Errorf("killed: got %v, want unavailable", err)
		}
		if _, err := w.invoke("walk", ``); !errors.Is(err, plugin.ErrNotFound) {
			t.Errorf("another operation: got %v, want not found", err)
		}
		w.finish()
	})
}

// TestJob_whoseAdapterIsDown: it is not said to run before it could.
func TestJob_whoseAdapterIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{},"mode":"job"}`, func(_ context.Context, _ plugin.Launch, i *instance) error {
			go i.end(plugin.Exit{}) // at once
			return nil
		})
		w.see(plugin.Starting)
		w.see(plugin.Running)
		down := errors.New("no engine answers")
		w.adapter.down.Store(&down)
		if c := w.see(plugin.Degraded); c.Status.Reason != "AdapterUnavailable" {
			t.Errorf("while it is away: got %+v", c.Status)
		}
		w.want.Desired = plugin.DesiredStopped
		w.plugin.Set(w.want)
		w.see(plugin.Stopping)
		w.see(plugin.Stopped)
		w.want.Desired = plugin.DesiredRunning
		w.plugin.Set(w.want)
		for range 10 {
			w.see(plugin.Starting)
			c := w.see(plugin.Backoff)
			if c.Status.Reason != "AdapterUnavailable" || c.Status.Message != down.Error() || c.Status.Restarts != 0 {
				t.Fatalf("got %+v, want that the engine is waited for", c.Status)
			}
		}
		if _, err := w.invoke("run", ``); !errors.Is(err, plugin.ErrUnavailable) || !strings.Contains(err.Error(), down.Error()) {
			t.Errorf("a run: got %v, want unavailable, and why", err)
		}
		w.adapter.down.Store(nil)
		w.see(plugin.Starting)
		w.see(plugin.Running)
		if _, err := w.invoke("run", ``); err != nil {
			t.Error(err)
		}
		w.finish()
	})
}

func TestJob_runIsStoppedWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{},"mode":"job"}`, nil)
		w.see(plugin.Starting)
		w.see(plugin.Running)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := w.plugin.Invoke(ctx, plugin.Invocation{Plugin: "p", Operation: "run"})
		if !errors.Is(err, plugin.ErrDeadline) {
			t.Errorf("got %v, want deadline", err)
		}
		if n := w.adapter.running.Load(); n != 0 {
			t.Errorf("%d runs are left after their caller", n)
		}
		w.finish()
	})
}

func TestStream_breaksAndIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := make(chan struct{}, 100)
		w := newWorld(t, `{"fake":{},"streams":[{"source":"s","publish":"data"}]}`, func(_ context.Context, _ plugin.Launch, i *instance) error {
			i.stream = func(ctx context.Context, pipe plugin.Pipe) error {
				tries <- struct{}{}
				if len(tries) < 3 {
					return errors.New("socket closed")
				}
				_ = pipe.Publish([]byte("1"))
				<-ctx.Done()
				return nil
			}
			return nil
		})
		w.see(plugin.Starting)
		w.see(plugin.Running)
		pass(time.Minute)
		synctest.Wait()
		got := w.plugin.Status().Streams
		if len(got) != 1 || got[0].State != plugin.Running || got[0].Messages != 1 || len(tries) != 3 {
			t.Errorf("got %+v after %d tries, want it running after 3", got, len(tries))
		}
		w.finish()
	})
}
