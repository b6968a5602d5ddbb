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

func TestReadiness_needsItsSuccesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{},"probe":{"interval":"1s","failures":2,"successes":3,"nats":{"subject":"a.b"}}}`, nil)
		w.see(plugin.Starting)
		w.see(plugin.Running)
		w.silent.Store(true)
		c := w.see(plugin.Degraded)
		if !strings.Contains(c.Status.Message, "2 probes in a row failed; the last: nats a.b: no responders") || *w.asked.Load() != "a.b" {
			t.Errorf("got %q", c.Status.Message)
		}
		if _, err := w.invoke("echo", `1`); err != nil {
			t.Errorf("a call while degraded: got %v, want its answer", err)
		}
		w.silent.Store(false)
		back := w.see(plugin.Running)
		if after := back.Status.Since.Sub(c.Status.Since); after != 3*time.Second {
			t.Errorf("running again after %s, want 3s: three answers", after)
		}
		w.finish()
	})
}

func TestStartup_isWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		launched := make(chan *instance, 1)
		w := newWorld(t, `{"fake":{},"probe":{"startup":{"log":{"matches":"listening"}}}}`, func(_ context.Context, _ plugin.Launch, i *instance) error {
			launched <- i
			return nil
		})
		w.see(plugin.Starting)
		one := <-launched
		answer := make(chan error, 1)
		go func() { // ends with the start
			_, err := w.invoke("echo", `1`)
			answer <- err
		}()
		pass(5 * time.Second)
		if s := w.plugin.Status(); s.State != plugin.Starting {
			t.Errorf("got %s, want starting until the line is there", s.State)
		}
		fmt.Fprint(one.launch.Output.Writer(plugin.Stdout), "listening on 80")
		w.see(plugin.Running)
		if err := <-answer; err != nil {
			t.Errorf("a call during the start: got %v, want its answer", err)
		}
		w.finish()
	})
}

func TestStartup_holdsUpNoOtherLaunch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{},"probe":{"startup":{"log":{"matches":"never"}}}}`, nil)
		w.see(plugin.Starting)
		pass(time.Second)
		if n := len(w.starts); n != 0 || w.adapter.running.Load() != 1 {
			t.Errorf("%d places among the launches are taken by an instance that is being probed, want 0", n)
		}
		w.finish()
	})
}

func TestStartup_isBoundedAndLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := make(chan struct{})
		w := newWorld(t, `{"fake":{},"timeouts":{"start":"5s"},"probe":{"startup":{"nats":{"subject":"a"}}}}`, func(context.Context, plugin.Launch, *instance) error {
			<-silent
			return nil
		})
		w.silent.Store(true)
		close(silent)
		began := w.see(plugin.Starting)
		c := w.see(plugin.Backoff)
		if c.Status.Reason != "StartTimeout" || !strings.Contains(c.Status.Message, "spec.probe.startup") || !strings.Contains(c.Status.Message, "no responders") {
			t.Errorf("got %s: %s", c.Status.Reason, c.Status.Message)
		}
		if took := c.Status.Since.Sub(began.Status.Since); took != 5*time.Second || w.adapter.running.Load() != 0 {
			t.Errorf("given up after %s with %d instances left, want 5s and none", took, w.adapter.running.Load())
		}
		w.finish()
	})
}

