package supervise

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/patchbay-dev/patchbay/core/lifecycle"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// firstProbeEvery is how soon a new instance is asked again whose first probe was
// not answered well: as often as a startup probe asks.
const firstProbeEvery = plugin.Duration(250 * time.Millisecond)

// succession is what follows one instance: at most one new instance at a time, and
// none while the one before is still ending. It is for Run's goroutine.
type succession struct {
	plugin *Plugin
	phase  context.Context
	of     *living
	due    bool       // another is wanted
	next   *successor // being launched and probed; nil: none
}

// successor is a new instance beside the one that runs, until it takes its place.
type successor struct {
	one    *living // to be read once it is up
	want   *Want
	cancel context.CancelFunc
	up     *call // launch and first probe
	reload plugin.Reload
	steps  *steps
	words  []string // what it printed before it failed
}

// unserved reports that the instance that runs does not serve what is wanted.
func (p *Plugin) unserved() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.serving != p.want.Load().Launch
}

// canFollow reports whether an instance for a wish may be launched beside the one
// that runs.
func (p *Plugin) canFollow(want *Want) bool {
	one := p.living.Load()
	return one != nil && one.job == nil && p.mayOverlap(one.want, want)
}

// mayReload is Pool.MayReload for one instance.
func (p *Plugin) mayReload() error {
	one, want := p.living.Load(), p.Wanted()
	switch {
	case want.Manifest.Spec.Mode == plugin.Job:
		return errors.New("a job has no instance that stays; its next run is launched anew")
	case one == nil:
		return fmt.Errorf("it is %s; only what runs can be reloaded", p.state())
	}
	adapter := p.deps.Adapters[want.Manifest.Spec.Adapter]
	if err := plugin.MayOverlap(adapter, want.Manifest); err != nil {
		return fmt.Errorf("%w; replace it with: patchbay restart %s", err, p.name)
	}
	return nil
}

// mayOverlap reports whether instances of both wishes may be there at once.
func (p *Plugin) mayOverlap(old, next *Want) (may bool) {
	if old.Restart != next.Restart || old.Manifest.Spec.Adapter != next.Manifest.Spec.Adapter {
		return false
	}
	var err error
	defer func() { may = may && err == nil }()
	defer p.survive("overlap", &err)
	adapter := p.deps.Adapters[next.Manifest.Spec.Adapter]
	return plugin.MayOverlap(adapter, old.Manifest) == nil && plugin.MayOverlap(adapter, next.Manifest) == nil
}

// ask notes that another instance is wanted. One that is on its way for an earlier
// wish is called off.
func (l *succession) ask() {
	if !l.plugin.unserved() {
		return
	}
	switch {
	case l.next == nil:
		l.due = true
	case l.next.want.Launch != l.plugin.Wanted().Launch:
		l.due = true
		l.next.cancel()
	}
}

// begin launches the next instance when it is time.
func (l *succession) begin() {
	if l.due && l.next == nil && l.plugin.relieved == nil && l.phase.Err() == nil {
		l.due = false
		l.next = l.plugin.launchBeside(l.phase, l.of)
	}
}

// up is closed when the next instance is up, or not to be.
func (l *succession) up() <-chan struct{} {
	if l.next == nil {
		return nil
	}
	return l.next.up.done
}

// take returns the next instance if it is to have the calls; otherwise nothing of it
// is left, or will be.
func (l *succession) take() *successor {
	p, next := l.plugin, l.next
	l.next = nil
	switch {
	case next.up.err == nil && next.want.Launch == p.Wanted().Launch:
		return next
	case next.up.err == nil:
		p.discard(next)
		p.reloaded(next, plugin.ReloadCanceled, "something else was wanted meanwhile")
	case l.due || l.phase.Err() != nil:
		p.reloaded(next, plugin.ReloadCanceled, "something else was wanted meanwhile")
	default:
		p.notFollowed(next)
	}
	return nil
}

