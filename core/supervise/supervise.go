// Package supervise keeps one plugin as it is wanted: it launches, probes,
// retries, drains and stops, and tells the truth about it.
//
// A [Plugin] is one goroutine (Run) that is the only one to change the plugin's
// state, through one function (to) and one table (core/lifecycle); every change
// is handed to Deps.Changed in order. Its life is a row of phases: resting,
// living, waiting to retry. A new wish ends the phase that it contradicts; nothing
// else interrupts it. A [Pool] is as many of them as the plugin is to have instances.
//
// A wish that only another instance serves need not end the life of the one that
// runs, where the adapter can have two at once: the new one is launched beside it,
// probed, and takes its place; the old one finishes what it has begun, and is
// stopped. When the new one does not come up, the old one goes on (succeed.go).
//
// An instance that an earlier daemon left is adopted before anything is launched
// (found.go): it goes on if it serves the wish, and is stopped first if it does
// not. Beside the folder of each instance that can be left lies its record, which
// is what the next daemon begins with.
//
// Promises: an exit is told before anything is cleaned up; a launch that fails
// leaves nothing; no two instances of a plugin run at once but for such a change, and
// then one of them has the calls; Run returns only when every instance and everything
// it owned are gone. A panic in an adapter's call is
// an error, and an adapter that does not return from a call stops only what needs
// its answer (guard.go).
package supervise

