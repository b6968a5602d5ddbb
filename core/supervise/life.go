package supervise

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/core/lifecycle"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// lastWordsMax is how many lines of a dead plugin its status keeps: enough for a
// Go panic's first goroutine or a Python traceback.
const lastWordsMax = 50

// living is one instance and all that it owns.
type living struct {
	id       string
	dir      string
	instance plugin.Instance
	adapter  plugin.Adapter
	log      Log
	since    time.Time
	exited   <-chan struct{} // closed once instance.Wait does not block
	job      *jobs           // set when invocations launch runs, and instance is nil
}

// live is one life: from launch to grave, and the wait for the next.
func (p *Plugin) live(phase context.Context, want *Want) {
	id := p.newID()
	p.replace(id)
	p.to(lifecycle.Begin, func(s *plugin.Status) { s.Instance, s.Facts, s.LastWords = id, nil, nil })
	one, err := p.launchAside(phase, id, want)
	if err != nil {
		p.didNotStart(phase, want, err)
		return
	}
	facts := p.inspect(one.instance)
	p.to(lifecycle.Ready, func(s *plugin.Status) {
		s.Facts = facts
		p.living.Store(one) // under the same lock as the state: see await
	})
	endStreams := p.startStreams(phase, one, want)
	p.watch(phase, one)
	p.living.Store(nil)
	if phase.Err() != nil {
		p.stop(phase, one, endStreams)
		return
	}
	p.died(one)
	endStreams()
	p.bury(one)
	p.refresh(func(s *plugin.Status) {
		if s.State != plugin.Finished {
			s.LastWords = lastWords(one.log) // now that everything it printed has been read
		}
	})
	p.afterDeath(phase)
}

// newID makes the name of a new instance.
func (p *Plugin) newID() string {
	var random [5]byte
	rand.Read(random[:]) // never fails: crypto/rand
	return p.name + "-" + strings.ToLower(base32.StdEncoding.EncodeToString(random[:]))
}

// replace drops what the bus keeps of the instance before id.
func (p *Plugin) replace(id string) {
	if old := p.instance(); old != "" && old != id {
		p.deps.Forget(p.name, old)
	}
}

func (p *Plugin) instance() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status.Instance
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
		defer func() { <-p.deps.Starts }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	one, err := p.prepare(adapter, id, want)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, want.Manifest.Spec.Timeouts.Start.Std())
	defer cancel()
	err = p.bringUp(ctx, one, plugin.Launch{
		ID: one.id, Manifest: want.Manifest, Input: input, Env: env, Dir: one.dir,
		Output: one.log, Host: p.deps.Host(p.name),
	})
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
	one := &living{
		id: id, dir: filepath.Join(p.deps.RunDir, strings.TrimPrefix(id, p.name+"-")),
		adapter: adapter,
	}
	if _, resident := adapter.(plugin.Resident); resident {
		one.dir = ""
	} else if err := os.Mkdir(one.dir, 0o700); err != nil {
		return nil, fmt.Errorf("instance folder: %w: %w", plugin.ErrUnavailable, err)
	}
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
	one.log.Close()
	if one.dir == "" {
		return
	}
	p.deps.Removals <- struct{}{} // a blocked removal holds a thread: bounded
	defer func() { <-p.deps.Removals }()
	if err := os.RemoveAll(one.dir); err != nil {
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
		failure.reason, failure.message, failure.innocent = "AdapterUnavailable", down.Error(), true
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, plugin.ErrDeadline):
		failure.reason = "StartTimeout"
		failure.message = fmt.Sprintf("did not become ready within %s (spec.timeouts.start): %s", want.Manifest.Spec.Timeouts.Start.Std(), err)
	}
	p.failed(p.Wanted(), failure)
	p.afterDeath(phase)
}

// watch waits for the phase's or the instance's end, and probes meanwhile.
func (p *Plugin) watch(phase context.Context, one *living) {
	results, stopProbes := p.startProbes(phase, one)
	defer stopProbes()
	failures := 0
	for {
		select {
		case <-phase.Done():
			return
		case <-one.exited:
			return
		case err := <-results:
			failures = p.probed(err, failures)
		}
	}
}

// probed takes one probe's result and returns the failures in a row.
func (p *Plugin) probed(err error, failures int) int {
	state := p.state()
	if err == nil {
		if state == plugin.Degraded {
			p.to(lifecycle.Well, nil)
		}
		return 0
	}
	failures++
	if failures >= p.Wanted().Manifest.Spec.Probe.Failures && state == plugin.Running {
		p.to(lifecycle.Unwell, because("ProbeFailed", fmt.Sprintf("%d probes in a row failed; the last: %s", failures, err)))
	}
	return failures
}

// stop ends a life because the phase is over: drain, ask, kill.
func (p *Plugin) stop(phase context.Context, one *living, endStreams func()) {
	p.to(lifecycle.Halt, nil)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(phase), p.Wanted().Manifest.Spec.Timeouts.Stop.Std())
	defer cancel()
	p.drain(ctx)
	endStreams()
	p.end(ctx, one)
	p.bury(one)
	exit := p.exit(one.instance)
	p.to(lifecycle.Gone, func(s *plugin.Status) { s.LastExit, s.Facts = &exit, nil })
}

// died tells an exit that nobody asked for, before anything is cleaned up.
func (p *Plugin) died(one *living) {
	want := p.Wanted() // how it is restarted may have changed while it ran
	spec := &want.Manifest.Spec
	p.attempts.healthy(time.Since(one.since), spec.Restart.Budget)
	exit := p.exit(one.instance)
	failure := failure{reason: "Exited", message: exit.String(), exit: &exit, words: lastWords(one.log)}
	switch {
	case exit.Success() && spec.Restart.Policy != plugin.RestartAlways:
		p.to(lifecycle.Done, func(s *plugin.Status) { s.Reason, s.LastExit, s.Facts = "Completed", &exit, nil })
	case spec.Restart.Policy == plugin.RestartNever:
		p.giveUp(failure)
	default:
		p.failed(want, failure)
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

func (f failure) edit(s *plugin.Status) {
	s.Reason, s.Message, s.LastWords, s.Facts = f.reason, f.message, f.words, nil
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
		f.message = fmt.Sprintf("%d failures within %s (spec.restart.budget); the last: %s",
			restart.Budget.Failures, restart.Budget.Window.Std(), f.message)
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

// afterDeath waits for the next try, or for a new wish.
func (p *Plugin) afterDeath(phase context.Context) {
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
