// Package lifecycle is the state machine of a plugin's instance: one table, no
// clock, no goroutine, no I/O. core/supervise is the only one who asks it.
//
//	pending   --begin--> starting --give-up--> failed --halt--> stopped
//	starting  --ready--> running  --adopted--> running  --retry--> backoff --give-up--> failed --done--> finished --halt--> stopping
//	running   --reloaded--> running  --unwell--> degraded --retry--> backoff --give-up--> failed --done--> finished --halt--> stopping
//	degraded  --well--> running --reloaded--> running --retry--> backoff --give-up--> failed --done--> finished --halt--> stopping
//	backoff   --begin--> starting --doze--> pending --give-up--> failed --halt--> stopped
//	stopping  --gone--> stopped
//	stopped   --begin--> starting --doze--> pending --give-up--> failed
//	finished  --begin--> starting --doze--> pending --give-up--> failed --halt--> stopped
//	failed    --begin--> starting --doze--> pending --halt--> stopped
//
// What the table does not have cannot happen; Next says so.
package lifecycle

import "github.com/patchbay-dev/patchbay/core/plugin"

// Cause is why a state changes.
type Cause string

// The causes.
const (
	Begin  Cause = "begin"    // a launch begins
	Doze   Cause = "doze"     // it is to start at its first call, and none has come
	Ready  Cause = "ready"    // the adapter's handshake is done and the startup probe passed: it answers
	Adopt  Cause = "adopted"  // what an earlier daemon launched is found again, and answers
	Unwell Cause = "unwell"   // its probe failed as often as the manifest allows
	Well   Cause = "well"     // its probe is answered again
	Reload Cause = "reloaded" // a new instance, launched beside it, has taken its place
	Retry  Cause = "retry"    // it is gone, was killed for not being live, or did not start; it will be tried again
	GiveUp Cause = "give-up"  // it is gone, did not start or cannot be; it will not be tried again
	Done   Cause = "done"     // it ended with success and is not wanted again
	Halt   Cause = "halt"     // it is to stop: by the user, for a new manifest, or for the daemon's end
	Gone   Cause = "gone"     // what was stopping is gone
)

type step struct {
	from  plugin.State
	cause Cause
}

// next is the table. A state that is not here has no such way out.
func next(s step) (plugin.State, bool) {
	switch s {
	case step{plugin.Pending, Begin}, step{plugin.Backoff, Begin}, step{plugin.Stopped, Begin},
		step{plugin.Finished, Begin}, step{plugin.Failed, Begin}:
		return plugin.Starting, true
	case step{plugin.Backoff, Doze}, step{plugin.Stopped, Doze}, step{plugin.Finished, Doze}, step{plugin.Failed, Doze}:
		return plugin.Pending, true
	case step{plugin.Starting, Ready}, step{plugin.Starting, Adopt}, step{plugin.Degraded, Well},
		step{plugin.Running, Reload}, step{plugin.Degraded, Reload}:
		return plugin.Running, true
	case step{plugin.Running, Unwell}:
		return plugin.Degraded, true
	case step{plugin.Starting, Retry}, step{plugin.Running, Retry}, step{plugin.Degraded, Retry}:
		return plugin.Backoff, true
	case step{plugin.Starting, GiveUp}, step{plugin.Running, GiveUp}, step{plugin.Degraded, GiveUp},
		step{plugin.Pending, GiveUp}, step{plugin.Backoff, GiveUp}, step{plugin.Stopped, GiveUp}, step{plugin.Finished, GiveUp}:
		return plugin.Failed, true
	case step{plugin.Starting, Done}, step{plugin.Running, Done}, step{plugin.Degraded, Done}:
		return plugin.Finished, true
	case step{plugin.Starting, Halt}, step{plugin.Running, Halt}, step{plugin.Degraded, Halt}:
		return plugin.Stopping, true
	case step{plugin.Pending, Halt}, step{plugin.Backoff, Halt}, step{plugin.Finished, Halt},
		step{plugin.Failed, Halt}, step{plugin.Stopping, Gone}:
		return plugin.Stopped, true
	}
	return s.from, false
}

// Next returns the state that cause leads to from state, and whether the table
// has such a step; without one it returns state unchanged.
func Next(state plugin.State, cause Cause) (plugin.State, bool) {
	return next(step{state, cause})
}

// States lists every state, in the order of a life.
func States() []plugin.State {
	return []plugin.State{
		plugin.Pending, plugin.Starting, plugin.Running, plugin.Degraded, plugin.Backoff,
		plugin.Stopping, plugin.Stopped, plugin.Finished, plugin.Failed,
	}
}

// Causes lists every cause.
func Causes() []Cause {
	return []Cause{Begin, Doze, Ready, Adopt, Unwell, Well, Reload, Retry, GiveUp, Done, Halt, Gone}
}