func TestStartup_seesADeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{},"probe":{"startup":{"log":{"matches":"never"}}}}`, func(_ context.Context, _ plugin.Launch, i *instance) error {
			go func() { // ends with the pass
				pass(time.Second)
				i.end(plugin.Exit{Code: 9})
			}()
			return nil
		})
		began := w.see(plugin.Starting)
		c := w.see(plugin.Backoff)
		if c.Status.Reason != "StartFailed" || !strings.Contains(c.Status.Message, "exit code 9") || c.Status.Since.Sub(began.Status.Since) != time.Second {
			t.Errorf("got %s after %s: %s", c.Status.Reason, c.Status.Since.Sub(began.Status.Since), c.Status.Message)
		}
		w.finish()
	})
}

func TestLiveness_killsAndRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{},"restart":{"policy":"on-failure","exits":[{"codes":[0],"action":"finish"}]},
			"probe":{"interval":"1h","liveness":{"interval":"1s","failures":3}}}`, nil)
		w.see(plugin.Starting)
		w.see(plugin.Running)
		one := w.adapter.last(t)
		var killed atomic.Bool
		one.stopped = func(ctx context.Context) { killed.Store(ctx.Err() != nil) }
		deaf := errors.New("deaf")
		one.probeErr.Store(&deaf)
		c := w.see(plugin.Backoff)
		if c.Status.Reason != "LivenessFailed" || !strings.Contains(c.Status.Message, "3 probes in a row failed; the last: deaf") || !killed.Load() {
			t.Errorf("got %s: %s, killed: %t", c.Status.Reason, c.Status.Message, killed.Load())
		}
		if live, _ := c.Status.Condition(plugin.ConditionLive); live.Status != plugin.ConditionFalse || live.Reason != "LivenessFailed" {
			t.Errorf("got condition %+v", live)
		}
		w.see(plugin.Starting)
		if c := w.see(plugin.Running); c.Status.Restarts != 1 {
			t.Errorf("got %d restarts, want 1", c.Status.Restarts)
		}
		w.finish()
	})
}

func TestLiveness_countsForTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deaf := errors.New("deaf")
		w := newWorld(t, `{"fake":{},"restart":{"budget":{"failures":2}},"probe":{"liveness":{"interval":"1s","failures":1}}}`,
			func(_ context.Context, _ plugin.Launch, i *instance) error { i.probeErr.Store(&deaf); return nil })
		w.see(plugin.Starting)
		w.see(plugin.Running)
		w.see(plugin.Backoff)
		w.see(plugin.Starting)
		w.see(plugin.Running)
		if c := w.see(plugin.Failed); c.Status.Reason != "CrashLoop" || !strings.Contains(c.Status.Message, "deaf; it was killed") {
			t.Errorf("got %s: %s", c.Status.Reason, c.Status.Message)
		}
		w.finish()
	})
}

func TestLiveness_isOffByDefaultAndTurnedOnAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{},"probe":{"interval":"1s","failures":1}}`, nil)
		w.see(plugin.Starting)
		w.see(plugin.Running)
		deaf := errors.New("deaf")
		w.adapter.last(t).probeErr.Store(&deaf)
		w.see(plugin.Degraded)
		pass(time.Hour)
		if s := w.plugin.Status(); s.State != plugin.Degraded {
			t.Fatalf("got %s, want it left degraded", s.State)
		}
		w.want.Generation, w.want.Manifest = 2, manifest(t, `{"fake":{},"probe":{"interval":"1s","failures":1,"liveness":{"interval":"2s","failures":1}}}`)
		w.plugin.Set(w.want)
		if c := w.see(plugin.Backoff); c.Status.Reason != "LivenessFailed" {
			t.Errorf("got %s, want LivenessFailed", c.Status.Reason)
		}
		w.finish()
	})
}

func TestExits_byRule(t *testing.T) {
	const rules = `{"fake":{},"restart":{"policy":"POLICY","exits":[
		{"codes":[0,75],"action":"restart"},{"codes":[78],"action":"fail"},{"signals":["SIGTERM"],"action":"finish"},{"codes":[75],"action":"fail"}]}}`
	for _, tt := range []struct {
		policy string
		exit   plugin.Exit
		want   plugin.State
		says   string
	}{
		{"on-failure", plugin.Exit{Code: 0}, plugin.Backoff, "exit code 0 (spec.restart.exits[0]: restart)"},
		{"never", plugin.Exit{Code: 75}, plugin.Backoff, "exits[0]: restart"},
		{"always", plugin.Exit{Code: 78}, plugin.Failed, "exit code 78 (spec.restart.exits[1]: fail)"},
		{"always", plugin.Exit{Code: -1, Signal: "SIGTERM"}, plugin.Finished, "killed by SIGTERM (spec.restart.exits[2]: finish)"},
		{"never", plugin.Exit{Code: 1}, plugin.Failed, "exit code 1"},
		{"always", plugin.Exit{Code: 1}, plugin.Backoff, "exit code 1"},
		{"always", plugin.Exit{Code: 78, OOM: true}, plugin.Backoff, "out of memory"},
	} {
		t.Run(fmt.Sprint(tt.policy, " ", tt.exit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, strings.Replace(rules, "POLICY", tt.policy, 1), nil)
				w.see(plugin.Starting)
				w.see(plugin.Running)
				w.adapter.last(t).end(tt.exit)
				if c := w.see(tt.want); !strings.Contains(c.Status.Message, tt.says) || *c.Status.LastExit != tt.exit {
					t.Errorf("got %q, %+v, want %q", c.Status.Message, c.Status.LastExit, tt.says)
				}
				w.finish()
			})
		})
	}
}

func TestBackoffReset_isItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{},"restart":{"backoff":{"reset":"30s"},"budget":{"failures":4,"window":"10m"}}}`, nil)
		for range 3 {
			w.see(plugin.Starting)
			w.see(plugin.Running)
			pass(time.Minute) // a spell of health, within the budget's window
			w.adapter.last(t).end(plugin.Exit{Code: 1})
			if c := w.see(plugin.Backoff); time.Until(*c.Status.RetryAt) > 250*time.Millisecond {
				t.Errorf("after a healthy spell: retry in %s, want at most 250ms", time.Until(*c.Status.RetryAt))
			}
		}
		w.see(plugin.Starting)
		w.see(plugin.Running)
		w.adapter.last(t).end(plugin.Exit{Code: 1})
		if c := w.see(plugin.Failed); c.Status.Reason != "CrashLoop" {
			t.Errorf("got %s, want the budget to count all four", c.Status.Reason)
		}
		w.finish()
	})
}

