package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// A daemon is asked again after pollFirst, doubling to pollMost.
const (
	pollFirst = 20 * time.Millisecond
	pollMost  = 500 * time.Millisecond
	// lastLookMax bounds the question how a plugin is when the time is over.
	lastLookMax = time.Second
)

// Wait asks for a plugin until done says that it is, or says why it never will
// be. When ctx's deadline has passed it looks once more, and then the error is
// ErrDeadline and says how the plugin is.
func (c *Client) Wait(ctx context.Context, name string, done func(plugin.Resource) (bool, error)) (plugin.Resource, error) {
	for every := pollFirst; ; every = min(2*every, pollMost) {
		r, err := c.Plugin(ctx, name)
		switch {
		case ctx.Err() != nil:
			return c.lastLook(ctx, name, done)
		case err != nil:
			return r, err
		}
		if yes, err := done(r); yes || err != nil {
			return r, err
		}
		timer := time.NewTimer(every)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return c.lastLook(ctx, name, done)
		}
	}
}

// lastLook is for a ctx that has ended: whoever waits for many plugins learns how
// each of them is, also when the first took all the time.
func (c *Client) lastLook(ctx context.Context, name string, done func(plugin.Resource) (bool, error)) (plugin.Resource, error) {
	if errors.Is(ctx.Err(), context.Canceled) {
		return plugin.Resource{}, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastLookMax)
	defer cancel()
	r, err := c.Plugin(ctx, name)
	if errors.Is(err, plugin.ErrUnavailable) || errors.Is(err, plugin.ErrDeadline) {
		return r, fmt.Errorf("%s: %w: how it is cannot be said: %w", name, plugin.ErrDeadline, err)
	}
	if err != nil {
		return r, err
	}
	if yes, err := done(r); yes || err != nil {
		return r, err
	}
	return r, fmt.Errorf("%s: %w: %s", name, plugin.ErrDeadline, still(r))
}

func still(r plugin.Resource) string {
	s := r.Status
	switch {
	case s.State == "":
		return "it has no state yet"
	case s.Generation != r.Generation:
		return fmt.Sprintf("generation %d is not up yet; it is still %s with generation %d%s", r.Generation, s.State, s.Generation, Why(s))
	}
	return "it is still " + string(s.State) + Why(s)
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
// answers, ended with success, or starts at its first call.
func IsRunning(r plugin.Resource) (bool, error) {
	if r.Status.Generation != r.Generation {
		return false, notFollowed(r)
	}
	if r.Status.Asleep() {
		return true, nil
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

// IsReloaded is for Wait after Reload: a new instance has the calls, and the old one
// is gone.
func IsReloaded(before plugin.Status) func(plugin.Resource) (bool, error) {
	return func(r plugin.Resource) (bool, error) {
		last := r.Status.LastReload
		switch {
		case last == nil: // another daemon runs it now: it has begun or ended what there was
			return IsReplaced(before)(r)
		case before.LastReload != nil && !last.At.After(before.LastReload.At):
			return false, nil // not this one
		case last.Outcome == plugin.ReloadDone:
			return true, nil
		case last.Outcome == plugin.ReloadFailed, last.Outcome == plugin.ReloadCanceled:
			return false, endedReload(r)
		}
		return false, nil
	}
}

// notFollowed is the error of a plugin whose newest generation did not come up beside
// the old one, which goes on.
func notFollowed(r plugin.Resource) error {
	last := r.Status.LastReload
	if last == nil || last.Outcome != plugin.ReloadFailed || last.Generation != r.Generation {
		return nil
	}
	return endedReload(r)
}

func endedReload(r plugin.Resource) error {
	last := r.Status.LastReload
	if last.Outcome == plugin.ReloadFailed {
		return fmt.Errorf("%s: %w: the old instance goes on; the new one: %s", r.Metadata.Name, plugin.ErrUnavailable, last.Message)
	}
	return fmt.Errorf("%s: %w: the reload was called off: %s", r.Metadata.Name, plugin.ErrUnavailable, last.Message)
}
