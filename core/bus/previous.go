package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// PreviousInstance returns the instance of a plugin that printed last before the
// current one began to print; without a current one, before the newest of the log.
// ErrNotFound: there is none, or nothing of it is kept.
func (b *Bus) PreviousInstance(ctx context.Context, name, current string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestMax)
	defer cancel()
	s, err := b.js[control].Stream(ctx, streamLogs)
	if err != nil {
		return "", unavailable("previous instance", err)
	}
	if current == "" {
		m, err := s.GetLastMsgForSubject(ctx, logFilter(name, "", ""))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return "", noPrevious(name)
		}
		if err != nil {
			return "", unavailable("previous instance", err)
		}
		current = instanceOf(m.Subject)
	}
	began, err := b.firstAfter(ctx, s, logFilter(name, current, ""), 0)
	if err != nil {
		return "", err
	}
	if began == 0 {
		began = s.CachedInfo().State.LastSeq + 1 // it printed nothing yet
	}
	at, err := b.lastBefore(ctx, s, logFilter(name, "", ""), began)
	if err != nil {
		return "", err
	}
	if at == 0 {
		return "", noPrevious(name)
	}
	m, err := s.GetMsg(ctx, at)
	if err != nil {
		return "", unavailable("previous instance", err)
	}
	return instanceOf(m.Subject), nil
}

func noPrevious(name string) error {
	return fmt.Errorf("plugin %q: %w: nothing of an earlier instance is kept in the log", name, plugin.ErrNotFound)
}

// instanceOf reads the instance out of a subject of the log.
func instanceOf(subject string) string {
	parts := strings.Split(strings.TrimPrefix(subject, logPrefix), ".")
	if len(parts) < 2 {
		return ""
	}
	return untoken(parts[1])
}

// firstAfter returns the sequence of the first message of a filter behind after, 0
// for none.
func (b *Bus) firstAfter(ctx context.Context, s jetstream.Stream, filter string, after uint64) (sequence uint64, err error) {
	r := reading{stream: streamLogs, filter: filter, after: after, last: s.CachedInfo().State.LastSeq, headersOnly: true}
	err = b.walk(ctx, s, r, func(_ jetstream.Msg, at uint64) bool {
		if at <= r.last {
			sequence = at
		}
		return false
	})
	return sequence, err
}

// lastBefore returns the sequence of the last message of a filter before another
// one, 0 for none, by bisection: there is no way to walk back.
func (b *Bus) lastBefore(ctx context.Context, s jetstream.Stream, filter string, before uint64) (last uint64, err error) {
	low, high := uint64(1), before // the last is at low or behind, and before high
	for low < high {
		middle := low + (high-low)/2
		if last == 0 {
			middle = low
		}
		at, err := b.firstAfter(ctx, s, filter, middle-1)
		switch {
		case err != nil:
			return 0, err
		case at > 0 && at < high:
			last, low = at, at+1
		case last == 0:
			return 0, nil
		default:
			high = middle
		}
	}
	return last, nil
}
