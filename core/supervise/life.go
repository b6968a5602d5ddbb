package supervise

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/patchbay-dev/patchbay/core/lifecycle"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// lastWordsMax is how many lines of a dead plugin its status keeps: enough for a
// Go panic's first goroutine or a Python traceback.
const lastWordsMax = 50

// living is one instance and all that it owns.
type living struct {
	of       *Plugin
	id       string
	dir      string
	instance plugin.Instance
	adapter  plugin.Adapter
	log      Log
	since    time.Time
	exited   <-chan struct{} // closed once instance.Wait does not block
	job      *jobs           // set when invocations launch runs, and instance is nil
	want     *Want           // what it serves
	adopted  bool            // launched by an earlier daemon

	inFlight atomic.Int64
	draining atomic.Bool
	idle     chan struct{} // told when draining has nothing left in flight

	recorded  chan struct{} // closed when keep is done; nil when it is not to be left
	canBeLeft bool          // its record is written; to be read after recorded is closed
}

func (p *Plugin) newLiving(id, dir string, adapter plugin.Adapter, want *Want) *living {
	return &living{of: p, id: id, dir: dir, adapter: adapter, want: want, idle: make(chan struct{}, 1)}
}

// live is one life: from launch to grave, and the wait for the next. The instance may
// be followed by others meanwhile.
func (p *Plugin) live(phase context.Context, want *Want) {
	one, err := p.bringToLife(phase, want)
	if err != nil {
		p.didNotStart(phase, want, err)
		return
	}
	p.pool.news.wake() // whatever has begun is not for the first call to begin
	p.rise(one)
	for {
		endStreams := p.startStreams(phase, one)
		line := &succession{plugin: p, phase: phase, of: one, due: p.unserved()}
		next, mayLive := p.watch(line)
		if next != nil {
			endStreams()
			p.succeed(one, next)
			one = next.one
			continue
		}
		line.callOff()
		p.endLife(phase, one, endStreams, mayLive)
		line.gone()
		if phase.Err() == nil {
			p.afterDeath(phase)
		}
		return
	}
}

// rise tells that an instance is up, and gives it the calls.
func (p *Plugin) rise(one *living) {
	p.keep(one)
	facts, limits := p.inspect(one.instance), p.limits(one.instance)
	cause := lifecycle.Ready
	if one.adopted {
		cause = lifecycle.Adopt
	}
	p.to(cause, func(s *plugin.Status) {
		s.Facts, s.Limits = facts, limits
		if one.adopted {
			s.Reason, s.Message = "Adopted", "found again; it runs since "+one.since.UTC().Format(time.RFC3339)
		}
		s.Generation, p.serving = one.want.Generation, one.want.Launch // an adopted one may serve an earlier wish
		p.living.Store(one)                                            // under the same lock as the state: see await
	})
}

// endLife ends the instance with the phase, or tells how it ended by itself.
func (p *Plugin) endLife(phase context.Context, one *living, endStreams func() string, mayLive bool) {
	p.living.Store(nil)
	if !mayLive {
		p.putDown(one)
	}
	switch {
	case phase.Err() == nil:
	case p.leaves(phase, one):
		p.leaveBehind(phase, one, endStreams)
		return
	default:
		p.stop(phase, one, endStreams)
		return
	}
	p.died(one, mayLive)
	endStreams()
	p.bury(one)
	p.refresh(func(s *plugin.Status) {
		if s.State != plugin.Finished {
			s.LastWords = lastWords(one.log) // now that everything it printed has been read
		}
	})
}

// bringToLife adopts what an earlier daemon left, or launches.
func (p *Plugin) bringToLife(phase context.Context, want *Want) (*living, error) {
	words := []string(nil)
	if f := p.takeFound(); f != nil {
		p.begun(f.Instance, nil)
		one, gone, err := p.adopt(context.WithoutCancel(phase), f, want)
		if !gone {
			return one, err
		}
		p.deps.Log.Warn("an instance of an earlier daemon is gone", "plugin", p.name, "instance", f.Instance, "error", err)
		if failed, ok := errors.AsType[*startError](err); ok {
			words = failed.words
		}
	}
	if phase.Err() != nil {
		return nil, phase.Err()
	}
	id := p.newID()
	p.replace(id)
	p.begun(id, words)
	return p.launchAside(phase, id, want)
}

