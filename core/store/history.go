package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Past is a record as it was written once.
type Past struct {
	Record
	At time.Time
}

// History returns what was written of a plugin since it was created last, oldest
// first, as far as it is kept: historyMax writes, those of start, stop, restart and
// reload included. What this daemon does not accept has a Fault. It asks the bus.
func (s *Store) History(ctx context.Context, name string) ([]Past, error) {
	ctx, cancel := context.WithTimeout(ctx, writeMax)
	defer cancel()
	entries, err := s.kv.History(ctx, name)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, fmt.Errorf("plugin %s: %w", name, plugin.ErrNotFound)
	}
	if err != nil {
		return nil, failure(name, err)
	}
	var all []Past
	for _, e := range entries {
		if e.Operation() != jetstream.KeyValuePut {
			all = nil // what was deleted is another plugin
			continue
		}
		r, err := s.decode(e.Value())
		if err != nil {
			r.Fault = err.Error()
		}
		r.Revision = e.Revision()
		all = append(all, Past{r, e.Created()})
	}
	return all, nil
}
