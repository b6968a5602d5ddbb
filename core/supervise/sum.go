package supervise

import (
	"fmt"
	"slices"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Status returns the plugin's state now: of several instances it is summed up.
func (p *Pool) Status() plugin.Status { return sum(p.Instances()) }

// Instances returns the state of each instance, or of its place.
func (p *Pool) Instances() []plugin.Status {
	members := p.all()
	all := make([]plugin.Status, 0, len(members))
	for _, m := range members {
		all = append(all, m.shown())
	}
	return all
}

// shown is the member's status as one of a pool: a reload that has not begun, since
// another member has its turn, is shown as one.
func (p *Plugin) shown() plugin.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.statusLocked()
	due := p.serving != p.want.Load().Launch && (s.State == plugin.Running || s.State == plugin.Degraded)
	if last := s.LastReload; due && (last == nil || last.Outcome == plugin.ReloadDone) {
		s.LastReload = &plugin.Reload{At: time.Now(), Generation: p.want.Load().Generation, Outcome: plugin.ReloadLaunching, From: s.Instance}
	}
	return s
}

// nearness orders states by how soon an instance answers.
func nearness(s plugin.State) int {
	return slices.Index([]plugin.State{
		plugin.Running, plugin.Degraded, plugin.Starting, plugin.Pending, plugin.Stopping, plugin.Stopped,
		plugin.Backoff, plugin.Failed, plugin.Finished,
	}, s)
}

// sum makes one status of those of all instances. It is running when all are, degraded
// when some are, and else what the nearest is. Instance, facts and limits are those of
// the first that answers.
func sum(all []plugin.Status) plugin.Status {
	lead, worst := all[0], all[0]
	ready := 0
	for _, s := range all {
		if s.State == plugin.Running {
			ready++
		}
		if nearness(s.State) < nearness(lead.State) {
			lead = s
		}
		if nearness(s.State) > nearness(worst.State) {
			worst = s
		}
	}
	out := lead
	out.Instances, out.Ready = len(all), ready
	if len(all) == 1 {
		return out
	}
	out.InFlight, out.Restarts = 0, 0
	for _, s := range all {
		add(&out, s)
	}
	if ready > 0 && ready < len(all) {
		partly(&out, worst)
	}
	return out
}

// add counts one instance in.
func add(out *plugin.Status, s plugin.Status) {
	out.InFlight += s.InFlight
	out.Restarts += s.Restarts
	out.Generation = min(out.Generation, s.Generation)
	if s.Since.After(out.Since) {
		out.Since = s.Since
	}
	if s.LastExit != nil && (out.LastExit == nil || s.LastExit.At.After(out.LastExit.At)) {
		out.LastExit = s.LastExit
	}
	if s.LastStop != nil && (out.LastStop == nil || s.LastStop.At.After(out.LastStop.At)) {
		out.LastStop = s.LastStop
	}
	if s.LastReload != nil && (out.LastReload == nil || openness(s.LastReload) < openness(out.LastReload)) {
		out.LastReload = s.LastReload
	}
}

// openness orders reloads by what is to be told first of several.
func openness(r *plugin.Reload) int {
	return slices.Index([]plugin.ReloadOutcome{
		plugin.ReloadLaunching, plugin.ReloadDraining, plugin.ReloadFailed, plugin.ReloadCanceled, plugin.ReloadDone,
	}, r.Outcome)
}

// partly tells of a plugin of whose instances only some are ready.
func partly(out *plugin.Status, worst plugin.Status) {
	out.State, out.Reason = plugin.Degraded, "InstancesDown"
	out.Message = fmt.Sprintf("%d of %d instances are ready; %s is %s", out.Ready, out.Instances, worst.Instance, worst.State)
	if worst.Message != "" {
		out.Message += ": " + worst.Message
	}
	out.LastWords, out.RetryAt = worst.LastWords, worst.RetryAt
	out.Conditions = slices.Clone(out.Conditions)
	for i := range out.Conditions {
		if c := &out.Conditions[i]; c.Type == plugin.ConditionReady {
			c.Status, c.Reason, c.Message, c.LastTransitionTime = plugin.ConditionFalse, out.Reason, out.Message, out.Since
		}
	}
}
