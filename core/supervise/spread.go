package supervise

import (
	"context"
	"fmt"
	"sync"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// This file brings a call to one of the instances of a pool.

// Invoke calls one operation of one of the instances: of those that are ready, the one
// with the fewest calls in flight. It waits for a plugin that is on its way up, and for
// no other. More than spec.limits.inFlight at the same time, in each instance, are
// ErrBusy.
func (p *Pool) Invoke(ctx context.Context, in plugin.Invocation) (plugin.Result, error) {
	return p.all()[0].Invoke(ctx, in) // a call may come in by any of them
}

// InvokeStream is Invoke for an answer in parts. A plugin that cannot answer in parts
// sends one.
func (p *Pool) InvokeStream(ctx context.Context, in plugin.Invocation, send func([]byte) error) error {
	return p.all()[0].InvokeStream(ctx, in, send)
}

// Describe lists the operations of the plugin.
func (p *Pool) Describe(ctx context.Context) ([]plugin.Operation, error) {
	return p.all()[0].Describe(ctx)
}

// take takes a place among the calls in flight of one of the instances; nil: there is
// none.
func (p *Pool) take() (*living, error) {
	for {
		m, inFlight := p.pick()
		one := m.living.Load()
		if one == nil {
			return nil, nil
		}
		limit := m.inFlightLimit()
		switch {
		case inFlight >= limit:
			return nil, fmt.Errorf("%w: %d invocations are in flight%s (spec.limits.inFlight); try again", plugin.ErrBusy, limit, p.each())
		case !m.inFlight.CompareAndSwap(inFlight, inFlight+1):
			continue // another call came in between: now it may be the turn of another one
		}
		if one.inFlight.Add(1); m.living.Load() == one { // else it may be drained already
			return one, nil
		}
		m.leave(one)
	}
}

// each says of a limit that every instance has it.
func (p *Pool) each() string {
	if len(p.all()) == 1 {
		return ""
	}
	return " in each instance"
}

// pick chooses the member that is to have the next call, and returns how many it has.
// It may have no instance only if none has.
func (p *Pool) pick() (best *Plugin, inFlight int64) {
	members := p.all()
	if len(members) == 1 {
		return members[0], members[0].inFlight.Load()
	}
	first := int(p.turns.Add(1)) // equals take turns
	best, bestRank := members[0], int64(-1)
	for i := range members {
		m := members[(first+i)%len(members)]
		if rank, count := m.rank(); rank >= 0 && (bestRank < 0 || rank < bestRank) {
			best, bestRank, inFlight = m, rank, count
		}
	}
	return best, inFlight
}

// unwellRank is more than any number of calls in flight: who is not well gets calls
// only while nobody else is there.
const unwellRank = 1 << 20

// rank orders instances by how little they should get the next call; -1: there is none.
// inFlight is what it has.
func (p *Plugin) rank() (rank, inFlight int64) {
	if p.living.Load() == nil {
		return -1, 0
	}
	inFlight = p.inFlight.Load()
	if p.state() != plugin.Running {
		return inFlight + unwellRank, inFlight
	}
	return inFlight, inFlight
}

// await waits for a plugin that is on its way up. As many may wait as may be in
// flight.
func (p *Pool) await(ctx context.Context) error {
	defer p.waiting.Add(-1)
	if limit := p.all()[0].inFlightLimit() * int64(len(p.all())); p.waiting.Add(1) > limit {
		return fmt.Errorf("%w: %d invocations wait for it to start; try again", plugin.ErrBusy, limit)
	}
	for {
		changed, over := p.news.next()
		status, there := p.prospect()
		if there {
			return nil
		}
		desired := p.Wanted().Desired
		if !comingUp(status.State, desired) {
			return notRunning(status)
		}
		p.news.wake()
		select {
		case <-changed:
		case <-over:
			return &plugin.Later{Err: fmt.Errorf("%w: it is stopping, for good or with the daemon", plugin.ErrUnavailable), After: retryStopping}
		case <-ctx.Done():
			return fmt.Errorf("%w: it is still %s", plugin.ErrDeadline, status.State)
		}
	}
}

// prospect is the status of the member that is nearest to an instance that takes calls;
// there is true when one has it.
func (p *Pool) prospect() (nearest plugin.Status, there bool) {
	for i, m := range p.all() {
		m.mu.Lock()
		status, one := m.status, m.living.Load()
		m.mu.Unlock()
		if one != nil {
			return status, true
		}
		if i == 0 || nearness(status.State) < nearness(nearest.State) {
			nearest = status
		}
	}
	return nearest, false
}

// news tells who waits for an instance that something has changed, and members that
// wait for a first call that there is one.
type news struct {
	mu      sync.Mutex
	changed chan struct{}   // closed at the next change; nil while nobody waits
	over    <-chan struct{} // closed when Run shall end; nil before it began
	called  chan struct{}   // closed once there was a call
	awake   bool            // called is closed
}

func newNews() news { return news{called: make(chan struct{})} }

// tell wakes all who wait for a change.
func (n *news) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changed != nil {
		close(n.changed)
		n.changed = nil
	}
}

// next returns a channel that is closed when something changes next, and one that is
// closed when there will be no next life.
func (n *news) next() (changed, over <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changed == nil {
		n.changed = make(chan struct{})
	}
	return n.changed, n.over
}

// last says when there will be no next life.
func (n *news) last(over <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.over = over
}

// wake starts what starts at its first call.
func (n *news) wake() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.awake {
		n.awake = true
		close(n.called)
	}
}

// sleep makes the next call the first.
func (n *news) sleep() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.awake {
		n.awake, n.called = false, make(chan struct{})
	}
}

// asleep returns a channel that is closed at the first call; nil: there was one.
func (n *news) asleep() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.awake {
		return nil
	}
	return n.called
}