// begun tells that an instance is being brought to life; words are what the one
// before it printed last, when that died unseen.
func (p *Plugin) begun(id string, words []string) {
	edit := func(s *plugin.Status) { s.Instance, s.Facts, s.Limits, s.LastWords = id, nil, nil, words }
	if p.state() == plugin.Starting { // an adoption came to nothing
		p.refresh(edit)
		return
	}
	p.to(lifecycle.Begin, edit)
}

// newID makes the name of a new instance.
func (p *Plugin) newID() string {
	var random [5]byte
	rand.Read(random[:]) // never fails: crypto/rand
	return p.name + "-" + strings.ToLower(base32.StdEncoding.EncodeToString(random[:]))
}

// replace drops what the bus keeps of the instance before id. The first one has
// none before it: thousands of questions would lengthen a boot.
func (p *Plugin) replace(id string) {
	p.telling.Lock()
	defer p.telling.Unlock()
	if p.told != "" && p.told != id {
		p.deps.Forget(p.name, p.told)
	}
}

// launchAside launches on a stack of its own: a launch needs a deep one, which
// Run would then keep for the plugin's whole life, thousands of times over.
func (p *Plugin) launchAside(ctx context.Context, id string, want *Want) (one *living, err error) {
	if p.lost.Load() > 0 {
		return nil, fmt.Errorf("%w: an earlier instance may still be there: the adapter has not returned from its launch", plugin.ErrUnavailable)
	}
	done := make(chan struct{})
	go func() { // ends with the launch: waited for here
		defer close(done)
		one, err = p.launch(ctx, id, want, nil)
	}()
	<-done
	return one, err
}

