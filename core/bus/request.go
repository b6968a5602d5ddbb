package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Request asks on a subject, with nothing in the request, and returns nil when
// somebody answers before ctx ends, and not with the micro protocol's error. What
// the answer says is not looked at.
func (b *Bus) Request(ctx context.Context, subject string) error {
	reply, err := b.conns[data].RequestWithContext(ctx, subject, nil)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("request: %w: nobody is subscribed to it", plugin.ErrUnavailable)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("request: %w: nobody answered in time", plugin.ErrDeadline)
	case err != nil:
		return unavailable("request", err)
	}
	if why := reply.Header.Get(errorHeader); why != "" {
		return fmt.Errorf("request: %w: the answer is the error %.200q", plugin.ErrUnavailable, why)
	}
	return nil
}
