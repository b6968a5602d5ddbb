// Package dispatch brings an invocation to the plugin it is for: it finds the
// plugin, sets the deadline, keeps the size limits, and records the outcome. It
// has no queue and starts no goroutine; the bus is not on its path.
package dispatch

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/supervise"
	"github.com/patchbay-dev/patchbay/core/trace"
)

// Plugins finds the supervisor of a plugin.
type Plugins interface {
	Lookup(name string) (*supervise.Pool, bool)
}

// Dispatch invokes plugins. It is safe for concurrent use.
type Dispatch struct {
	// Trace tells of each invocation; nil: of none. To be set before the first.
	Trace *trace.Tracer

	plugins Plugins
	record  func(plugin.InvocationRecord)
	prefix  string
	count   atomic.Uint64
}

// New makes a Dispatch over plugins. record is told every finished invocation;
// it must return at once.
func New(plugins Plugins, record func(plugin.InvocationRecord)) *Dispatch {
	var random [6]byte
	rand.Read(random[:]) // never fails: crypto/rand
	return &Dispatch{plugins: plugins, record: record, prefix: hex.EncodeToString(random[:]) + "-"}
}

// Invoke calls one operation of one plugin, within the shorter of ctx's deadline
// and spec.timeouts.invoke. For an argument in parts that is the wait for each part,
// not for the whole.
func (d *Dispatch) Invoke(ctx context.Context, in plugin.Invocation) (result plugin.Result, err error) {
	in.ID = d.id(in.ID)
	if d.Trace != nil {
		traced, end := d.Trace.Dispatch(ctx, in)
		ctx = traced
		defer func() { end(err) }()
	}
	return d.invoke(ctx, in)
}

func (d *Dispatch) invoke(ctx context.Context, in plugin.Invocation) (plugin.Result, error) {
	p, spec, err := d.find(in)
	if err != nil {
		return plugin.Result{}, err
	}
	began := time.Now()
	if in.Parts != nil {
		wait, end := newPatience(ctx, spec.Timeouts.Invoke.Std())
		defer end()
		ctx, in.Parts = wait.ctx, wait.parts(in.Parts, spec.Limits.Payload)
	} else {
		within, cancel, house := within(ctx, began, spec.Timeouts.Invoke.Std())
		defer cancel()
		ctx, in.HouseDeadline = within, house
	}
	result, err := p.Invoke(ctx, in)
	if err == nil && int64(len(result.Data)) > int64(spec.Limits.Payload) {
		err = tooLarge(len(result.Data), spec.Limits.Payload)
	}
	err = d.done(ctx, in, began, err)
	if err != nil {
		return plugin.Result{}, err
	}
	return result, nil
}

// InvokeStream calls one operation and hands each part of the answer to send.
// spec.timeouts.invoke bounds the wait for each part, of the answer or of the argument,
// not the whole.
func (d *Dispatch) InvokeStream(ctx context.Context, in plugin.Invocation, send func([]byte) error) (err error) {
	in.ID = d.id(in.ID)
	if d.Trace != nil {
		traced, end := d.Trace.Dispatch(ctx, in)
		ctx = traced
		defer func() { end(err) }()
	}
	return d.invokeStream(ctx, in, send)
}

func (d *Dispatch) invokeStream(ctx context.Context, in plugin.Invocation, send func([]byte) error) error {
	p, spec, err := d.find(in)
	if err != nil {
		return err
	}
	began := time.Now()
	wait, end := newPatience(ctx, spec.Timeouts.Invoke.Std())
	defer end()
	if in.Parts != nil {
		in.Parts = wait.parts(in.Parts, spec.Limits.Payload)
	}
	err = p.InvokeStream(wait.ctx, in, func(part []byte) error {
		if int64(len(part)) > int64(spec.Limits.Payload) {
			return tooLarge(len(part), spec.Limits.Payload)
		}
		wait.stop()
		defer wait.start()
		return send(part)
	})
	return d.done(wait.ctx, in, began, err)
}

func (d *Dispatch) find(in plugin.Invocation) (*supervise.Pool, *plugin.Spec, error) {
	p, ok := d.plugins.Lookup(in.Plugin)
	if !ok {
		return nil, nil, fmt.Errorf("plugin %q: %w", in.Plugin, plugin.ErrNotFound)
	}
	spec := &p.Wanted().Manifest.Spec
	if int64(len(in.Data)) > int64(spec.Limits.Payload) {
		return nil, nil, fmt.Errorf("%w: the argument has %d bytes, spec.limits.payload allows %d", plugin.ErrInvalid, len(in.Data), spec.Limits.Payload)
	}
	return p, spec, nil
}

// id keeps the caller's id, or makes one that is unique among all daemons.
func (d *Dispatch) id(given string) string {
	if given != "" {
		return given
	}
	var room [32]byte
	return string(strconv.AppendUint(append(room[:0], d.prefix...), d.count.Add(1), 36))
}

// within sets a deadline unless ctx has an earlier one: a context costs more than
// the rest of dispatch. house is true when the caller gave none.
func within(ctx context.Context, now time.Time, most time.Duration) (limited context.Context, cancel context.CancelFunc, house bool) {
	limit := now.Add(most)
	deadline, given := ctx.Deadline()
	if given && !deadline.After(limit) {
		return ctx, func() {}, false
	}
	limited, cancel = context.WithDeadline(ctx, limit)
	return limited, cancel, !given
}

// tooLarge is ErrInvalid, as in the adapters: asking again gets the same answer;
// asking for less, or a larger limit, does not.
func tooLarge(got int, limit plugin.Bytes) error {
	return fmt.Errorf("%w: it answered %d bytes, spec.limits.payload allows %d", plugin.ErrInvalid, got, limit)
}

// done gives an error its class and records the outcome.
func (d *Dispatch) done(ctx context.Context, in plugin.Invocation, began time.Time, err error) error {
	outcome := "ok"
	if err != nil {
		outcome, err = classify(ctx, in, err)
	}
	d.record(plugin.InvocationRecord{
		ID: in.ID, Plugin: in.Plugin, Operation: in.Operation, Caller: in.Caller,
		Time: began, DurationMicros: time.Since(began).Microseconds(), Outcome: outcome,
	})
	return err
}

// classes are the error classes with the words that records use.
var classes = [...]struct {
	err  error
	word string
}{
	{plugin.ErrDeadline, "deadline"}, {plugin.ErrInvalid, "invalid"}, {plugin.ErrDenied, "denied"}, {plugin.ErrNotFound, "not-found"},
	{plugin.ErrConflict, "conflict"}, {plugin.ErrBusy, "busy"}, {plugin.ErrUnavailable, "unavailable"},
}

func classify(ctx context.Context, in plugin.Invocation, err error) (outcome string, classed error) {
	if refusal, ok := errors.AsType[*plugin.Refusal](err); ok {
		return "refused", refusal
	}
	err = fmt.Errorf("plugin %s: %s: %w", in.Plugin, in.Operation, err)
	late := errors.Is(err, context.DeadlineExceeded) && errors.Is(context.Cause(ctx), context.DeadlineExceeded)
	if late && !errors.Is(err, plugin.ErrDeadline) { // "unavailable: context deadline exceeded" is the deadline
		return "deadline", fmt.Errorf("%w: %w", plugin.ErrDeadline, err)
	}
	for _, c := range classes {
		if errors.Is(err, c.err) {
			return c.word, err
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return "deadline", fmt.Errorf("%w: %w", plugin.ErrDeadline, err)
	}
	return "unavailable", fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
}
