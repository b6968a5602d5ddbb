package portable

import (
	"context"
	"fmt"
	"strconv"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Stream runs one source or sink until ctx ends or it breaks.
func (i *instance) Stream(ctx context.Context, s plugin.Stream, pipe plugin.Pipe) error {
	if !i.enter() {
		return errEnded
	}
	defer i.group.Done()
	within, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(i.life, func() { cancel(errEnded) })()
	err := i.stream(within, s, pipe)
	switch {
	case i.life.Err() != nil:
		return errEnded
	case ctx.Err() != nil:
		return nil
	}
	return err
}

func (i *instance) stream(ctx context.Context, s plugin.Stream, pipe plugin.Pipe) error {
	switch {
	case s.Source != "" && contains(i.spec.Sources, s.Source):
		return i.source(ctx, s, pipe)
	case s.Sink != "" && contains(i.spec.Sinks, s.Sink):
		return i.sink(ctx, s, pipe)
	}
	return fmt.Errorf("stream %q: %w", s.Source+s.Sink, plugin.ErrNotFound)
}

// newSymbol names one start of a source or sink.
func (i *instance) newSymbol(kind, name string, config plugin.RawJSON) (symbol, error) {
	object, source, err := symbolConfig(config)
	if err != nil {
		return symbol{}, fmt.Errorf("%s %s: %w: config %w", kind, name, plugin.ErrInvalid, err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.opIDs++
	return symbol{kind: kind, name: name, opID: name + "_" + strconv.Itoa(i.opIDs), source: source, config: object}, nil
}
