// Package conformance is the one suite that every adapter passes: what
// core/plugin promises of an Adapter and its Instances, as tests. An adapter
// gives a [Fixture] to [Run]; a rule that an adapter cannot keep is a fault of
// the adapter, never a reason for an exception here.
//
// The suite owns what the core would give: an [Output] on files, a [Host] that
// remembers, a folder per instance. After every check it looks for what may be
// left: processes (anything in /proc that carries the instance's mark or
// folder), unix sockets, mounts, goroutines and open files.
//
// Waiting is by [Eventually], which polls a condition and has a bound, because
// what is waited for happens in other processes. Bounds that the design states
// are tested as stated; [Fixture].Slack widens them where an engine stands between.
package conformance

import (
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Number stands in a Call's Data and Want for the number of the call, so that
// answers that cross over are noticed.
const Number = "@N@"

// Call is one invocation and what is to be seen of it.
type Call struct {
	Operation string
	// Data is the argument, JSON; [Number] in it is replaced by the call's number.
	Data string
	// Want is, for Echo, the JSON that the answer must equal; for Print, text that
	// must be found in the logs.
	Want string
	// WantMessage is, for Refuse, text that the refusal's message must contain.
	WantMessage string
	// WantCode is, for Exit, the exit code.
	WantCode int
}

// Fixture is what the suite needs to know of one adapter.
type Fixture struct {
	Adapter plugin.Adapter
	// Manifest gives a service plugin with the operations below; the suite
	// writes the defaults in. It may be called often: build binaries once, outside.
	Manifest func(t testing.TB) plugin.Manifest
	// Echo's answer must be JSON-equal to Want.
	Echo Call
	// Refuse must give a *plugin.Refusal with WantMessage in its message.
	Refuse Call
	// Exit makes the instance end by itself with WantCode; nil when the protocol
	// has no such thing (starlark).
	Exit *Call
	// Slow takes at least 30 s unless it is cancelled.
	Slow Call
	// Print prints Want on any log stream.
	Print Call
	// Process says that instances have Inspect()["pid"], a process that this test
	// may signal: the checks of kill, freeze, environment and pipes apply.
	Process bool
	// Signal replaces the signal to Inspect()["pid"], for instances that are not
	// processes of this machine. With it kill and freeze are checked without Process.
	Signal func(t testing.TB, i plugin.Instance, s syscall.Signal)
	// Limits says that the adapter enforces spec.limits.memory, cpu, pids and
	// openFiles as far as the machine can, and that its instances are plugin.Limited;
	// Jobs that it has spec.mode job. Otherwise Check must refuse them.
	Limits, Jobs bool
	// Slack is added to the bounds of kill and stop; 0 for processes, up to a
	// second where an engine stands between.
	Slack time.Duration
}

// Bounds of the suite. Those that the design states stand with their source.
const (
	// noticeMost is from a kill to the end of Wait (issue 3: seen within 100 ms).
	noticeMost = 100 * time.Millisecond
	// overtimeMost is how long Stop may take beyond its context: the time to kill
	// a process group and reap it.
	overtimeMost = 500 * time.Millisecond
	// patience is the wait for what has no bound of its own. It is long because the
	// machine may be busy and -race is slow; nothing waits for it when all is well.
	patience = 10 * time.Second
	// hangMost is when a call that does not return is given up.
	hangMost = 2 * patience
	// headStart is how long a call is watched before it counts as under way.
	headStart = 100 * time.Millisecond
	// attempts is how often a bound of milliseconds is tried on a machine that does
	// other things too; the best counts.
	attempts = 3
)

// check is one rule: a subtest, and whom it concerns (nil: everybody).
type check struct {
	name string
	of   func(Fixture) bool
	run  func(*testing.T, Fixture)
}

// checks is the suite, in the order in which a broken adapter is best understood.
var checks = []check{
	{"check accepts", nil, checkAccepts},
	{"check refuses", nil, checkRefuses},
	{"echo", nil, echoes},
	{"refuse", nil, refuses},
	{"unknown operation", nil, unknownOperation},
	{"describe", nil, describes},
	{"probe", nil, probes},
	{"logs arrive", nil, logsArrive},
	{"environment", isProcess, environment},
	{"shares no pipe", isProcess, sharesNoPipe},
	{"limits are told", func(f Fixture) bool { return f.Limits }, limitsAreTold},
	{"deadline of an invocation", nil, invocationDeadline},
	{"invocation cancelled", nil, invocationCancelled},
	{"many at once", nil, manyAtOnce},
	{"stop twice", nil, stopTwice},
	{"stop at once", nil, stopAtOnce},
	{"stop while in a call", nil, stopInCall},
	{"waiters agree", nil, waitersAgree},
	{"exit by itself", func(f Fixture) bool { return f.Exit != nil }, exitsByItself},
	{"kill is noticed", canSignal, killIsNoticed},
	{"stop frozen", canSignal, stopFrozen},
	{"wrong digest", nil, wrongDigest},
	{"launch cancelled", nil, launchCancelled},
	{"launch deadline", nil, launchDeadline},
	{"adopted", outlives, isAdopted},
	{"adopted again and again", outlives, isAdoptedTwice},
	{"died meanwhile", func(f Fixture) bool { return outlives(f) && canSignal(f) }, diedMeanwhile},
	{"strange handles", outlives, strangeHandles},
	{"nothing grows", nil, nothingGrows},
}

func isProcess(f Fixture) bool { return f.Process }
func canSignal(f Fixture) bool { return f.Process || f.Signal != nil }

// Run runs the whole suite, each rule as a subtest.
func Run(t *testing.T, f Fixture) {
	for _, c := range checks {
		if c.of == nil || c.of(f) {
			t.Run(c.name, func(t *testing.T) { c.run(t, f) })
		}
	}
}
