package client

import (
	"context"
	"fmt"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// A daemon is asked again after pollFirst, doubling to pollMost.
const (
	pollFirst = 20 * time.Millisecond
	pollMost  = 500 * time.Millisecond
)

// Wait asks for a plugin until done says that it is, or says why it never will
// be. When ctx's deadline passes the error is ErrDeadline and says how the plugin
// was.
func (c *Client) Wait(ctx context.Context, name string, done func(plugin.Resource) (bool, error)) (plugin.Resource, error) {
	var seen plugin.Resource
	for every := pollFirst; ; every = min(2*every, pollMost) {
		r, err := c.Plugin(ctx, name)
		if err != nil && ctx.Err() == nil {
			return r, err
		}
		if err == nil {
			seen = r
			if yes, err := done(r); yes || err != nil {
				return r, err
			}
		}
		timer := time.NewTimer(every)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return seen, waited(ctx, seen)
		}
	}
}

func waited(ctx context.Context, seen plugin.Resource) error {
	if ctx.Err() == context.Canceled {
		return ctx.Err()
	}
	s := seen.Status
	return fmt.Errorf("%s: %w: it is still %s%s", seen.Metadata.Name, plugin.ErrDeadline, s.State, Why(s))
}

// Why returns a status's reason and message, as " (Reason: message)"; empty when
// there is none.
func Why(s plugin.Status) string {
	switch {
	case s.Reason == "" && s.Message == "":
		return ""
	case s.Message == "":
		return " (" + s.Reason + ")"
	case s.Reason == "":
		return " (" + s.Message + ")"
	}
	return " (" + s.Reason + ": " + s.Message + ")"
}

// IsRunning is for Wait after Start and Apply: the plugin's present generation
// answers, or ended with success.
func IsRunning(r plugin.Resource) (bool, error) {
	if r.Status.Generation != r.Generation {
		return false, nil
	}
	switch r.Status.State {
	case plugin.Running, plugin.Finished:
		return true, nil
	case plugin.Failed:
		return false, fmt.Errorf("%s: %w: it failed%s", r.Metadata.Name, plugin.ErrUnavailable, Why(r.Status))
	}
	return false, nil
}

// IsStopped is for Wait after Stop: nothing of the plugin runs.
func IsStopped(r plugin.Resource) (bool, error) {
	switch r.Status.State {
	case plugin.Stopped, plugin.Finished, plugin.Failed:
		return true, nil
	}
	return false, nil
}

// IsReplaced is for Wait after Restart: another instance than the one before
// answers.
func IsReplaced(before plugin.Status) func(plugin.Resource) (bool, error) {
	return func(r plugin.Resource) (bool, error) {
		if before.Instance != "" && r.Status.Instance == before.Instance {
			return false, nil // on its way down
		}
		return IsRunning(r)
	}
}
