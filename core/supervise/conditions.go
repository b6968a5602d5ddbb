package supervise

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// conditions derives every condition from a status and from what the probes have
// said. A time is that of the last change of the answer; those before are in s.
func conditions(s *plugin.Status, h health, spec *plugin.Spec, now time.Time) []plugin.Condition {
	all := make([]plugin.Condition, 0, 4) // anew each time: statuses share the old ones
	for _, of := range plugin.ConditionTypes() {
		c := plugin.Condition{Type: of}
		switch of {
		case plugin.ConditionStarted:
			c.Status, c.Reason, c.Message = started(s)
		case plugin.ConditionReady:
			c.Status, c.Reason, c.Message = ready(s, h.ready)
		case plugin.ConditionLive:
			c.Status, c.Reason, c.Message = alive(s, h.live, spec)
		case plugin.ConditionLimitsEnforced:
			c.Status, c.Reason, c.Message = limited(s, spec)
		}
		c.LastTransitionTime, c.ObservedGeneration = now, s.Generation
		if before, ok := s.Condition(of); ok && before.Status == c.Status {
			c.LastTransitionTime = before.LastTransitionTime
		}
		all = append(all, c)
	}
	return all
}

// concludeLocked brings the status's conditions up to date. The caller holds mu.
func (p *Plugin) concludeLocked() {
	p.status.Conditions = conditions(&p.status, p.health, &p.want.Load().Manifest.Spec, time.Now())
}

// up reports a state with an instance that was started.
func up(state plugin.State) bool {
	return state == plugin.Running || state == plugin.Degraded || state == plugin.Stopping
}

// absent says why there is no instance; ok is false when there is one.
func absent(s *plugin.Status) (status plugin.ConditionStatus, reason, message string, ok bool) {
	switch s.State {
	case plugin.Pending:
		return plugin.ConditionUnknown, cmp.Or(s.Reason, "Pending"), s.Message, true
	case plugin.Backoff, plugin.Failed:
		return plugin.ConditionFalse, s.Reason, s.Message, true
	case plugin.Stopped:
		return plugin.ConditionFalse, "Stopped", s.Message, true
	case plugin.Finished:
		return plugin.ConditionFalse, "Completed", s.Message, true
	}
	return "", "", "", false
}

func started(s *plugin.Status) (status plugin.ConditionStatus, reason, message string) {
	if status, reason, message, ok := absent(s); ok {
		return status, reason, message
	}
	if s.State == plugin.Starting {
		return plugin.ConditionFalse, "Starting", ""
	}
	return plugin.ConditionTrue, "Started", ""
}

func ready(s *plugin.Status, v verdict) (status plugin.ConditionStatus, reason, message string) {
	if status, reason, message, ok := absent(s); ok {
		return status, reason, message
	}
	switch s.State {
	case plugin.Degraded:
		return plugin.ConditionFalse, s.Reason, s.Message
	case plugin.Starting:
		return plugin.ConditionFalse, "Starting", ""
	case plugin.Stopping:
		return plugin.ConditionFalse, "Stopping", "it takes no new invocations"
	}
	if v.successes > 0 {
		return plugin.ConditionTrue, "ProbePassed", ""
	}
	return plugin.ConditionTrue, "Answers", "it completed its start"
}

func alive(s *plugin.Status, v verdict, spec *plugin.Spec) (status plugin.ConditionStatus, reason, message string) {
	if status, reason, message, ok := absent(s); ok {
		return status, reason, message
	}
	probe := spec.Probe.Liveness
	switch {
	case s.State == plugin.Starting:
		return plugin.ConditionUnknown, "Starting", ""
	case probe == nil:
		return plugin.ConditionTrue, "Runs", "it has not ended; it is not asked more (spec.probe.liveness)"
	case v.failures >= probe.Failures:
		return plugin.ConditionFalse, "LivenessFailed", v.sentence()
	case v.failures > 0:
		return plugin.ConditionUnknown, "ProbeFailed", v.sentence()
	case v.successes > 0:
		return plugin.ConditionTrue, "ProbePassed", ""
	}
	return plugin.ConditionUnknown, "NotProbed", "its first probe is still to come"
}

func limited(s *plugin.Status, spec *plugin.Spec) (status plugin.ConditionStatus, reason, message string) {
	set := spec.Limits.Memory > 0 || spec.Limits.CPU > 0 || spec.Limits.Pids > 0
	var kept, not []string
	for _, l := range s.Limits {
		if l.By == "" {
			not = append(not, l.Name+": "+l.Message)
		} else {
			kept = append(kept, l.Name+" by "+l.By)
		}
	}
	switch {
	case len(not) > 0:
		return plugin.ConditionFalse, "NotEnforced", strings.Join(not, "; ")
	case len(kept) > 0:
		return plugin.ConditionTrue, "Enforced", strings.Join(kept, ", ")
	case !set:
		return plugin.ConditionTrue, "NoLimits", ""
	case !up(s.State):
		return plugin.ConditionUnknown, "NotRunning", ""
	}
	return plugin.ConditionUnknown, "NotTold", fmt.Sprintf("the %s adapter does not tell", s.Adapter)
}
