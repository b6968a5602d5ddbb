// Package layers runs the daemon's long-lived parts and takes them down in the
// reverse order.
package layers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// Layers are parts, the lowest first. Each may use those below it, so they end
// from the top.
type Layers []func(context.Context) error

// Run runs all layers until ctx ends or one of them does, and then ends them one
// by one. What has not ended after most is given up, and the error says so.
func (l Layers) Run(ctx context.Context, most time.Duration) error {
	ended := make(chan error, len(l)) // a place for each: no layer waits
	ends := make([]context.CancelFunc, len(l))
	done := make([]chan struct{}, len(l))
	for i, layer := range l {
		own, end := context.WithCancel(context.WithoutCancel(ctx))
		defer end()
		ends[i], done[i] = end, make(chan struct{})
		go func() { // ends with own: waited for below
			defer close(done[i])
			ended <- layer(own)
		}()
	}
	var why error
	select {
	case <-ctx.Done():
	case err := <-ended:
		why = cmp.Or(err, errors.New("a part of the daemon ended by itself"))
	}
	deadline := time.After(most)
	for i := len(l) - 1; i >= 0; i-- {
		ends[i]()
		select {
		case <-done[i]:
		case <-deadline:
			return errors.Join(why, fmt.Errorf("not everything was stopped within %s (--shutdown-timeout)", most))
		}
	}
	for range len(ended) {
		why = cmp.Or(why, <-ended)
	}
	return why
}