func TestCrashLoop_tellsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{},"restart":{"budget":{"failures":1}}}`, nil)
		w.see(plugin.Starting)
		w.see(plugin.Running)
		one := w.adapter.last(t)
		for n := range 60 {
			fmt.Fprintf(one.launch.Output.Writer(plugin.Stderr), "line %d", n)
		}
		one.end(plugin.Exit{Code: 137, Signal: "SIGKILL", OOM: true})
		s := w.see(plugin.Failed).Status
		if s.Reason != "CrashLoop" || s.Message != "1 failure within 10m0s (spec.restart.budget); the last: out of memory (killed by SIGKILL)" {
			t.Errorf("got %s: %s", s.Reason, s.Message)
		}
		if e := s.LastExit; e.Code != 137 || e.Signal != "SIGKILL" || !e.OOM {
			t.Errorf("got exit %+v", e)
		}
		if len(s.LastWords) != 50 || s.LastWords[0] != "line 10" || s.LastWords[49] != "line 59" {
			t.Errorf("got %d last words, want the last 50", len(s.LastWords))
		}
		w.finish()
	})
}

func TestStop_isTimedStepByStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `{"fake":{},"timeouts":{"stop":"10s"}}`, nil)
		w.see(plugin.Starting)
		w.see(plugin.Running)
		one := w.adapter.last(t)
		one.stopped = func(context.Context) { pass(time.Second) }
		ended := make(chan struct{})
		go func() { // ends with the instance
			defer close(ended)
			_, _ = w.invoke("slow", ``)
		}()
		<-one.invoked
		w.want.Desired = plugin.DesiredStopped
		w.plugin.Set(w.want)
		w.see(plugin.Stopping)
		_, err := w.invoke("echo", ``)
		later, ok := errors.AsType[*plugin.Later](err)
		if !ok || !errors.Is(err, plugin.ErrUnavailable) || !strings.Contains(err.Error(), "stopping") || later.After != time.Second {
			t.Errorf("a call during the stop: got %v, want that it is stopping, and when to come again", err)
		}
		stop := w.see(plugin.Stopped).Status.LastStop
		<-ended
		var got []string
		for _, s := range stop.Steps {
			got = append(got, fmt.Sprintf("%s %d %s", s.Name, s.DurationMillis, s.Outcome))
		}
		const want = "intake 0 done, drain 5000 late: 1 in flight, streams 0 done, stop 1000 ended, clean 0 done"
		if all := strings.Join(got, ", "); all != want || stop.DurationMillis != 6000 || stop.Instance == "" {
			t.Errorf("got %s in %d ms, want %s", all, stop.DurationMillis, want)
		}
		w.finish()
	})
}
