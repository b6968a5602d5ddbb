package client

import (
	"fmt"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// A Goal is what a plugin can be waited for to be.
type Goal struct {
	text      string
	state     plugin.State         // for a goal that is a state
	condition plugin.ConditionType // for one that is a condition
	answer    plugin.ConditionStatus
}

// goals are those that are one word.
const (
	goalDeleted   = "deleted"
	goalCondition = "condition="
)

// ParseGoal reads running, stopped, failed, finished, deleted, or
// condition=TYPE[=True|False|Unknown].
func ParseGoal(text string) (Goal, error) {
	g := Goal{text: text}
	rest, isCondition := strings.CutPrefix(text, goalCondition)
	switch {
	case isCondition:
		name, answer, given := strings.Cut(rest, "=")
		if !given {
			answer = string(plugin.ConditionTrue)
		}
		g.condition, g.answer = plugin.ConditionType(name), plugin.ConditionStatus(answer)
		if !slices.Contains(plugin.ConditionTypes(), g.condition) {
			return g, fmt.Errorf("%w: there is no condition %q; want one of %v", plugin.ErrInvalid, name, plugin.ConditionTypes())
		}
		if !slices.Contains([]plugin.ConditionStatus{plugin.ConditionTrue, plugin.ConditionFalse, plugin.ConditionUnknown}, g.answer) {
			return g, fmt.Errorf("%w: %q is no answer of a condition; want True, False or Unknown", plugin.ErrInvalid, answer)
		}
		return g, nil
	case text == goalDeleted:
		return g, nil
	}
	g.state = plugin.State(text)
	if !slices.Contains([]plugin.State{plugin.Running, plugin.Stopped, plugin.Failed, plugin.Finished}, g.state) {
		return g, fmt.Errorf("%w: %q cannot be waited for; want running, stopped, failed, finished, deleted or condition=TYPE[=STATUS]", plugin.ErrInvalid, text)
	}
	return g, nil
}

// String is what ParseGoal reads.
func (g Goal) String() string { return g.text }

// Deleted reports whether the goal is that there is no such plugin.
func (g Goal) Deleted() bool { return g.text == goalDeleted }

// Met reports whether r is at the goal. An error says that it will not come there
// by itself.
func (g Goal) Met(r plugin.Resource) (bool, error) {
	s := r.Status
	if err := notFollowed(r); err != nil && s.Generation != r.Generation && !g.Deleted() {
		return false, err
	}
	if s.State == "" || s.Generation != r.Generation && s.State != plugin.Stopped {
		return false, nil // it is still on its way to what was applied
	}
	switch {
	case g.state != "" && s.State == g.state:
		return true, nil
	case g.condition != "":
		if c, ok := s.Condition(g.condition); ok && c.Status == g.answer {
			return true, nil
		}
	}
	if settled(r) && !g.Deleted() {
		return false, fmt.Errorf("%s: %w: it is %s%s, and will not be %s by itself", r.Metadata.Name, plugin.ErrUnavailable, s.State, Why(s), g)
	}
	return false, nil
}

// settled reports a state that only somebody's wish changes.
func settled(r plugin.Resource) bool {
	switch r.Status.State {
	case plugin.Pending:
		return r.Status.Asleep() // or a call
	case plugin.Failed, plugin.Finished:
		return r.Desired != plugin.DesiredStopped
	case plugin.Stopped:
		return r.Desired == plugin.DesiredStopped
	}
	return false
}