// callOff hurries everything beside the instance to its end; gone returns when nothing
// is left of it.
func (l *succession) callOff() {
	if l.next != nil {
		l.next.cancel()
	}
	if l.plugin.relieved != nil {
		l.plugin.relieved.hasten()
	}
}

func (l *succession) gone() {
	p := l.plugin
	if l.next != nil {
		<-l.next.up.done
		if l.next.up.err == nil {
			p.discard(l.next)
		}
		p.reloaded(l.next, plugin.ReloadCanceled, "the old instance ended, or is to stop")
	}
	if p.relieved != nil {
		<-p.relieved.done
		p.relieved = nil
	}
}

// launchBeside begins to bring up an instance for the newest wish.
func (p *Plugin) launchBeside(phase context.Context, old *living) *successor {
	ctx, cancel := context.WithCancel(phase)
	id := p.newID()
	n := &successor{want: p.Wanted(), cancel: cancel, steps: beginStop(id)}
	n.reload = plugin.Reload{
		At: n.steps.stop.At, Generation: n.want.Generation, Outcome: plugin.ReloadLaunching, From: old.id, To: id,
	}
	p.reloads(n.reload)
	n.up = p.begin("reload", func() error { return p.bringBeside(ctx, n) })
	return n
}

// bringBeside launches and asks for the first sign of life. On error nothing is left.
func (p *Plugin) bringBeside(ctx context.Context, n *successor) (err error) {
	if err := p.pool.turn.take(ctx, n.want); err != nil {
		return err
	}
	defer func() { p.pool.turn.give(ctx, n.want, err) }()
	n.steps.do("launch", func() string {
		n.one, err = p.launchAside(ctx, n.reload.To, n.want)
		return outcomeOf(err)
	})
	if err == nil {
		n.steps.do("probe", func() string {
			err = p.firstProbe(ctx, n)
			return outcomeOf(err)
		})
	}
	if failed, ok := errors.AsType[*startError](err); ok {
		n.words = failed.words
	}
	return err
}

func outcomeOf(err error) string {
	if err != nil {
		return "failed"
	}
	return stepDone
}

// firstProbe returns once the readiness probe has passed. When it does not in the
// time of a start, nothing is left of the instance.
func (p *Plugin) firstProbe(ctx context.Context, n *successor) error {
	settings := n.want.Manifest.Spec.Probe
	s := startup{
		asker: asker{plugin: p, one: n.one}, field: "spec.probe",
		probe: &plugin.StartupProbe{Interval: firstProbeEvery, Timeout: settings.Timeout, Question: settings.Question},
	}
	defer s.asker.close()
	ctx, cancel := context.WithTimeout(ctx, n.want.Manifest.Spec.Timeouts.Start.Std())
	defer cancel()
	if err := s.pass(ctx); err != nil {
		return &startError{err: err, words: lastWords(n.one.log)}
	}
	return nil
}

// reloads shows where a reload stands.
func (p *Plugin) reloads(r plugin.Reload) {
	p.refresh(func(s *plugin.Status) { s.LastReload = &r })
}

// notFollowed tells that the new instance did not come up, and that the old one goes
// on.
func (p *Plugin) notFollowed(n *successor) {
	err := n.up.err
	message := err.Error()
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, plugin.ErrDeadline) {
		message = fmt.Sprintf("did not become ready within %s (spec.timeouts.start): %s", n.want.Manifest.Spec.Timeouts.Start.Std(), err)
	}
	p.deps.Log.Warn("a new instance did not come up; the old one goes on", "plugin", p.name,
		"instance", n.reload.To, "old", n.reload.From, "error", err)
	p.reloaded(n, plugin.ReloadFailed, message)
}

