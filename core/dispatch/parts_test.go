package dispatch_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// talker is an instance whose operation "chat" takes parts.
type talker struct{ *instance }

func (talker) TakesParts(operation string) bool { return operation == "chat" }

func (talker) InvokeStream(ctx context.Context, in plugin.Invocation, send func([]byte) error) error {
	for {
		part, err := in.Parts(ctx)
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := send(part); err != nil {
			return err
		}
	}
}

// every gives parts, one after each pause.
func every(pause time.Duration, parts ...string) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		if len(parts) == 0 {
			return nil, io.EOF
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		part := parts[0]
		parts = parts[1:]
		return []byte(part), nil
	}
}

func TestInvokeStream_argumentInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startAs(t, &adapter{in: make(chan plugin.Invocation, 1), talks: true})
		for _, tt := range []struct {
			name  string
			parts func(context.Context) ([]byte, error)
			want  error
			text  string
		}{
			{"slower than the limit together, not each", every(900*time.Millisecond, "1", "2", "3"), nil, "1 2 3"},
			{"one takes too long", every(1100*time.Millisecond, "1"), plugin.ErrDeadline, ""},
			{"one is too large", every(0, "1", strings.Repeat("x", 1001)), plugin.ErrInvalid, "1"},
		} {
			var got []string
			err := w.InvokeStream(t.Context(), plugin.Invocation{Plugin: "p", Operation: "chat", Parts: tt.parts}, func(part []byte) error {
				<-time.After(5 * time.Second) // synctest's clock: a slow reader is not what is waited for
				got = append(got, string(part))
				return nil
			})
			if !errors.Is(err, tt.want) || strings.Join(got, " ") != tt.text {
				t.Errorf("%s: got %q, %v; want %q, %v", tt.name, got, err, tt.text, tt.want)
			}
		}
		// One part is a whole for an operation that takes no parts; two are a mistake.
		result, err := w.Invoke(t.Context(), plugin.Invocation{Plugin: "p", Operation: "seen", Parts: every(0, "1"), ContentType: "application/x-ndjson"})
		if in := <-w.adapter.in; err != nil || string(result.Data) != "1" || in.Parts != nil || in.ContentType != "" {
			t.Errorf("one part: got %q, %v and %+v", result.Data, err, in)
		}
		if _, err := w.Invoke(t.Context(), plugin.Invocation{Plugin: "p", Operation: "seen", Parts: every(0, "1", "2")}); !errors.Is(err, plugin.ErrInvalid) {
			t.Errorf("two parts: got %v", err)
		}
	})
}

// TestInvoke_partsAsAWhole: a plugin that knows no parts gets the lines.
func TestInvoke_partsAsAWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		result, err := w.Invoke(t.Context(), plugin.Invocation{Plugin: "p", Operation: "seen", Parts: every(0, "1", "2"), ContentType: "application/x-ndjson"})
		if in := <-w.adapter.in; err != nil || string(result.Data) != "1\n2\n" || in.ContentType != "application/x-ndjson" {
			t.Errorf("got %q, %v and %+v", result.Data, err, in)
		}
		half := strings.Repeat("x", 600)
		if _, err := w.Invoke(t.Context(), plugin.Invocation{Plugin: "p", Operation: "seen", Parts: every(0, half, half)}); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "1000 bytes together") {
			t.Errorf("too much together: got %v", err)
		}
	})
}
