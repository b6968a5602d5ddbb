package conformance

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// stopIn stops with that much grace and fails when it takes longer than allowed.
func (f Fixture) stopIn(t *testing.T, r running, grace time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	begin := time.Now()
	if err := r.Stop(ctx); err != nil {
		t.Errorf("stop with %v: %v", grace, err)
	}
	if took, most := time.Since(begin), grace+overtimeMost+f.Slack; took > most {
		t.Errorf("stop with %v: took %v, want at most %v", grace, took, most)
	}
	f.gone(t, r)
}

// gone: Stop has returned, so the instance is gone now, not soon.
func (f Fixture) gone(t *testing.T, r running) {
	t.Helper()
	if f.Process && alive(pid(t, r)) {
		t.Errorf("stop returned, and process %d is there", pid(t, r))
	}
	if _, err := ends(r, overtimeMost); err != nil {
		t.Errorf("after stop: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := do(ctx, r, f.Echo, 1); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("invoke after stop: got %v, want plugin.ErrUnavailable", err)
	}
}

// stopTwice: in a row and from several callers.
func stopTwice(t *testing.T, f Fixture) {
	r := f.start(t)
	var stops errgroup.Group
	for range callers {
		stops.Go(func() error {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			return r.Stop(ctx)
		})
	}
	if err := stops.Wait(); err != nil {
		t.Errorf("stop from %d callers: %v", callers, err)
	}
	f.gone(t, r)
	f.stopIn(t, r, time.Second)
}

// stopAtOnce: a context that has already ended means kill.
func stopAtOnce(t *testing.T, f Fixture) {
	r := f.start(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	begin := time.Now()
	if err := r.Stop(ctx); err != nil {
		t.Errorf("stop with an ended context: %v", err)
	}
	if took, most := time.Since(begin), overtimeMost+f.Slack; took > most {
		t.Errorf("stop with an ended context: took %v, want at most %v", took, most)
	}
	f.gone(t, r)
}

// stopInCall: a call under way does not hold Stop up, and ends with the instance.
func stopInCall(t *testing.T, f Fixture) {
	r := f.start(t)
	answer := inFlight(t.Context(), t, f, r)
	f.stopIn(t, r, time.Second)
	select {
	case err := <-answer:
		var no *plugin.Refusal
		if err == nil || errors.As(err, &no) {
			t.Errorf("call during stop: got %v, want that the link broke", err)
		}
	case <-time.After(overtimeMost + f.Slack):
		t.Error("call during stop: does not return")
	}
}

// waitersAgree: everybody who waits gets the same answer, also afterwards.
func waitersAgree(t *testing.T, f Fixture) {
	const waiters = 16
	r := f.start(t)
	exits := make([]plugin.Exit, waiters)
	var all sync.WaitGroup
	for n := range waiters {
		all.Go(func() { exits[n] = r.Wait() }) // ends with the instance
	}
	endedIs(t, r, false)
	f.stopIn(t, r, 5*time.Second)
	all.Wait()
	endedIs(t, r, true)
	for n, e := range append(exits, r.Wait()) {
		if e != exits[0] {
			t.Errorf("waiter %d: got %+v, want %+v", n, e, exits[0])
		}
	}
	if exits[0].At.IsZero() {
		t.Error("exit: has no time")
	}
}

// endedIs: an Ender's channel says what Wait does.
func endedIs(t *testing.T, r running, want bool) {
	t.Helper()
	e, ok := r.Instance.(plugin.Ender)
	if !ok {
		return
	}
	select {
	case <-e.Ended():
		if !want {
			t.Error("ended: closed while the instance runs")
		}
	default:
		if want {
			t.Error("ended: open after Wait has returned")
		}
	}
}

func exitsByItself(t *testing.T, f Fixture) {
	r := f.start(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, _ = do(ctx, r, *f.Exit, 1) // answered or cut off: both are right
	e, err := ends(r, patience)
	if err != nil {
		t.Fatal(err)
	}
	if e.Code != f.Exit.WantCode || e.Signal != "" {
		t.Errorf("exit: got %+v, want code %d", e, f.Exit.WantCode)
	}
	f.gone(t, r)
}

// killIsNoticed: within the bound that issue 3 states, with the signal's name.
func killIsNoticed(t *testing.T, f Fixture) {
	best := patience
	for range attempts {
		r := f.start(t)
		begin := time.Now()
		f.signal(t, r, syscall.SIGKILL)
		e, err := ends(r, patience)
		best = min(best, time.Since(begin))
		if err != nil {
			t.Fatalf("after SIGKILL: %v", err)
		}
		if e.Signal != "SIGKILL" {
			t.Errorf("after SIGKILL: got %+v, want signal SIGKILL", e)
		}
		f.gone(t, r)
	}
	if most := noticeMost + f.Slack; best > most {
		t.Errorf("kill: noticed after %v at best of %d, want at most %v", best, attempts, most)
	}
}

// stopFrozen: a process that hears nothing is killed when the grace ends.
func stopFrozen(t *testing.T, f Fixture) {
	r := f.start(t)
	f.signal(t, r, syscall.SIGSTOP)
	f.stopIn(t, r, 500*time.Millisecond)
	stepsTold(t, r)
}

// stepsTold: who tells the steps of a stop tells at least one, and that the last
// one ended it.
func stepsTold(t *testing.T, r running) {
	t.Helper()
	s, ok := r.Instance.(plugin.Stepper)
	if !ok {
		return
	}
	steps := s.StopSteps()
	if len(steps) == 0 || steps[len(steps)-1].Outcome != "ended" {
		t.Errorf("steps of the stop: got %+v, want the last to have ended it", steps)
	}
}

// wrongDigest: another executable, module or image than the manifest names is
// never run.
func wrongDigest(t *testing.T, f Fixture) {
	const other = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	l := f.launch(t)
	l.Manifest.Spec.Digest = other
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	i, err := f.Adapter.Launch(ctx, l)
	if err == nil {
		_ = i.Stop(ctx)
		t.Fatalf("launch with digest %s: got an instance, want an error", other)
	}
	if !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("launch with digest %s: got %v, want plugin.ErrInvalid", other, err)
	}
	nothingLeft(t, l)
}

// launchCancelled: at whatever moment a launch is called off, it returns soon and
// leaves nothing.
func launchCancelled(t *testing.T, f Fixture) {
	whole := f.launchTime(t)
	base := count()
	for _, percent := range []int{0, 1, 5, 10, 25, 50, 75, 90, 97} {
		after := whole * time.Duration(percent) / 100
		t.Run(fmt.Sprintf("after %d percent", percent), func(t *testing.T) { f.cancelAfter(t, after) })
	}
	Eventually(t, patience, func() error { return backTo(base) })
}

// launchTime is how long one launch takes; the instance is stopped again.
func (f Fixture) launchTime(t *testing.T) time.Duration {
	t.Helper()
	begin := time.Now()
	r := f.start(t)
	took := time.Since(begin)
	f.end(t, r)
	return took
}

func (f Fixture) cancelAfter(t *testing.T, after time.Duration) {
	l := f.launch(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if after == 0 {
		cancel()
	} else {
		defer time.AfterFunc(after, cancel).Stop()
	}
	begin := time.Now()
	i, err := f.Adapter.Launch(ctx, l)
	late := time.Since(begin) - after
	switch {
	case err == nil && after == 0:
		t.Error("launch with an ended context: got an instance, want an error")
		fallthrough
	case err == nil: // it was faster than the cancel
		f.end(t, running{i, l, l.Output.(*Output)})
	case late > reapMost+f.Slack:
		t.Errorf("launch cancelled after %v: returned %v later, want at most %v", after, late, reapMost+f.Slack)
	}
	nothingLeft(t, l)
}

// launchDeadline: a start that takes too long is ErrDeadline, and leaves nothing.
func launchDeadline(t *testing.T, f Fixture) {
	l := f.launch(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
	defer cancel()
	<-ctx.Done()
	i, err := f.Adapter.Launch(ctx, l)
	if err == nil {
		f.end(t, running{i, l, l.Output.(*Output)})
		t.Fatal("launch after its deadline: got an instance, want an error")
	}
	if !errors.Is(err, plugin.ErrDeadline) {
		t.Errorf("launch after its deadline: got %v, want plugin.ErrDeadline", err)
	}
	nothingLeft(t, l)
}

// nothingGrows: goroutines, open files and children are as many after five lives
// as after one.
func nothingGrows(t *testing.T, f Fixture) {
	const lives = 5
	f.life(t) // the first fills what is shared: pools, caches
	base := count()
	for range lives {
		f.life(t)
	}
	Eventually(t, patience, func() error { return backTo(base) })
}

func (f Fixture) life(t *testing.T) {
	t.Helper()
	r := f.start(t)
	if err := f.echo(r, 1); err != nil {
		t.Error(err)
	}
	f.end(t, r)
}
