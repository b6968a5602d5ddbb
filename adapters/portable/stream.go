package portable

import (
	"context"
	"fmt"
	"slices"
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

// symbolFor is the source or sink that an earlier daemon started with the same
// configuration, or else a new one.
func (i *instance) symbolFor(kind, name string, config plugin.RawJSON) (s symbol, running bool, err error) {
	wanted, err := i.newSymbol(kind, name, config)
	if err != nil {
		return symbol{}, false, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	at := slices.IndexFunc(i.found, func(f symbol) bool {
		return f.kind == kind && f.name == name && f.source == wanted.source && string(f.config) == string(wanted.config)
	})
	if at < 0 {
		return wanted, false, nil
	}
	s = i.found[at]
	i.found = slices.Delete(i.found, at, at+1)
	return s, true, nil
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
