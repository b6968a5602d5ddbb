package dispatch

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// patience ends an invocation in parts in which nothing moves: no part of the
// argument arrives, and none of the answer. While a slow reader takes a part it is
// not the plugin that is waited for, and patience rests.
type patience struct {
	ctx  context.Context
	most time.Duration

	mu      sync.Mutex
	timer   *time.Timer
	resting bool
}

// newPatience begins to wait. The context ends with parent, with the wait, or with
// end.
func newPatience(parent context.Context, most time.Duration) (p *patience, end func()) {
	ctx, cancel := context.WithCancelCause(parent)
	p = &patience{ctx: ctx, most: most}
	p.timer = time.AfterFunc(most, func() { cancel(context.DeadlineExceeded) })
	return p, func() {
		p.stop()
		cancel(nil)
	}
}

func (p *patience) stop() { p.set(true) }

func (p *patience) start() { p.set(false) }

func (p *patience) set(resting bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resting = resting
	p.again()
}

// moved begins the wait anew.
func (p *patience) moved() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.again()
}

// again is for who holds mu.
func (p *patience) again() {
	if p.resting {
		p.timer.Stop()
	} else {
		p.timer.Reset(p.most)
	}
}

// parts keeps the size limit of the parts that next gives.
func (p *patience) parts(next func(context.Context) ([]byte, error), most plugin.Bytes) func(context.Context) ([]byte, error) {
	count := 0
	return func(ctx context.Context) ([]byte, error) {
		part, err := next(ctx)
		if err != nil {
			return nil, err
		}
		count++
		if int64(len(part)) > int64(most) {
			return nil, fmt.Errorf("%w: part %d of the argument has %d bytes, spec.limits.payload allows %d", plugin.ErrInvalid, count, len(part), most)
		}
		p.moved()
		return part, nil
	}
}
