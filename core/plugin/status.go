package plugin

import (
	"encoding/json"
	"time"
)

// State is where an instance stands in its life; core/lifecycle has the table.
type State string

// The states.
const (
	Pending  State = "pending"  // applied, nothing done yet
	Starting State = "starting" // launch has begun
	Running  State = "running"  // it answers
	Degraded State = "degraded" // it is up but its probe fails
	Backoff  State = "backoff"  // gone; will be tried again
	Stopping State = "stopping" // asked to finish
	Stopped  State = "stopped"  // gone because it was asked to
	Finished State = "finished" // gone with success, and not wanted again
	Failed   State = "failed"   // will not be tried again; says why
)

// Desired is what the user wants of a plugin.
type Desired string

// What can be desired.
const (
	DesiredRunning Desired = "running" // the default
	DesiredStopped Desired = "stopped" // by stop
)

// Status is the last known state of one plugin's instance.
type Status struct {
	Plugin   string `json:"plugin"`
	Instance string `json:"instance,omitempty"`
	Adapter  string `json:"adapter"`
	State    State  `json:"state"`
	// Reason is one CamelCase word, Message a sentence for people.
	Reason  string    `json:"reason,omitempty"`
	Message string    `json:"message,omitempty"`
	Since   time.Time `json:"since"`
	// Generation is the manifest's generation that this state is of.
	Generation int64 `json:"generation"`
	// Instances is how many instances there are to be, Ready how many of them are
	// running; 0 in the status of a single one of several.
	Instances int `json:"instances,omitempty"`
	Ready     int `json:"ready,omitempty"`
	// Restarts counts launches after the first, since the daemon started.
	Restarts int        `json:"restarts"`
	RetryAt  *time.Time `json:"retryAt,omitempty"`
	LastExit *Exit      `json:"lastExit,omitempty"`
	// LastStop is how the last stop went, step by step.
	LastStop *Stop `json:"lastStop,omitempty"`
	// LastReload is how the last reload went, or goes.
	LastReload *Reload `json:"lastReload,omitempty"`
	// LastWords are the last lines printed before a failure.
	LastWords []string `json:"lastWords,omitempty"`
	// Facts are what the instance says of itself: pid, container, protocol.
	Facts map[string]string `json:"facts,omitempty"`
	// Limits is how each limit that is set is enforced.
	Limits []LimitStatus `json:"limits,omitempty"`
	// Conditions answer single questions about it; always all of them, in the
	// order of ConditionTypes.
	Conditions []Condition `json:"conditions,omitempty"`
	// InFlight counts invocations under way.
	InFlight int `json:"inFlight"`
	// Streams is the state of each declared stream.
	Streams []StreamStatus `json:"streams,omitempty"`
}

// ReasonLazy is the reason of a plugin that starts at its first call.
const ReasonLazy = "Lazy"

// Asleep reports a plugin that starts at its first call, which has not come.
func (s Status) Asleep() bool { return s.State == Pending && s.Reason == ReasonLazy }

// Reload is how one instance took the place of another, or did not: the new one is
// launched beside the old, probed, and gets the calls; then the old one ends.
type Reload struct {
	// At is when the launch of the new one began.
	At time.Time `json:"at"`
	// Generation is the manifest's of the new one.
	Generation int64         `json:"generation"`
	Outcome    ReloadOutcome `json:"outcome" enum:"launching,draining,done,failed,canceled"`
	// Message says why it failed; LastWords are what the new one printed then.
	Message   string   `json:"message,omitempty"`
	LastWords []string `json:"lastWords,omitempty"`
	// From and To are the instances.
	From string `json:"from"`
	To   string `json:"to,omitempty"`
	// Steps are launch and probe of the new one, then drain and the steps of the
	// stop of the old one.
	Steps []StopStep `json:"steps,omitempty"`
}

// ReloadOutcome is where a reload stands.
type ReloadOutcome string

// The outcomes.
const (
	ReloadLaunching ReloadOutcome = "launching" // the new instance is being launched and probed; the old one has the calls
	ReloadDraining  ReloadOutcome = "draining"  // the new one has the calls; the old one ends
	ReloadDone      ReloadOutcome = "done"      // the old one is gone
	ReloadFailed    ReloadOutcome = "failed"    // the new one did not answer and is gone; the old one goes on
	ReloadCanceled  ReloadOutcome = "canceled"  // the new one is gone: something else was wanted meanwhile, or the old one ended
)

