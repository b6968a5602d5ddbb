package bus

import (
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// settle waits after an attempt that failed, until it is known which events of the
// group are in the stream all the same because only the answers were lost. It
// delivers those and returns the others. The stream's own memory of ids is too
// short for a bus that is away for long. An error: the bus is closing.
func (b *Bus) settle(group []queuedEvent, why error) ([]queuedEvent, error) {
	for {
		if !b.waitToRetry(group, why) {
			return group, why
		}
		rest, err := b.unstored(group)
		if err == nil {
			return rest, nil
		}
		why = err
		b.deliverUnstored(group)
	}
}

// unstored reads what the stream got since the last event that is known to be
// stored, and takes what it finds out of the group.
func (b *Bus) unstored(group []queuedEvent) ([]queuedEvent, error) {
	places := make(map[string]int, len(group))
	for i := range group {
		places[messageID(&group[i].Event)] = i
	}
	found := make([]bool, len(group))
	r := reading{stream: streamEvents, filter: eventFilter("", ""), after: b.hub.lastStored()}
	err := b.read(b.ctx, r, func(m jetstream.Msg, at uint64) bool {
		if i, ours := places[m.Headers().Get(nats.MsgIdHdr)]; ours && !found[i] {
			found[i] = true
			b.counters.eventsPublished.Add(1)
			b.deliver(&group[i], at)
		}
		return true
	})
	if err != nil && !errors.Is(err, plugin.ErrNotFound) { // not found: it has forgotten them, too
		return nil, err
	}
	rest := make([]queuedEvent, 0, len(group))
	for i := range group {
		if !found[i] {
			rest = append(rest, group[i])
		}
	}
	return rest, nil
}
