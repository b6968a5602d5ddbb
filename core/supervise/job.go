package supervise

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/core/lifecycle"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// runOperation is the one operation of a job.
const runOperation = "run"

// refusalLinesMax is how many last lines the refusal of a failed run quotes.
const refusalLinesMax = 10

// jobs is what a job has in the place of an instance.
type jobs struct {
	want *Want
	ctx  context.Context // of the phase: ends every run
}

// offerRuns lets invocations launch runs until the phase ends, once the adapter can
// launch any.
func (p *Plugin) offerRuns(phase context.Context, want *Want) {
	p.to(lifecycle.Begin, func(s *plugin.Status) { s.Facts, s.Limits, s.LastWords = nil, nil, nil })
	if down := p.adapterDown(phase, want); down != nil {
		p.cannotRun(phase, want, down)
		return
	}
	p.attempts.forget()
	ctx, cancel := context.WithCancel(context.WithoutCancel(phase))
	defer cancel()
	one := p.newLiving("", "", p.deps.Adapters[want.Manifest.Spec.Adapter], want)
	one.job = &jobs{want: want, ctx: ctx}
	p.to(lifecycle.Ready, func(s *plugin.Status) {
		because("Job", "launched once per invocation")(s)
		p.living.Store(one)
	})
	p.watchAdapter(phase, want)
	p.living.Store(nil)
	steps := beginStop("")
	steps.do("intake", func() string { p.to(lifecycle.Halt, nil); return stepDone })
	stop, end := context.WithTimeout(ctx, p.Wanted().Manifest.Spec.Timeouts.Stop.Std())
	defer end()
	steps.do("drain", func() string { return p.drain(stop, one) })
	steps.do("runs", func() string { // each ends within its stop time
		cancel()
		one.drain(context.Background())
		return stepDone
	})
	p.to(lifecycle.Gone, func(s *plugin.Status) { s.LastStop = steps.whole() })
}

// cannotRun waits for the next try, as a service does whose launch failed for the same
// reason.
func (p *Plugin) cannotRun(phase context.Context, want *Want, down error) {
	if phase.Err() != nil {
		p.to(lifecycle.Halt, nil)
		p.to(lifecycle.Gone, nil)
		return
	}
	p.failed(want, adapterUnavailable(down))
	p.afterDeath(phase)
}

// watchAdapter keeps a job's state true: it can run only while its adapter can.
func (p *Plugin) watchAdapter(phase context.Context, want *Want) {
	ticker := time.NewTicker(want.Manifest.Spec.Probe.Interval.Std())
	defer ticker.Stop()
	for {
		down := p.adapterDown(phase, want)
		switch state := p.state(); {
		case phase.Err() != nil:
			return
		case down != nil && state == plugin.Running:
			p.to(lifecycle.Unwell, because("AdapterUnavailable", down.Error()))
		case down == nil && state == plugin.Degraded:
			p.to(lifecycle.Well, because("Job", "launched once per invocation"))
		}
		select {
		case <-ticker.C:
		case <-phase.Done():
			return
		}
	}
}

// run launches one run, waits for its exit, and returns what it printed to
// stdout. An exit code other than 0 is a refusal.
func (p *Plugin) run(ctx context.Context, j *jobs, in plugin.Invocation) (plugin.Result, error) {
	if in.Operation != runOperation {
		return plugin.Result{}, fmt.Errorf("operation %q: %w: a job has one operation, %q", in.Operation, plugin.ErrNotFound, runOperation)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(j.ctx, cancel)()
	one, err := p.launch(ctx, p.newID(), j.want, in.Data)
	if err != nil {
		if s := p.Status(); s.State == plugin.Degraded { // the adapter says better what would help
			err = fmt.Errorf("%w: %s", plugin.ErrUnavailable, s.Message)
		}
		return plugin.Result{}, j.called(err)
	}
	select {
	case <-one.exited:
		defer p.bury(one)
		return p.outcome(one, j.want)
	case <-ctx.Done():
		p.cutShort(one)
		return plugin.Result{}, fmt.Errorf("run %s: %w", one.id, j.called(fmt.Errorf("%w: stopped before it ended: %w", plugin.ErrDeadline, ctx.Err())))
	}
}

// called says of a run that did not end by itself that the job was stopped, when
// that is why.
func (j *jobs) called(err error) error {
	if j.ctx.Err() != nil {
		return fmt.Errorf("%w: the job was stopped", plugin.ErrUnavailable)
	}
	return err
}

// cutShort stops a run whose caller has left. The caller waits for that only as
// long as a stop may take; what is left of the run is Plugin.Run's to wait for.
func (p *Plugin) cutShort(one *living) {
	patience := p.Wanted().Manifest.Spec.Timeouts.Stop.Std()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	gone := make(chan struct{})
	p.strays.Go(func() { // ends with the run
		defer close(gone)
		p.end(ctx, one)
		p.bury(one)
	})
	closedWithin(gone, patience+overtimeMax)
}

func (p *Plugin) outcome(one *living, want *Want) (plugin.Result, error) {
	one.log.Close()
	switch exit := p.exit(one.instance); {
	case exit.OOM || exit.Signal != "" || exit.Code < 0:
		return plugin.Result{}, fmt.Errorf("run %s: %w: %s", one.id, plugin.ErrUnavailable, exit)
	case !exit.Success():
		words := lastWords(one.log)
		words = words[max(0, len(words)-refusalLinesMax):]
		return plugin.Result{}, &plugin.Refusal{Code: fmt.Sprintf("exit-%d", exit.Code), Message: strings.Join(words, "\n")}
	}
	data, whole := one.log.Stdout(int(want.Manifest.Spec.Limits.Payload))
	if !whole {
		return plugin.Result{}, fmt.Errorf("run %s: %w: it printed more than %d bytes (spec.limits.payload)",
			one.id, plugin.ErrInvalid, want.Manifest.Spec.Limits.Payload)
	}
	contentType := "text/plain; charset=utf-8"
	if json.Valid(data) {
		contentType = "application/json"
	}
	return plugin.Result{Data: data, ContentType: contentType}, nil
}