// launch brings one instance to the point where it can be invoked; on error
// nothing of it is left.
func (p *Plugin) launch(ctx context.Context, id string, want *Want, input []byte) (*living, error) {
	adapter := p.deps.Adapters[want.Manifest.Spec.Adapter]
	if adapter == nil {
		return nil, fmt.Errorf("%w: there is no adapter %q in this daemon", plugin.ErrInvalid, want.Manifest.Spec.Adapter)
	}
	env, err := p.deps.Resolve(want.Manifest.Spec.Env)
	if err != nil {
		return nil, &secretError{err}
	}
	select {
	case p.deps.Starts <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	launched := sync.OnceFunc(func() { <-p.deps.Starts })
	defer launched()
	one, err := p.prepare(adapter, id, want)
	if err != nil {
		return nil, err
	}
	startup := p.startup(want, one)
	defer startup.asker.close()
	ctx, cancel := context.WithTimeout(ctx, want.Manifest.Spec.Timeouts.Start.Std())
	defer cancel()
	m := want.Manifest
	m.Spec.Digest = cmp.Or(m.Spec.Digest, want.Digest)
	err = p.bringUp(ctx, one, plugin.Launch{
		ID: one.id, Manifest: m, Input: input, Env: env, Dir: one.dir,
		Output: one.log, Host: p.deps.Host(p.name), Node: p.deps.Node,
	})
	if err == nil {
		launched() // a startup that takes minutes holds up no other launch
		err = startup.pass(ctx)
	}
	if err != nil {
		return nil, &startError{err: err, words: lastWords(one.log)}
	}
	one.since = time.Now()
	return one, nil
}

// secretError says that the environment could not be put together.
type secretError struct{ error }

func (e *secretError) Unwrap() error { return e.error }

// startError carries what a plugin printed before it failed to start.
type startError struct {
	err   error
	words []string
}

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// prepare makes the folder and the log of a new instance.
func (p *Plugin) prepare(adapter plugin.Adapter, id string, want *Want) (*living, error) {
	// The folder has the random part of the id only: its path has to be short.
	one := p.newLiving(id, filepath.Join(p.deps.RunDir, strings.TrimPrefix(id, p.name+"-")), adapter, want)
	if _, resident := adapter.(plugin.Resident); resident {
		one.dir = ""
	} else if err := os.Mkdir(one.dir, 0o700); err != nil {
		return nil, fmt.Errorf("instance folder: %w: %w", plugin.ErrUnavailable, err)
	}
	p.deps.Instances.add(one.id, one.dir)
	one.log = p.deps.OpenLog(p.name, one.id, one.dir, capture(want))
	return one, nil
}

// capture is how much of its stdout an instance's result may need.
func capture(want *Want) int {
	if want.Manifest.Spec.Mode == plugin.Job {
		return int(want.Manifest.Spec.Limits.Payload)
	}
	return 0
}

// bury frees what an instance that is gone has owned.
func (p *Plugin) bury(one *living) {
	one.settled()
	one.log.Close()
	defer p.deps.Instances.remove(one.id)
	if one.dir == "" {
		return
	}
	p.deps.Removals <- struct{}{} // a blocked removal holds a thread: bounded
	defer func() { <-p.deps.Removals }()
	if err := errors.Join(os.RemoveAll(one.dir+recordSuffix), os.RemoveAll(one.dir)); err != nil {
		p.deps.Log.Warn("an instance's folder could not be removed", "plugin", p.name, "instance", one.id, "error", err)
	}
}

func lastWords(log Log) []string {
	lines := log.Tail(lastWordsMax)
	words := make([]string, 0, len(lines))
	for _, l := range lines {
		words = append(words, strings.Split(l.Message, "\n")...) // a stack trace is one line of the log
	}
	return words[max(0, len(words)-lastWordsMax):]
}

// didNotStart handles a launch that failed, or that was called off.
func (p *Plugin) didNotStart(phase context.Context, want *Want, err error) {
	if phase.Err() != nil {
		p.to(lifecycle.Halt, nil)
		p.to(lifecycle.Gone, nil)
		return
	}
	words := []string(nil)
	if failed, ok := errors.AsType[*startError](err); ok {
		words = failed.words
	}
	failure := failure{reason: "StartFailed", message: err.Error(), words: words}
	down := p.adapterDown(phase, want)
	_, secret := errors.AsType[*secretError](err)
	switch {
	case secret && !errors.Is(err, plugin.ErrInvalid): // it may be put there yet
		failure.reason, failure.innocent = "SecretUnavailable", true
	case errors.Is(err, plugin.ErrInvalid):
		p.giveUp(failure)
		p.afterDeath(phase)
		return
	case down != nil:
		failure = adapterUnavailable(down)
		failure.words = words
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, plugin.ErrDeadline):
		failure.reason = "StartTimeout"
		failure.message = fmt.Sprintf("did not become ready within %s (spec.timeouts.start): %s", want.Manifest.Spec.Timeouts.Start.Std(), err)
	}
	p.failed(p.Wanted(), failure)
	p.afterDeath(phase)
}

// watch waits for the end of the phase or of an instance, and probes meanwhile. It
// returns the instance that is to follow, once there is one; mayLive is false when
// this one is there and is not to live.
func (p *Plugin) watch(line *succession) (next *successor, mayLive bool) {
	answers, stopProbes := p.startProbes(line.phase, line.of)
	defer stopProbes()
	for {
		line.begin()
		select {
		case <-line.phase.Done():
			return nil, true
		case <-line.of.exited:
			return nil, true
		case a := <-answers:
			if !p.probed(a) {
				return nil, false
			}
		case <-p.follow:
			line.ask()
		case <-p.relieved.over():
			p.relieved = nil
		case <-line.up():
			if next := line.take(); next != nil {
				return next, true
			}
		}
	}
}

