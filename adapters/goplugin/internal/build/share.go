package build

import (
	"context"
	"fmt"
	"sync"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// A Builder builds. It is safe for concurrent use; Close ends it.
type Builder struct {
	options Options

	mu     sync.Mutex
	closed bool
	active map[string]*task // by key, however many launches wait for it

	turn     sync.Mutex // one build at a time: each takes all processors
	prepared bool       // by who has the turn
}

// A task is one build under way.
type task struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when err is set
	err    error
}

// New returns a Builder. It touches nothing before the first build.
func New(o Options) *Builder { return &Builder{options: o, active: map[string]*task{}} }

// share waits for the build of key, which it begins unless one is under way.
func (b *Builder) share(ctx context.Context, key string, build func(context.Context) error) error {
	one, err := b.join(key, build)
	if err != nil {
		return err
	}
	select {
	case <-one.done:
		return one.err
	case <-ctx.Done():
		return fmt.Errorf("build: %w: is still under way, and goes on; the next start waits for it again", plugin.ErrUnavailable)
	}
}

func (b *Builder) join(key string, build func(context.Context) error) (*task, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if one := b.active[key]; one != nil {
		return one, nil
	}
	if b.closed {
		return nil, fmt.Errorf("build: %w: the adapter is closed", plugin.ErrUnavailable)
	}
	ctx, cancel := context.WithCancel(context.Background())
	one := &task{cancel: cancel, done: make(chan struct{})}
	b.active[key] = one
	go func() { // ends with the build, or with Close, which waits
		defer close(one.done)
		defer cancel()
		if err := b.alone(ctx, build); err != nil {
			one.err = fmt.Errorf("build: %w", err)
		}
		b.mu.Lock()
		delete(b.active, key)
		b.mu.Unlock()
	}()
	return one, nil
}

func (b *Builder) alone(ctx context.Context, build func(context.Context) error) error {
	b.turn.Lock()
	defer b.turn.Unlock()
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", plugin.ErrUnavailable, ctx.Err())
	}
	return build(ctx)
}

// Close ends what is under way, and waits for that.
func (b *Builder) Close() {
	b.mu.Lock()
	b.closed = true
	var waits []*task
	for _, one := range b.active {
		waits = append(waits, one)
	}
	b.mu.Unlock()
	for _, one := range waits {
		one.cancel()
	}
	for _, one := range waits {
		<-one.done
	}
}
