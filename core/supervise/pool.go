package supervise

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// A Pool keeps one applied plugin: spec.instances instances, each kept by a [Plugin]
// of its own, which share its calls (spread.go). One is the usual number; then the Pool
// adds nothing but itself. All its methods may be called at once; Run only once.
type Pool struct {
	deps    *Deps
	members atomic.Pointer[[]*Plugin] // at least one; replaced under mu, never changed
	turn    turn
	news    news

	turns   atomic.Uint32 // who is looked at first for a call
	waiting atomic.Int64  // calls that wait for an instance

	mu      sync.Mutex
	surplus []*Plugin       // of instances that an earlier daemon left and nobody needs
	run     context.Context // of Run; nil before it, and at its end
	others  sync.WaitGroup  // all members but the first, also those that are leaving
}

// New makes the supervisor of a plugin; Run sets it going.
func New(deps *Deps, want Want) *Pool {
	p := &Pool{deps: deps, turn: newTurn(), news: newNews()}
	p.members.Store(&[]*Plugin{})
	p.resize(&want)
	return p
}

func (p *Pool) all() []*Plugin { return *p.members.Load() }

// Wanted returns how the plugin is wanted now. It is shared: do not change it.
func (p *Pool) Wanted() *Want { return p.all()[0].Wanted() }

// Expect gives the plugin the instances that an earlier daemon left of it: as many as
// it is to have go on if they serve it, those that fit and are newest first; the
// others are stopped. It is for before Run.
func (p *Pool) Expect(found ...*Found) {
	slices.SortFunc(found, func(a, b *Found) int {
		if a.Fits != b.Fits {
			return map[bool]int{true: -1, false: 1}[a.Fits]
		}
		return b.Since.Compare(a.Since)
	})
	members := p.all()
	for i, f := range found {
		if i < len(members) {
			members[i].expect(f)
			continue
		}
		want := f.want()
		want.Desired = plugin.DesiredStopped
		m := newPlugin(p, *want)
		m.expect(f)
		p.surplus = append(p.surplus, m)
	}
}

// Run keeps the plugin as it is wanted until ctx ends, and then stops it. It
// returns once everything of it is gone.
func (p *Pool) Run(ctx context.Context) {
	p.mu.Lock()
	p.run = ctx
	p.news.last(ctx.Done())
	for _, m := range p.all()[1:] {
		p.start(m)
	}
	for _, m := range p.surplus {
		p.start(m)
		m.quit(ErrDeleted)
	}
	p.surplus = nil
	first := p.all()[0]
	p.mu.Unlock()
	first.Run(ctx) // on the caller's goroutine: thousands of plugins have one instance
	p.mu.Lock()
	p.run = nil // nobody is started any more
	p.mu.Unlock()
	p.others.Wait()
	first.forgetDeleted(ctx)
}

// start sets a member going. The caller holds mu, and Run has begun.
func (p *Pool) start(m *Plugin) {
	ctx, quit := context.WithCancelCause(p.run)
	m.quit = quit
	p.others.Go(func() { // ends with ctx; Run waits
		defer quit(nil)
		m.Run(ctx)
		m.forgetDeleted(ctx)
	})
}

// forgetDeleted drops what is kept of the last instance of what is not wanted any more.
func (p *Plugin) forgetDeleted(ctx context.Context) {
	if errors.Is(context.Cause(ctx), ErrDeleted) {
		p.deps.Forget(p.name, p.Status().Instance)
	}
}

// Set tells how the plugin is wanted from now on. It does not wait.
func (p *Pool) Set(want Want) {
	before := p.Wanted()
	switch {
	case want.Desired == plugin.DesiredStopped:
		p.news.sleep()
	case want.Restart != before.Restart:
		p.news.wake()
	}
	for _, m := range p.resize(&want) {
		m.set(want)
	}
}

// resize makes as many members as are wanted, and returns those that were there before
// and stay.
func (p *Pool) resize(want *Want) (old []*Plugin) {
	p.mu.Lock()
	defer p.mu.Unlock()
	count := want.instances()
	before := p.all()
	members := slices.Clone(before[:min(count, len(before))])
	old = members
	for len(members) < count {
		m := newPlugin(p, *want)
		if p.run != nil {
			p.start(m)
		}
		members = append(members, m)
	}
	p.members.Store(&members)
	for _, m := range before[len(old):] {
		if m.quit != nil {
			m.quit(ErrDeleted)
		}
	}
	return old
}

// instances is how many there are to be.
func (w *Want) instances() int {
	if w.Manifest.Spec.Mode == plugin.Job {
		return 1
	}
	return max(1, w.Manifest.Spec.Instances)
}

// MayReload returns nil when a new instance can be launched beside one that runs, else
// why not.
func (p *Pool) MayReload() (err error) {
	for _, m := range p.all() {
		if err = m.mayReload(); err == nil {
			return nil
		}
	}
	return err
}

// Digest is that of what the instances run, as spec.digest names it; empty when nothing
// runs or the adapter cannot tell. ErrConflict: they do not run the same, or what they
// run cannot be launched again.
func (p *Pool) Digest(ctx context.Context) (digest string, err error) {
	for _, m := range p.all() {
		one, err := m.digest(ctx)
		switch {
		case err != nil:
			return "", err
		case one != "" && digest != "" && one != digest:
			return "", fmt.Errorf("%w: some instances run %s, others %s; reload them", plugin.ErrConflict, digest, one)
		}
		digest = cmp.Or(digest, one)
	}
	return digest, nil
}

// Has reports whether the last instance of a member is this one.
func (p *Pool) Has(instance string) bool {
	return slices.ContainsFunc(p.all(), func(m *Plugin) bool { return m.Status().Instance == instance })
}

// turn lets the members of a pool have their instances followed one after another, and
// spares the others a new one that did not come up for the first.
type turn struct {
	one chan struct{}

	failed string // Want.Launch that did not come up; owned by who has the turn
	err    error
}

func newTurn() turn { return turn{one: make(chan struct{}, 1)} }

// take waits for the turn. An error is that of another member's new instance.
func (t *turn) take(ctx context.Context, want *Want) error {
	select {
	case t.one <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if t.err != nil && t.failed == want.Launch {
		err := t.err
		<-t.one
		return err
	}
	return nil
}

// give ends the turn; err is why the new instance did not come up.
func (t *turn) give(ctx context.Context, want *Want, err error) {
	if ctx.Err() == nil {
		t.failed, t.err = want.Launch, err
	}
	<-t.one
}