// stop ends a life because the phase is over: drain, ask, kill. By then nothing
// new comes in: the state and living say so.
func (p *Plugin) stop(phase context.Context, one *living, endStreams func() string) {
	steps := beginStop(one.id)
	steps.do("intake", func() string { p.to(lifecycle.Halt, nil); return stepDone })
	ctx, cancel := context.WithTimeout(context.WithoutCancel(phase), p.Wanted().Manifest.Spec.Timeouts.Stop.Std())
	defer cancel()
	steps.do("drain", func() string { return p.drain(ctx, one) })
	steps.do("streams", endStreams)
	steps.end(p, one, func() { p.end(ctx, one) })
	steps.do("clean", func() string { p.bury(one); return stepDone })
	exit := p.exit(one.instance)
	p.to(lifecycle.Gone, func(s *plugin.Status) {
		s.LastExit, s.Facts, s.Limits, s.LastStop = &exit, nil, nil, steps.whole()
	})
}

// died tells an exit that nobody asked for, before anything is cleaned up.
func (p *Plugin) died(one *living, wasLive bool) {
	want := p.Wanted() // how it is restarted may have changed while it ran
	restart := &want.Manifest.Spec.Restart
	p.attempts.healthy(time.Since(one.since), restart.Backoff.Reset.Std())
	exit := p.exit(one.instance)
	switch words := lastWords(one.log); {
	case wasLive:
		p.afterExit(want, &exit, failure{reason: "Exited", message: exit.String(), exit: &exit, words: words})
	case restart.Policy == plugin.RestartNever:
		p.giveUp(p.unalive(&exit, words))
	default:
		p.failed(want, p.unalive(&exit, words))
	}
}

// innocent reports a reason to wait that is not the plugin's: trying again is no
// restart of it.
func innocent(reason string) bool {
	return reason == "AdapterUnavailable" || reason == "SecretUnavailable"
}

// failure is why a plugin is not running.
type failure struct {
	reason, message string
	exit            *plugin.Exit
	words           []string
	innocent        bool // not the plugin's fault: the budget is not touched
}

func adapterUnavailable(why error) failure {
	return failure{reason: "AdapterUnavailable", message: why.Error(), innocent: true}
}

func (f failure) edit(s *plugin.Status) {
	s.Reason, s.Message, s.LastWords, s.Facts, s.Limits = f.reason, f.message, f.words, nil, nil
	if f.exit != nil {
		s.LastExit = f.exit
	}
}

func (p *Plugin) giveUp(f failure) { p.to(lifecycle.GiveUp, f.edit) }

// failed leads to another try, or to the end of trying.
func (p *Plugin) failed(want *Want, f failure) {
	restart := want.Manifest.Spec.Restart
	if f.innocent {
		p.attempts.inARow++
	} else if !p.attempts.failed(time.Now(), restart.Budget) {
		f.message = fmt.Sprintf("%s within %s (spec.restart.budget); the last: %s",
			times(restart.Budget.Failures, "failure"), restart.Budget.Window.Std(), f.message)
		f.reason = "CrashLoop"
		p.giveUp(f)
		return
	}
	at := time.Now().Add(fullJitter(ceiling(p.attempts.inARow, restart.Backoff)))
	p.to(lifecycle.Retry, func(s *plugin.Status) {
		f.edit(s)
		s.RetryAt = &at
	})
}

func times(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// afterDeath waits for the next try, or for a new wish.
func (p *Plugin) afterDeath(phase context.Context) {
	if p.unserved() {
		return // what was to follow it is launched at once
	}
	status := p.Status()
	if status.State != plugin.Backoff {
		<-phase.Done()
		return
	}
	timer := time.NewTimer(time.Until(*status.RetryAt))
	defer timer.Stop()
	select {
	case <-timer.C:
		p.mu.Lock()
		if !innocent(p.status.Reason) {
			p.status.Restarts++
		}
		p.mu.Unlock()
	case <-phase.Done():
	}
}
