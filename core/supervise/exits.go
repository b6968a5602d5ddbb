package supervise

import (
	"fmt"

	"github.com/patchbay-dev/patchbay/core/lifecycle"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// ruled returns what the manifest's rules say of an exit, and which rule; no rule
// is "".
func ruled(rules []plugin.ExitRule, exit plugin.Exit) (action plugin.ExitAction, index int) {
	for i, r := range rules {
		if r.Matches(exit) {
			return r.Action, i
		}
	}
	return "", -1
}

// afterExit decides what an exit leads to: the first rule that matches, else the
// policy.
func (p *Plugin) afterExit(want *Want, exit *plugin.Exit, f failure) {
	restart := want.Manifest.Spec.Restart
	action, index := ruled(restart.Exits, *exit)
	if action == "" {
		action = byPolicy(restart.Policy, *exit)
	} else {
		f.message += fmt.Sprintf(" (spec.restart.exits[%d]: %s)", index, action)
	}
	switch action {
	case plugin.ExitFinish:
		p.to(lifecycle.Done, func(s *plugin.Status) {
			s.Reason, s.LastExit, s.Facts, s.Limits = "Completed", exit, nil, nil
			if !exit.Success() {
				s.Message = f.message
			}
		})
	case plugin.ExitFail:
		p.giveUp(f)
	default:
		p.failed(want, f)
	}
}

func byPolicy(policy plugin.RestartPolicy, exit plugin.Exit) plugin.ExitAction {
	switch {
	case exit.Success() && policy != plugin.RestartAlways:
		return plugin.ExitFinish
	case policy == plugin.RestartNever:
		return plugin.ExitFail
	}
	return plugin.ExitRestart
}
