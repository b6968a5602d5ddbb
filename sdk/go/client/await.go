package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// roundLeast is between two rounds of looks, however much happens; roundMost
	// heals an event that was missed, and finds what has none.
	roundLeast = 250 * time.Millisecond
	roundMost  = time.Second
	// settledFor is how long a plugin must look as if it would never come to its
	// goal: a start that was just asked for takes a moment to show.
	settledFor = 600 * time.Millisecond
	// hintsMax is how many events may wait for a round; more are found by the next
	// round of all.
	hintsMax = 64
)

// Await waits until every named plugin is at the goal and tells met each as it
// comes there. It follows the daemon's events, also to a new port, and looks at
// each plugin that something happened to.
//
// The error is ErrNotFound for a plugin that is not there, ErrUnavailable for one
// that will not come there by itself, and ErrDeadline, which says how each of the
// others is, when ctx's deadline has passed.
func (c *Client) Await(ctx context.Context, names []string, goal Goal, met func(name string)) error {
	following, stop := context.WithCancel(ctx)
	defer stop()
	w := waiting{client: c, goal: goal, met: met, doubts: map[string]time.Time{}}
	w.pending = slices.Compact(slices.Sorted(slices.Values(names)))
	if err := w.round(ctx, slices.Clone(w.pending)); err != nil {
		return err
	}
	hints := make(chan string, hintsMax)
	ended := make(chan struct{})
	go func() { // ends with following; waited for below
		defer close(ended)
		c.hint(following, hints)
	}()
	defer func() { stop(); <-ended }()
	for len(w.pending) > 0 {
		due, err := w.next(ctx, hints)
		if err != nil {
			return w.tooLate(ctx)
		}
		if err := w.round(ctx, due); err != nil {
			return err
		}
	}
	return nil
}

// hint tells of each plugin that something happens to, until ctx ends.
func (c *Client) hint(ctx context.Context, hints chan<- string) {
	for ctx.Err() == nil {
		for e, err := range c.Events(ctx, EventOptions{Follow: true}) {
			if err != nil {
				break
			}
			select {
			case hints <- e.Plugin:
			default: // the next round of all finds it
			}
		}
		c.findAgain()
		select {
		case <-time.After(roundMost):
		case <-ctx.Done():
		}
	}
}

// waiting is one call of Await.
type waiting struct {
	client  *Client
	goal    Goal
	met     func(name string)
	pending []string
	// doubts is since when a plugin looks as if it would never come to its goal.
	doubts  map[string]time.Time
	reached bool // the daemon was: from then on it may be away
}

// next returns who is to be looked at, after a pause.
func (w *waiting) next(ctx context.Context, hints <-chan string) (due []string, err error) {
	least, most := time.NewTimer(roundLeast), time.NewTimer(roundMost)
	defer least.Stop()
	defer most.Stop()
	select {
	case <-least.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for {
		select {
		case name := <-hints:
			if slices.Contains(w.pending, name) && !slices.Contains(due, name) {
				due = append(due, name)
			}
			if len(hints) == 0 && len(due) > 0 {
				return due, nil
			}
		case <-most.C:
			return slices.Clone(w.pending), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// round looks at some plugins.
func (w *waiting) round(ctx context.Context, due []string) error {
	for _, name := range due {
		r, err := w.client.Plugin(ctx, name)
		done, never := err != nil && errors.Is(err, plugin.ErrNotFound) && w.goal.Deleted(), error(nil)
		switch {
		case done:
		case ctx.Err() != nil:
			return w.tooLate(ctx)
		case w.reached && (errors.Is(err, plugin.ErrUnavailable) || errors.Is(err, plugin.ErrDeadline)):
			w.client.findAgain() // it restarts, perhaps on another port
			continue
		case err != nil:
			return err
		default:
			w.reached = true
			done, never = w.goal.Met(r)
		}
		if done {
			w.pending = slices.DeleteFunc(slices.Clone(w.pending), func(one string) bool { return one == name })
			w.met(name)
		}
		if never = w.doubt(name, never); never != nil {
			return never
		}
	}
	return nil
}

// doubt returns never once a plugin has looked hopeless for long enough.
func (w *waiting) doubt(name string, never error) error {
	if never == nil {
		delete(w.doubts, name)
		return nil
	}
	since, doubted := w.doubts[name]
	if !doubted {
		since = time.Now()
		w.doubts[name] = since
	}
	if time.Since(since) < settledFor {
		return nil
	}
	return never
}

// tooLate says how each of the others is.
func (w *waiting) tooLate(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	var all []error
	for _, name := range w.pending {
		_, err := w.client.lastLook(ctx, name, func(r plugin.Resource) (bool, error) {
			return false, fmt.Errorf("%s: %w: %s, not %s", name, plugin.ErrDeadline, still(r), w.goal)
		})
		all = append(all, err)
	}
	return errors.Join(all...)
}
