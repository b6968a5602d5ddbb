package reconcile

import (
	"context"
	"encoding/json"
	"log/slog"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/patchbay-dev/patchbay/core/dispatch"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// changesPendingMax is how many changes may wait to be told. Beyond it the
// supervisors wait: changes are never dropped here.
const changesPendingMax = 4096

// A storm is the boot of very many plugins: stormChanges of them, and then
// stormOver without any. What it used is given back then; an idle daemon would
// not collect it for minutes. It is given back once more after stormCold, when
// the bus has let go of what it keeps for a while: buffers of files for 10 s, the
// ids of events for 30 s.
const (
	stormChanges = 1000
	stormOver    = 3 * time.Second
	stormCold    = 32 * time.Second
)

// poolGenerations is how many collections it takes until nothing is left of what
// a sync.Pool was given after the first of them, by a cleanup.
const poolGenerations = 3

// Reporter tells the bus and the log what supervisors tell it, in order, on a
// goroutine of its own: encoding needs a stack that ten thousand supervisors
// would otherwise keep.
type Reporter struct {
	Node    string
	Status  func(plugin.Status)
	Publish func(plugin.Event)
	// Drop removes what Status has published of an instance. It may be nil.
	Drop func(plugin, instance string)
	Log  *slog.Logger

	changes chan report
	ended   chan struct{} // closed when Run returns: nobody takes changes any more
}

// report is a change, a fresh status (no cause), an instance to forget or a reload
// that is over.
type report struct {
	plugin.StateChange
	forget bool
	reload *plugin.Reload
}

// NewReporter makes a Reporter; Run sets it going.
func NewReporter(node string, status func(plugin.Status), publish func(plugin.Event), log *slog.Logger) *Reporter {
	return &Reporter{
		Node: node, Status: status, Publish: publish, Log: log,
		changes: make(chan report, changesPendingMax), ended: make(chan struct{}),
	}
}

// Changed takes one change.
func (r *Reporter) Changed(change plugin.StateChange) { r.take(report{StateChange: change}) }

// Refreshed takes a status whose state did not change.
func (r *Reporter) Refreshed(s plugin.Status) {
	r.take(report{StateChange: plugin.StateChange{Status: s}})
}

// Forget takes an instance that is no more. It keeps its place among the changes:
// the last status of the instance must not be published after it.
func (r *Reporter) Forget(name, instance string) {
	r.take(report{StateChange: plugin.StateChange{Status: plugin.Status{Plugin: name, Instance: instance}}, forget: true})
}

// Reloaded takes a reload that is over.
func (r *Reporter) Reloaded(name string, reload plugin.Reload) {
	r.take(report{StateChange: plugin.StateChange{Status: plugin.Status{Plugin: name}}, reload: &reload})
}

func (r *Reporter) take(one report) {
	select {
	case r.changes <- one:
	case <-r.ended: // a supervisor that outlives the daemon's patience
	}
}

// Run tells changes until ctx ends, and then those that are there already. It is
// for once.
func (r *Reporter) Run(ctx context.Context) error {
	defer close(r.ended)
	quiet := time.NewTimer(stormOver)
	defer quiet.Stop()
	cold := time.NewTimer(stormCold)
	defer cold.Stop()
	cold.Stop()
	for told := 0; ; {
		select {
		case change := <-r.changes:
			r.tell(change)
			told++
			quiet.Reset(stormOver)
		case <-quiet.C:
			if told >= stormChanges {
				giveBack()
				cold.Reset(stormCold)
			}
			told = 0
		case <-cold.C:
			giveBack()
		case <-ctx.Done():
			for len(r.changes) > 0 {
				r.tell(<-r.changes)
			}
			return nil
		}
	}
}

// giveBack returns to the system what nobody uses.
func giveBack() {
	for range poolGenerations {
		runtime.GC()
	}
	debug.FreeOSMemory()
}

// level says how much an operator cares that a plugin came into a state.
func level(state plugin.State) slog.Level {
	switch state {
	case plugin.Starting, plugin.Stopping:
		return slog.LevelDebug
	case plugin.Backoff, plugin.Degraded:
		return slog.LevelWarn
	case plugin.Failed:
		return slog.LevelError
	}
	return slog.LevelInfo
}

func (r *Reporter) tell(one report) {
	change, s := one.StateChange, one.Status
	if one.forget {
		if r.Drop != nil {
			r.Drop(s.Plugin, s.Instance)
		}
		return
	}
	if one.reload != nil {
		r.reloaded(s.Plugin, *one.reload)
		return
	}
	r.Status(s)
	if change.Cause == "" {
		return // only refreshed
	}
	data, err := json.Marshal(change)
	if err == nil && len(data) > plugin.EventDataBytesMax {
		change.Status.LastWords = nil // they are in the log
		data, err = json.Marshal(change)
	}
	if err != nil {
		r.Log.Error("a change of state cannot be encoded", "plugin", s.Plugin, "error", err)
		return
	}
	r.Publish(dispatch.Event(r.Node, s.Plugin, plugin.EventState, data))
	r.stopped(change)
	attrs := []slog.Attr{slog.String("plugin", s.Plugin), slog.String("instance", s.Instance)}
	if s.Reason != "" {
		attrs = append(attrs, slog.String("reason", s.Reason), slog.String("message", s.Message))
	}
	r.Log.LogAttrs(context.Background(), level(change.To), "plugin "+string(change.To), attrs...)
}

// stopped tells how a stop went, step by step, once it is over.
func (r *Reporter) stopped(change plugin.StateChange) {
	if change.From != plugin.Stopping || change.Status.LastStop == nil {
		return
	}
	data, err := json.Marshal(change.Status.LastStop)
	if err != nil {
		r.Log.Error("a stop cannot be encoded", "plugin", change.Status.Plugin, "error", err)
		return
	}
	r.Publish(dispatch.Event(r.Node, change.Status.Plugin, plugin.EventStop, data))
}

// reloaded tells how a reload went.
func (r *Reporter) reloaded(name string, reload plugin.Reload) {
	data, err := json.Marshal(reload)
	if err == nil && len(data) > plugin.EventDataBytesMax {
		reload.LastWords = nil // they are in the log
		data, err = json.Marshal(reload)
	}
	if err != nil {
		r.Log.Error("a reload cannot be encoded", "plugin", name, "error", err)
		return
	}
	r.Publish(dispatch.Event(r.Node, name, plugin.EventReload, data))
	r.Log.Info("reload "+string(reload.Outcome), "plugin", name, "instance", reload.To, "old", reload.From)
}
