package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// retryStopping is what a caller is told to wait whose plugin is stopping: most
// stops are over by then.
const retryStopping = time.Second

// Invoke is Pool.Invoke.
func (p *Plugin) Invoke(ctx context.Context, in plugin.Invocation) (result plugin.Result, err error) {
	one, err := p.enter(ctx)
	if err != nil {
		return plugin.Result{}, err
	}
	defer p.leave(one)
	if p.deps.Trace != nil {
		traced, call, end := p.deps.Trace(ctx, one.adapter.Name(), in)
		ctx, in = traced, call
		defer func() { end(err) }()
	}
	defer p.survive("invoke", &err)
	if in.Parts != nil {
		if in, err = p.argument(ctx, one, in); err != nil {
			return plugin.Result{}, err
		}
	}
	if one.job != nil {
		return p.run(ctx, one.job, in)
	}
	return one.instance.Invoke(ctx, in)
}

// InvokeStream is Pool.InvokeStream.
func (p *Plugin) InvokeStream(ctx context.Context, in plugin.Invocation, send func([]byte) error) (err error) {
	one, err := p.enter(ctx)
	if err != nil {
		return err
	}
	defer p.leave(one)
	if p.deps.Trace != nil {
		traced, call, end := p.deps.Trace(ctx, one.adapter.Name(), in)
		ctx, in = traced, call
		defer func() { end(err) }()
	}
	defer p.survive("invoke", &err)
	if in.Parts != nil {
		if in, err = p.argument(ctx, one, in); err != nil {
			return err
		}
	}
	if s, ok := one.instance.(plugin.StreamInvoker); ok {
		return s.InvokeStream(ctx, in, send)
	}
	var result plugin.Result
	if one.job != nil {
		result, err = p.run(ctx, one.job, in)
	} else {
		result, err = one.instance.Invoke(ctx, in)
	}
	if err != nil {
		return err
	}
	return send(result.Data)
}

// argument leaves an argument in parts to an operation that takes it. For any other it
// makes a whole of it: the one part, if the plugin's operations tell parts apart, else
// the lines as they came.
func (p *Plugin) argument(ctx context.Context, one *living, in plugin.Invocation) (plugin.Invocation, error) {
	taker, knows := one.instance.(plugin.PartsTaker)
	if knows {
		in.ContentType = ""
		if taker.TakesParts(in.Operation) {
			return in, nil
		}
	}
	next, most := in.Parts, int64(p.want.Load().Manifest.Spec.Limits.Payload)
	in.Parts = nil
	for count := 0; ; count++ {
		part, err := next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return in, nil
		case err != nil:
			return in, fmt.Errorf("argument: %w", err)
		case knows && count > 0:
			return in, fmt.Errorf("argument: %w: it has several parts, and the operation takes one", plugin.ErrInvalid)
		case int64(len(in.Data)+len(part)) > most:
			return in, fmt.Errorf("argument: %w: its parts have more than %d bytes together, spec.limits.payload, and the plugin takes them as a whole", plugin.ErrInvalid, most)
		}
		if in.Data = append(in.Data, part...); !knows {
			in.Data = append(in.Data, '\n')
		}
	}
}

// Describe is Pool.Describe.
func (p *Plugin) Describe(ctx context.Context) (operations []plugin.Operation, err error) {
	one, err := p.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer p.leave(one)
	defer p.survive("describe", &err)
	if one.job != nil {
		return []plugin.Operation{{Name: runOperation, Summary: "launch a run; its input is the argument, its output the result"}}, nil
	}
	d, ok := one.instance.(plugin.Describer)
	if !ok {
		return nil, fmt.Errorf("%w: the %s adapter cannot list operations", plugin.ErrNotFound, one.adapter.Name())
	}
	return d.Describe(ctx)
}

// enter takes a place among the invocations in flight of an instance of the pool;
// leave gives it back.
func (p *Plugin) enter(ctx context.Context) (*living, error) {
	for {
		one, err := p.pool.take()
		if one != nil || err != nil {
			return one, err
		}
		if err := p.pool.await(ctx); err != nil {
			return nil, err
		}
	}
}

func (p *Plugin) inFlightLimit() int64 {
	return int64(p.want.Load().Manifest.Spec.Limits.InFlight)
}

func (p *Plugin) leave(one *living) {
	one.of.inFlight.Add(-1)
	if one.inFlight.Add(-1) == 0 && one.draining.Load() {
		select {
		case one.idle <- struct{}{}:
		default: // it is told already
		}
	}
}

func comingUp(state plugin.State, desired plugin.Desired) bool {
	switch state {
	case plugin.Pending, plugin.Starting, plugin.Running, plugin.Degraded, plugin.Stopping, plugin.Stopped:
		return desired != plugin.DesiredStopped
	}
	return false
}

func notRunning(status plugin.Status) error {
	text := "it is " + string(status.State)
	if status.Message != "" {
		text += ": " + status.Message
	}
	err := fmt.Errorf("%w: %s", plugin.ErrUnavailable, text)
	switch {
	case status.State == plugin.Stopping:
		return &plugin.Later{Err: err, After: retryStopping}
	case status.State == plugin.Backoff && status.RetryAt != nil:
		return &plugin.Later{Err: err, After: max(0, time.Until(*status.RetryAt))}
	}
	return err
}

// drain waits until nothing is in flight in an instance that gets no new calls, or
// for half of the time left: the other half is for the stop itself. It returns how
// that went.
func (p *Plugin) drain(ctx context.Context, one *living) (outcome string) {
	deadline, _ := ctx.Deadline()
	half, cancel := context.WithTimeout(ctx, time.Until(deadline)/2)
	defer cancel()
	one.drain(half)
	return p.drained(one)
}

// drained is the outcome of a drain.
func (p *Plugin) drained(one *living) (outcome string) {
	left := one.inFlight.Load()
	if left == 0 {
		return stepDone
	}
	p.deps.Log.Warn("invocations were still in flight at the stop", "plugin", p.name, "instance", one.id, "inFlight", left)
	return fmt.Sprintf("%s: %d in flight", stepLate, left)
}

// drain waits until nothing is in flight, or ctx ends.
func (one *living) drain(ctx context.Context) {
	one.draining.Store(true)
	defer one.draining.Store(false)
	for one.inFlight.Load() > 0 {
		select {
		case <-one.idle:
		case <-ctx.Done():
			return
		}
	}
}