// reloaded tells how a reload ended whose new instance is gone.
func (p *Plugin) reloaded(n *successor, outcome plugin.ReloadOutcome, message string) {
	n.cancel()
	r := n.reload
	r.Outcome, r.Message, r.LastWords, r.Steps = outcome, message, n.words, n.steps.stop.Steps
	p.refresh(func(s *plugin.Status) {
		s.LastReload = &r
		if outcome == plugin.ReloadFailed && s.Instance == r.From && s.State == plugin.Running {
			s.Reason, s.Message = "ReloadFailed", "generation "+fmt.Sprint(s.Generation)+" goes on; the new instance: "+message
		}
	})
	p.toldReload(r)
}

// toldReload keeps the order with the changes of state.
func (p *Plugin) toldReload(r plugin.Reload) {
	if p.deps.Reloaded == nil {
		return
	}
	p.telling.Lock()
	defer p.telling.Unlock()
	p.deps.Reloaded(p.name, r)
}

// succeed gives the calls to the new instance, and ends the old one beside it.
func (p *Plugin) succeed(old *living, n *successor) {
	one := n.one
	if now := p.Wanted(); now.Launch == n.want.Launch { // what is read anew each time may have changed
		one.want = now
	}
	n.reload.Outcome, n.reload.Steps = plugin.ReloadDraining, n.steps.stop.Steps
	p.attempts.are(one.want)
	p.keep(one)
	facts, limits, r := p.inspect(one.instance), p.limits(one.instance), n.reload
	p.to(lifecycle.Reload, func(s *plugin.Status) {
		s.Instance, s.Facts, s.Limits, s.LastWords, s.LastReload = one.id, facts, limits, nil, &r
		s.Generation, p.serving = one.want.Generation, one.want.Launch
		p.living.Store(one)
	})
	p.deps.Forget(p.name, old.id)
	p.relieve(old, n.reload)
}

// relief is the end of an instance that another has followed.
type relief struct {
	*call
	hasten context.CancelFunc
}

// relieve ends an instance that gets no new calls: those in flight have as long as
// any invocation, and then it is stopped. It does not wait.
func (p *Plugin) relieve(old *living, r plugin.Reload) {
	calm, hasten := context.WithCancel(context.Background())
	p.relieved = &relief{hasten: hasten, call: p.begin("relieve", func() error {
		steps := beginStop(old.id)
		steps.do("drain", func() string { return p.drainCalmly(calm, old) })
		p.endAndBury(steps, old)
		r.Outcome, r.Steps = plugin.ReloadDone, append(r.Steps[:len(r.Steps):len(r.Steps)], steps.stop.Steps...)
		p.reloads(r)
		p.toldReload(r)
		return nil
	})}
}

// discard ends an instance that came up for nothing. It does not wait.
func (p *Plugin) discard(n *successor) {
	p.relieved = &relief{hasten: func() {}, call: p.begin("discard", func() error {
		p.endAndBury(beginStop(n.one.id), n.one)
		return nil
	})}
}

func (p *Plugin) endAndBury(s *steps, one *living) {
	ctx, cancel := context.WithTimeout(context.Background(), p.Wanted().Manifest.Spec.Timeouts.Stop.Std())
	defer cancel()
	s.end(p, one, func() { p.end(ctx, one) })
	s.do("clean", func() string { p.bury(one); return stepDone })
}

// over is closed once the instance is gone.
func (r *relief) over() <-chan struct{} {
	if r == nil {
		return nil
	}
	return r.done
}

// drainCalmly waits until nothing is in flight, for as long as an invocation may
// take; once calm has ended, for as long as the drain of a stop.
func (p *Plugin) drainCalmly(calm context.Context, one *living) (outcome string) {
	timeouts := p.Wanted().Manifest.Spec.Timeouts
	patient, cancel := context.WithTimeout(calm, timeouts.Invoke.Std())
	defer cancel()
	if one.drain(patient); calm.Err() != nil {
		stop, cancel := context.WithTimeout(context.Background(), timeouts.Stop.Std())
		defer cancel()
		return p.drain(stop, one)
	}
	return p.drained(one)
}
