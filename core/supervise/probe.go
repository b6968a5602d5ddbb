package supervise

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/patchbay-dev/patchbay/core/lifecycle"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// answer is one probe's.
type answer struct {
	of  plugin.ConditionType // ConditionReady or ConditionLive
	err error
}

// startProbes asks the instance for signs of life again and again, beside watch,
// so that a probe that hangs does not hide an exit.
func (p *Plugin) startProbes(phase context.Context, one *living) (<-chan answer, func()) {
	if _, ok := one.instance.(plugin.Prober); !ok && one.dir == "" {
		return nil, func() {} // resident: there is nothing that could hang on its own
	}
	ctx, cancel := context.WithCancel(phase)
	answers := make(chan answer) // unbuffered: no probe while an answer is not taken
	var done sync.WaitGroup
	done.Go(func() { p.probe(ctx, one, answers) }) // ends with ctx
	return answers, func() { cancel(); done.Wait() }
}

// rounds is when each kind of probe was answered last.
type rounds struct{ ready, live time.Time }

// next says which probe is due next, and when.
func (r *rounds) next(settings plugin.Probe, now time.Time) (of plugin.ConditionType, wait time.Duration) {
	wait = r.ready.Add(settings.Interval.Std()).Sub(now)
	if settings.Liveness == nil {
		r.live = now // from when it is asked for
		return plugin.ConditionReady, wait
	}
	if live := r.live.Add(settings.Liveness.Interval.Std()).Sub(now); live < wait {
		return plugin.ConditionLive, live
	}
	return plugin.ConditionReady, wait
}

// probe hands each answer to answers until ctx ends.
func (p *Plugin) probe(ctx context.Context, one *living, answers chan<- answer) {
	ready, live := asker{plugin: p, one: one}, asker{plugin: p, one: one}
	defer func() { ready.close(); live.close() }()
	last := rounds{time.Now(), time.Now()}
	for {
		settings := p.Wanted().Manifest.Spec.Probe // as they are now
		of, wait := last.next(settings, time.Now())
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		given := answer{of: of}
		if of == plugin.ConditionLive {
			given.err = live.ask(ctx, settings.Liveness.Question, settings.Liveness.Timeout.Std())
			last.live = time.Now()
		} else {
			given.err = ready.ask(ctx, settings.Question, settings.Timeout.Std())
			last.ready = time.Now()
		}
		select {
		case answers <- given:
		case <-ctx.Done():
			return
		}
	}
}

func (c *call) over() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// health is what the probes of the instance that runs have said.
type health struct{ ready, live verdict }

// verdict is what one kind of probe has said.
type verdict struct {
	failures, successes int // in a row; one of them is 0
	last                string
}

func (v *verdict) take(err error) {
	if err == nil {
		*v = verdict{successes: v.successes + 1}
		return
	}
	*v = verdict{failures: v.failures + 1, last: err.Error()}
}

// sentence says a failure in words.
func (v verdict) sentence() string {
	if v.failures == 1 {
		return v.last
	}
	return fmt.Sprintf("%d probes in a row failed; the last: %s", v.failures, v.last)
}

// probed takes one answer. It returns false when the instance must go.
func (p *Plugin) probed(a answer) (mayLive bool) {
	settings := p.Wanted().Manifest.Spec.Probe
	ready, live, turned := p.judge(a)
	switch state := p.state(); {
	case a.of == plugin.ConditionLive && settings.Liveness != nil && live.failures >= settings.Liveness.Failures:
		return false
	case a.of == plugin.ConditionLive:
		if turned {
			p.refresh(func(*plugin.Status) {}) // its condition is another now
		}
	case state == plugin.Degraded && ready.successes >= settings.Successes:
		p.to(lifecycle.Well, nil)
	case state == plugin.Running && ready.failures >= settings.Failures:
		p.to(lifecycle.Unwell, because("ProbeFailed", ready.sentence()))
	}
	return true
}

// judge counts an answer; turned is true when it is another one than the last.
func (p *Plugin) judge(a answer) (ready, live verdict, turned bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	of := &p.health.ready
	if a.of == plugin.ConditionLive {
		of = &p.health.live
	}
	before := *of
	of.take(a.err)
	turned = (before.failures == 0) != (of.failures == 0) || before.successes+before.failures == 0
	if turned {
		p.concludeLocked()
	}
	return p.health.ready, p.health.live, turned
}

// putDown ends an instance that is there and not alive: at once, since who does
// not answer a probe will not answer the question to stop.
func (p *Plugin) putDown(one *living) {
	p.mu.Lock()
	live := p.health.live
	p.mu.Unlock()
	p.refresh(because("LivenessFailed", live.sentence()+"; it is being killed"))
	now, cancel := context.WithCancel(context.Background())
	cancel()
	p.end(now, one)
}

// unalive is the failure of an instance that was put down.
func (p *Plugin) unalive(exit *plugin.Exit, words []string) failure {
	p.mu.Lock()
	defer p.mu.Unlock()
	return failure{reason: "LivenessFailed", message: p.health.live.sentence() + "; it was killed", exit: exit, words: words}
}