import (
	"context"
	"log/slog"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/patchbay-dev/patchbay/core/lifecycle"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Want is how a plugin is wanted.
type Want struct {
	Manifest   plugin.Manifest // with its defaults written in
	Generation int64
	Desired    plugin.Desired
	// Launch is equal for two wishes exactly when the same instance serves both.
	Launch string
	// Restart counts the requests to restart, over all daemons: a wish with another
	// count is served by an instance that is launched when the old one is gone.
	Restart int64
	// Reload counts the requests to reload, over all daemons: a wish with another
	// count is served by an instance that is launched beside the old one.
	Reload int64
	// Digest is that of what may be launched, if the manifest names none: the plugin is
	// pinned. An instance that runs goes on.
	Digest string
	// Fault is why this daemon does not accept the manifest that is stored; then
	// nothing runs.
	Fault string
}

// Log is where one instance's output goes.
type Log interface {
	plugin.Output
	// Tail returns the last n lines, oldest first.
	Tail(n int) []plugin.LogLine
	// Stdout returns what was printed to stdout, and whether that is all of it.
	Stdout(bytesMax int) (data []byte, whole bool)
	// Close ships what was printed. Tail and Stdout still answer; closing twice
	// is harmless.
	Close()
	// Leave is Close for an instance that is left running: what is not a whole line
	// yet, and the files, are left to the next daemon.
	Leave()
	// Match looks for a line whose message matches, among those that Tail has and
	// all that come, until one does or stop is called.
	Match(pattern *regexp.Regexp) (seen func() bool, stop func())
}

// Pipe joins a stream to the bus until it is closed.
type Pipe interface {
	plugin.Pipe
	// Counts says how many messages went through, and how many the bus could not
	// take.
	Counts() (messages, dropped uint64)
	Close() error
}

// What a daemon gives Deps.
const (
	// StartsMax bounds launches under way at the same time: enough that a few that
	// hang hold nobody up, few enough that a boot does not swamp the machine.
	StartsMax = 64
	// RemovalsMax bounds threads that wait for the disk.
	RemovalsMax = 4
)

// Deps is what supervisors share.
type Deps struct {
	// Adapters are all adapters by name.
	Adapters map[string]plugin.Adapter
	// OpenLog opens the log of an instance; files of it may be put in dir. The
	// first captureBytesMax bytes of stdout are kept for Log.Stdout.
	OpenLog func(plugin, instance, dir string, captureBytesMax int) Log
	// ResumeLog opens the log of an instance that an earlier daemon launched, to go
	// on where that stopped.
	ResumeLog func(plugin, instance, dir string, captureBytesMax int) Log
	// Instances knows which are there.
	Instances Instances
	// Leaving reports that the daemon ends and detached instances are to go on. It
	// may be nil: never.
	Leaving func() bool
	// Node names the daemon's data folder.
	Node string
	// Resolve turns references to secrets into values.
	Resolve func(map[string]plugin.EnvValue) (map[string]string, error)
	// Changed is told every change of state, in order for each plugin. It must
	// not block for long: an exit waits for it.
	Changed func(plugin.StateChange)
	// Refreshed is told a status whose state did not change, in order with
	// Changed.
	Refreshed func(plugin.Status)
	// Reloaded is told each reload once it is over, in order with Changed. It may be
	// nil.
	Reloaded func(plugin string, r plugin.Reload)
	// Forget drops what is kept of an instance that was replaced or deleted.
	Forget func(plugin, instance string)
	// Host makes the way back into the core for one plugin.
	Host func(plugin string) plugin.Host
	// OpenPipe joins a declared stream to the bus.
	OpenPipe func(plugin.Stream) (Pipe, error)
	// Request returns nil when somebody answers a request on the bus before ctx
	// ends.
	Request func(ctx context.Context, subject string) error
	// Trace is asked around each call of an instance; nil: nobody is. It returns what
	// the instance is given, and what is told how the call ended.
	Trace func(ctx context.Context, adapter string, in plugin.Invocation) (context.Context, plugin.Invocation, func(error))
	// RunDir holds one folder per running instance. Its path is short: see
	// plugin.Launch.Dir.
	RunDir string
	// Starts bounds launches that are under way at the same time.
	Starts chan struct{}
	// Removals bounds folders that are being removed at the same time.
	Removals chan struct{}
	Log      *slog.Logger
}

// Plugin supervises one instance of a plugin. All its methods may be called at once;
// Run only once.
type Plugin struct {
	name string
	deps *Deps
	pool *Pool
	quit context.CancelCauseFunc // ends Run; nil before it began, and for the first of a pool; the pool's

	want atomic.Pointer[Want] // set under mu

	telling  sync.Mutex // held until a change is told, so that none overtakes another; before mu
	told     string     // the instance last told of; guarded by telling
	mu       sync.Mutex
	status   plugin.Status
	health   health // of the instance that runs
	serving  string // Want.Launch of the instance that runs, or is launched in this phase
	streams  []*stream
	endPhase context.CancelFunc

	living   atomic.Pointer[living]
	inFlight atomic.Int64
	follow   chan struct{} // told when the instance that runs is to be followed by another

	attempts attempts // owned by Run
	earlier  *Found   // to be adopted; owned by Run
	left     bool     // the instance was left running; owned by Run
	asked    *call    // the last question for availability; owned by Run
	relieved *relief  // the end of the instance before the one that runs; owned by Run

	strays sync.WaitGroup // calls that were given up, and what waits for them
	lost   atomic.Int32   // instances that strays may still have
}

func newPlugin(pool *Pool, want Want) *Plugin {
	p := &Plugin{name: want.Manifest.Metadata.Name, deps: pool.deps, pool: pool, follow: make(chan struct{}, 1)}
	p.status = plugin.Status{Plugin: p.name, Instance: p.name, State: plugin.Pending, Since: time.Now()}
	p.takeOver(&want)
	p.concludeLocked() // nobody else has it yet
	return p
}

// expect gives the plugin the instance that an earlier daemon left of it. It is for
// before Run.
func (p *Plugin) expect(f *Found) { p.earlier = f }

// takeOver makes a wish the present one. The caller holds mu, or is newPlugin.
func (p *Plugin) takeOver(want *Want) {
	p.want.Store(want)
	p.status.Adapter = want.Manifest.Spec.Adapter
}

// set tells how the plugin is wanted from now on. It does not wait.
func (p *Plugin) set(want Want) {
	if p.take(&want) {
		p.refresh(func(s *plugin.Status) { s.Generation = want.Generation }) // what runs is of this one, too
	}
}

// take adopts a wish, and ends the phase that it contradicts or has the instance
// followed by another. It returns true when the phase goes on with it.
func (p *Plugin) take(want *Want) (goesOn bool) {
	canFollow := p.canFollow(want)
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.want.Load()
	p.takeOver(want)
	another := want.Launch != p.serving
	news := want.Generation != before.Generation || want.Launch != before.Launch
	switch state := p.status.State; {
	case want.Desired != before.Desired, want.Fault != before.Fault:
	case !news:
		return false
	case another && canFollow && (state == plugin.Running || state == plugin.Degraded):
		select {
		case p.follow <- struct{}{}:
		default: // it is told already
		}
		return false
	case another, state == plugin.Failed, state == plugin.Backoff: // what failed may work as it is wanted now
	default:
		return true
	}
	if p.endPhase != nil {
		p.endPhase()
	}
	return false
}

// Wanted returns how the plugin is wanted now. It is shared: do not change it.
func (p *Plugin) Wanted() *Want { return p.want.Load() }

// Status returns the plugin's state now.
func (p *Plugin) Status() plugin.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.statusLocked()
}

// state is Status().State, without the rest of it on the caller's stack.
func (p *Plugin) state() plugin.State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status.State
}

