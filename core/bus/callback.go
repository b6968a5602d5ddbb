package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Callback sends what a plugin asks on patchbay.v1.callback.<plugin>.<name> and
// returns the first answer; see plugin.Requester for its errors.
func (b *Bus) Callback(ctx context.Context, name, what string, argument []byte) ([]byte, error) {
	subject, answer := callbackSubject(name, what), answerSubject(nuid.Next())
	nc := b.conns[data]
	sub, err := nc.SubscribeSync(answer)
	if err != nil {
		return nil, unavailable("callback", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	switch err := nc.PublishRequest(subject, answer, argument); {
	case errors.Is(err, nats.ErrMaxPayload):
		return nil, fmt.Errorf("callback: %w: %d bytes; the bus takes %d", plugin.ErrInvalid, len(argument), nc.MaxPayload())
	case err != nil:
		return nil, unavailable("callback", err)
	}
	m, err := sub.NextMsgWithContext(ctx)
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("callback: %w: nobody answered on %s in time", plugin.ErrDeadline, subject)
	case errors.Is(err, nats.ErrNoResponders):
		return nil, fmt.Errorf("callback: %w: nobody is subscribed to %s", plugin.ErrUnavailable, subject)
	case err != nil:
		return nil, unavailable("callback", err)
	}
	if why := m.Header.Get(errorHeader); why != "" {
		return nil, &plugin.Refusal{Code: m.Header.Get(errorCodeHeader), Message: fmt.Sprintf("%.200s", why)}
	}
	return m.Data, nil
}
