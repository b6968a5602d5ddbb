package supervise

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// An adapter is other people's libraries behind a contract. This file is the wall
// around its calls: a panic becomes an error with its stack in the daemon's log,
// and a call that does not return is given up or waited for beside, never in the
// way of a stop or of a caller. A panic on a goroutine of the adapter's own is out
// of reach.

const (
	// overtimeMax is how much longer than its context a call may take before it
	// is given up: a launch that was called off cleans up first.
	overtimeMax = 10 * time.Second
	// probeOvertime is the same for a probe, which has nothing to clean up.
	probeOvertime = 100 * time.Millisecond
	// stopAgainEvery is the wait before an instance that is still there is asked
	// again: its engine may be back by then.
	stopAgainEvery = 5 * time.Second
	// availableMax is more than plugin.Availability promises.
	availableMax = 2 * time.Second
)

// errStuck is the error of a call that was given up.
var errStuck = fmt.Errorf("%w: the adapter does not return", plugin.ErrDeadline)

// call is one call into an adapter, on a goroutine of its own.
type call struct {
	done chan struct{}
	err  error // of what was called, once done
}

func (p *Plugin) begin(what string, f func() error) *call {
	c := &call{done: make(chan struct{})}
	go func() { // ends with f; who gives it up keeps the call
		defer close(c.done)
		defer p.survive(what, &c.err)
		c.err = f()
	}()
	return c
}

// wait returns the call's error, or errStuck when it takes longer than ctx and
// overtime.
func (c *call) wait(ctx context.Context, overtime time.Duration) error {
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
	}
	if closedWithin(c.done, overtime) {
		return c.err
	}
	return errStuck
}

func closedWithin(c <-chan struct{}, most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-c:
		return true
	case <-timer.C:
		return false
	}
}

// survive turns a panic in an adapter into an error. It is for defer only.
func (p *Plugin) survive(what string, err *error) {
	why := recover()
	if why == nil {
		return
	}
	p.deps.Log.Error("an adapter panicked", "plugin", p.name, "adapter", p.Wanted().Manifest.Spec.Adapter,
		"call", what, "panic", fmt.Sprint(why), "stack", string(debug.Stack()))
	*err = fmt.Errorf("%s: %w: the adapter panicked; the daemon's log has the stack", what, plugin.ErrUnavailable)
}

// bringUp launches an instance; on error it and what it owned are gone, or will be
// once the adapter returns.
func (p *Plugin) bringUp(ctx context.Context, one *living, l plugin.Launch) error {
	c := p.begin("launch", func() (err error) {
		one.instance, err = one.adapter.Launch(ctx, l)
		return err
	})
	err := c.wait(ctx, overtimeMax)
	switch {
	case err == nil:
		one.exited = p.exited(one.instance)
	case errors.Is(err, errStuck):
		p.deps.Log.Error("an adapter does not return from a launch; it is given up", "plugin", p.name, "instance", one.id)
		p.lost.Add(1)
		p.strays.Go(func() { p.bringDown(c, one) }) // ends with the launch
	default:
		p.bury(one)
	}
	return err
}

// bringDown waits for a launch that was given up and removes what it brought.
func (p *Plugin) bringDown(c *call, one *living) {
	defer p.lost.Add(-1)
	<-c.done
	if c.err == nil {
		one.exited = p.exited(one.instance)
		ctx, cancel := context.WithTimeout(context.Background(), p.Wanted().Manifest.Spec.Timeouts.Stop.Std())
		defer cancel()
		p.end(ctx, one)
	}
	p.bury(one)
}

// end stops an instance and returns once it is gone. It is asked again while it
// is not: an engine that did not answer may, and "stopped" would be a lie.
func (p *Plugin) end(ctx context.Context, one *living) {
	asked := p.begin("stop", func() error { return one.instance.Stop(ctx) })
	err := asked.wait(ctx, overtimeMax)
	for !closedWithin(one.exited, stopAgainEvery) {
		p.notGone(one, err)
		if !errors.Is(err, errStuck) {
			asked, err = p.askAgain(one)
		} else if asked.over() {
			err = asked.err
		}
	}
	if err != nil {
		p.deps.Log.Warn("the stop was not clean", "plugin", p.name, "instance", one.id, "error", err)
	}
}

func (p *Plugin) askAgain(one *living) (*call, error) {
	ctx, cancel := context.WithTimeout(context.Background(), p.Wanted().Manifest.Spec.Timeouts.Stop.Std())
	defer cancel()
	asked := p.begin("stop", func() error { return one.instance.Stop(ctx) })
	return asked, asked.wait(ctx, overtimeMax)
}

// notGone tells that an instance is still there after its stop.
func (p *Plugin) notGone(one *living, err error) {
	if err == nil {
		err = errors.New("its adapter says that it is stopped")
	}
	p.deps.Log.Error("an instance is still there after its stop", "plugin", p.name, "instance", one.id, "error", err)
	p.refresh(func(s *plugin.Status) {
		if s.Instance == one.id && s.State == plugin.Stopping {
			s.Reason, s.Message = "StopFailed", err.Error()
		}
	})
}

// exit is how an instance ended. It is for instances that are gone.
func (p *Plugin) exit(instance plugin.Instance) (exit plugin.Exit) {
	var err error
	defer func() {
		if err != nil {
			exit = plugin.Exit{Code: -1, Message: err.Error(), At: time.Now()}
		}
	}()
	defer p.survive("wait", &err)
	return instance.Wait()
}

// exited returns a channel that is closed when the instance is gone.
func (p *Plugin) exited(instance plugin.Instance) <-chan struct{} {
	if e, ok := instance.(plugin.Ender); ok {
		return e.Ended()
	}
	gone := make(chan struct{})
	go func() { // ends with the instance, which its supervisor outlives
		defer close(gone)
		p.exit(instance)
	}()
	return gone
}

func (p *Plugin) inspect(instance plugin.Instance) (facts map[string]string) {
	i, ok := instance.(plugin.Inspector)
	if !ok {
		return nil
	}
	var err error
	defer p.survive("inspect", &err)
	return i.Inspect()
}

// digest is that of what the instance runs; empty when nobody can tell.
func (p *Plugin) digest(ctx context.Context) (digest string, err error) {
	one := p.living.Load()
	if one == nil || one.instance == nil {
		return "", nil
	}
	d, ok := one.instance.(plugin.Digester)
	if !ok {
		return "", nil
	}
	defer p.survive("digest", &err)
	return d.Digest(ctx)
}

func (p *Plugin) limits(instance plugin.Instance) (limits []plugin.LimitStatus) {
	i, ok := instance.(plugin.Limited)
	if !ok {
		return nil
	}
	var err error
	defer p.survive("limits", &err)
	return i.Limits()
}

// adapterDown says why the adapter can launch nothing at all now; nil if it can.
// It is for Run's goroutine.
func (p *Plugin) adapterDown(ctx context.Context, want *Want) error {
	a, ok := p.deps.Adapters[want.Manifest.Spec.Adapter].(plugin.Availability)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, availableMax)
	defer cancel()
	if p.asked == nil || p.asked.over() { // one that hangs is not asked twice
		p.asked = p.begin("available", func() error { return a.Available(ctx) })
	}
	return p.asked.wait(ctx, 0)
}