func (p *Plugin) statusLocked() plugin.Status {
	s := p.status
	s.InFlight = int(p.inFlight.Load())
	for _, one := range p.streams {
		s.Streams = append(s.Streams, one.status())
	}
	return s
}

// Run keeps the plugin as it is wanted until ctx ends, and then stops it. It
// returns once everything of it is gone.
func (p *Plugin) Run(ctx context.Context) {
	defer p.strays.Wait()
	for ctx.Err() == nil || p.earlier != nil && !p.earlier.asked {
		p.phase(ctx)
	}
	if p.earlier != nil { // nobody could tell what became of it: a stray from now on
		p.deps.Instances.remove(p.earlier.Instance)
	}
	if p.state() != plugin.Stopped && !p.left {
		p.to(lifecycle.Halt, nil)
	}
}

func (p *Plugin) phase(ctx context.Context) {
	phase, endWith := context.WithCancelCause(ctx)
	end := func() { endWith(errNewWish) }
	defer end()
	p.mu.Lock()
	p.endPhase = end
	want := p.want.Load()
	p.status.Generation, p.serving = want.Generation, want.Launch
	p.mu.Unlock()
	p.attempts.are(want)
	switch {
	case p.earlier != nil && !p.mayAdopt(want):
		p.retire(phase, end, want)
	case want.Fault != "":
		p.refuse(phase, want)
	case want.Desired == plugin.DesiredStopped:
		p.rest(phase)
	case want.Manifest.Spec.Mode == plugin.Job:
		p.offerRuns(phase, want)
	case want.Manifest.Spec.Start == plugin.Lazy && p.earlier == nil && p.pool.news.asleep() != nil:
		p.doze(phase)
	default:
		p.live(phase, want)
	}
}

// rest keeps the plugin stopped until the phase ends.
func (p *Plugin) rest(phase context.Context) {
	if p.state() != plugin.Stopped {
		p.to(lifecycle.Halt, because("StoppedByUser", "stopped on request; start it with: patchbay start "+p.name))
	}
	p.attempts.forget()
	<-phase.Done()
}

// doze leaves the plugin asleep until its first call, or until the phase ends.
func (p *Plugin) doze(phase context.Context) {
	why := because(plugin.ReasonLazy, "it starts at its first call (spec.start)")
	if p.state() == plugin.Pending {
		p.refresh(why)
	} else {
		p.to(lifecycle.Doze, why)
	}
	select {
	case <-p.pool.news.asleep():
	case <-phase.Done():
	}
}

// refuse keeps a plugin failed whose stored manifest is not accepted.
func (p *Plugin) refuse(phase context.Context, want *Want) {
	f := failure{reason: "ManifestRefused", message: "this daemon does not accept the manifest that is stored: " + want.Fault +
		"; apply it anew, or run the version that wrote it"}
	if p.state() == plugin.Failed {
		p.refresh(f.edit)
	} else {
		p.giveUp(f)
	}
	<-phase.Done()
}

// because is the usual edit of a status: why.
func because(reason, message string) func(*plugin.Status) {
	return func(s *plugin.Status) { s.Reason, s.Message = reason, message }
}

// to is the only place where a state changes. It publishes the change.
func (p *Plugin) to(cause lifecycle.Cause, edit func(*plugin.Status)) {
	p.telling.Lock()
	defer p.telling.Unlock()
	p.mu.Lock()
	from := p.status.State
	next, ok := lifecycle.Next(from, cause)
	if !ok {
		p.mu.Unlock()
		p.deps.Log.Error("a change of state that the table does not have", "plugin", p.name, "state", from, "cause", cause)
		return
	}
	p.status.State, p.status.Since = next, time.Now()
	p.status.Reason, p.status.Message, p.status.RetryAt = "", "", nil
	if next == plugin.Starting || cause == lifecycle.Reload {
		p.health = health{} // of another instance
	}
	if edit != nil {
		edit(&p.status)
	}
	p.concludeLocked()
	change := plugin.StateChange{From: from, To: next, Cause: string(cause), Status: p.statusLocked()}
	p.mu.Unlock()
	p.pool.news.tell()
	p.told = change.Status.Instance
	p.deps.Changed(change)
}

// refresh changes facts of the status that are not its state.
func (p *Plugin) refresh(edit func(*plugin.Status)) {
	p.telling.Lock()
	defer p.telling.Unlock()
	p.mu.Lock()
	edit(&p.status)
	p.concludeLocked()
	status := p.statusLocked()
	p.mu.Unlock()
	p.told = status.Instance
	p.deps.Refreshed(status)
}
