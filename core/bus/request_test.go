package bus

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestRequest(t *testing.T) {
	both(t, func(t *testing.T, b *Bus) {
		answers := map[string]func(m *nats.Msg){
			"acme.good": func(m *nats.Msg) { _ = m.Respond(nil) },
			"acme.sick": func(m *nats.Msg) {
				_ = m.RespondMsg(&nats.Msg{Header: nats.Header{errorHeader: []string{"no disk"}}})
			},
			"acme.mute": func(*nats.Msg) {},
		}
		for subject, answer := range answers {
			sub, err := b.conns[eventing].Subscribe(subject, answer)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = sub.Unsubscribe() }()
		}
		if err := b.conns[eventing].Flush(); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			subject string
			class   error
			says    string
		}{
			{"acme.good", nil, ""}, {"acme.sick", plugin.ErrUnavailable, "no disk"},
			{"acme.mute", plugin.ErrDeadline, "in time"}, {"acme.nobody", plugin.ErrUnavailable, "nobody is subscribed"},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			err := b.Request(ctx, tt.subject)
			cancel()
			if !errors.Is(err, tt.class) || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s: got %v, want %v: %s", tt.subject, err, tt.class, tt.says)
			}
		}
	})
}