// LimitStatus is how one limit of a manifest is kept.
type LimitStatus struct {
	// Name is the field's: memory, cpu, pids, openFiles.
	Name string `json:"name"`
	// By is what keeps it: cgroup2, cgroup1, rlimit, engine. Empty when nothing does.
	By string `json:"by,omitempty"`
	// Message says why it is not kept, or what differs from what is asked.
	Message string `json:"message,omitempty"`
}

// StreamStatus is how one declared stream is doing.
type StreamStatus struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"` // source or sink
	State   State  `json:"state"`
	Message string `json:"message,omitempty"`
	// Messages counts what went through, Dropped what the bus could not take.
	Messages uint64 `json:"messages"`
	Dropped  uint64 `json:"dropped"`
}

// Exit is how an instance ended.
type Exit struct {
	// Code is the exit code; -1 when there is none (a signal, a lost process,
	// something that is not a process).
	Code int `json:"code"`
	// Signal is the name of the signal that ended it: "SIGKILL".
	Signal string `json:"signal,omitempty"`
	// OOM is true when it is known that memory ran out.
	OOM bool `json:"oom,omitempty"`
	// Message says what the rest cannot.
	Message string    `json:"message,omitempty"`
	At      time.Time `json:"at"`
}

// Success reports a clean end: code 0, no signal.
func (e Exit) Success() bool { return e.Code == 0 && e.Signal == "" && !e.OOM }

// String says it in words: "exit code 3", "killed by SIGKILL", "out of memory
// (killed by SIGKILL)".
func (e Exit) String() string {
	text := "ended"
	switch {
	case e.Signal != "":
		text = "killed by " + e.Signal
	case e.Code >= 0:
		code, _ := json.Marshal(e.Code)
		text = "exit code " + string(code)
	}
	if e.OOM {
		text = "out of memory (" + text + ")"
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// Resource is a plugin as the control plane shows it: what was applied, and how
// it is.
type Resource struct {
	Manifest
	// Revision is the store's revision of the manifest: the ETag.
	Revision uint64 `json:"revision"`
	// Generation counts changes of the spec, from 1.
	Generation int64   `json:"generation"`
	Desired    Desired `json:"desired"`
	// Pin is set while the spec must not change.
	Pin    *Pin   `json:"pin,omitempty"`
	Status Status `json:"status"`
}

// LogStream is where a line came from.
type LogStream string

// The log streams.
const (
	Stdout LogStream = "stdout"
	Stderr LogStream = "stderr"
	// PluginLog is what came over the protocol's own log channel.
	PluginLog LogStream = "plugin"
)

// LogLine is one line that a plugin printed.
type LogLine struct {
	Time     time.Time `json:"time"`
	Plugin   string    `json:"plugin"`
	Instance string    `json:"instance"`
	Stream   LogStream `json:"stream"`
	// Sequence counts the lines of one instance and stream from 1; a gap means
	// that lines were dropped. The count goes on when the next daemon adopts the
	// instance.
	Sequence uint64 `json:"seq"`
	// Level is trace, debug, info, warn or error; empty when unknown.
	Level   string `json:"level,omitempty"`
	Message string `json:"message"`
	// Fields are the other keys of a structured line.
	Fields RawJSON `json:"fields,omitempty"`
	// Truncated is true when the line was longer than LogLineBytesMax.
	Truncated bool `json:"truncated,omitempty"`
	// Dropped says that this many lines before this one were lost.
	Dropped uint64 `json:"dropped,omitempty"`
	// Lines is how many printed lines this one is made of, when more than one: a
	// stack trace. Sequence is the last one's.
	Lines uint64 `json:"lines,omitempty"`
	// ID is the place in the bus's history: "SEQUENCE.LINE", to resume after.
	ID string `json:"-"`
}

// Sizes that several packages keep.
const (
	// LogLineBytesMax cuts longer lines: what shells, syslog and hclog use.
	LogLineBytesMax = 64 << 10
	// EventDataBytesMax keeps events well under NATS's 1 MiB message limit.
	EventDataBytesMax = 256 << 10
	// ExecOutputBytesMax is what is kept of a probe's command: it is quoted in a
	// sentence.
	ExecOutputBytesMax = 4 << 10
	// PayloadBytesMax is the most that spec.limits.payload may say.
	PayloadBytesMax = 64 << 20
	// ManifestBytesMax bounds one upload of manifests.
	ManifestBytesMax = 1 << 20
)
