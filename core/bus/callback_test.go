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

// TestCallback: also one who has the token of the data folder can answer.
func TestCallback(t *testing.T) {
	b, err := Open(t.Context(), Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	nc, err := nats.Connect(b.Addr(), nats.Token(b.Token()))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	answers := map[string]func(m *nats.Msg){
		"patchbay.v1.callback.counter.sum.of-two": func(m *nats.Msg) { _ = m.Respond([]byte("5 for " + string(m.Data))) },
		"patchbay.v1.callback.counter.empty":      func(m *nats.Msg) { _ = m.Respond(nil) },
		"patchbay.v1.callback.counter.no": func(m *nats.Msg) {
			_ = m.RespondMsg(&nats.Msg{Header: nats.Header{errorHeader: []string{"too large"}, errorCodeHeader: []string{"7"}}})
		},
		"patchbay.v1.callback.counter.mute": func(*nats.Msg) {},
	}
	for subject, answer := range answers {
		if _, err := nc.Subscribe(subject, answer); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	ask := func(name string, data []byte) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		got, err := b.Callback(ctx, "counter", name, data)
		return string(got), err
	}
	if got, err := ask("sum.of-two", []byte("2+3")); err != nil || got != "5 for 2+3" {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := ask("empty", nil); err != nil || got != "" {
		t.Errorf("an empty answer: got %q, %v", got, err)
	}
	_, err = ask("no", nil)
	if no, ok := errors.AsType[*plugin.Refusal](err); !ok || no.Code != "7" || no.Message != "too large" {
		t.Errorf("no: got %v", err)
	}
	for name, class := range map[string]error{"mute": plugin.ErrDeadline, "nobody": plugin.ErrUnavailable} {
		if _, err := ask(name, nil); !errors.Is(err, class) || !strings.Contains(err.Error(), "patchbay.v1.callback.counter."+name) {
			t.Errorf("%s: got %v, want %v", name, err, class)
		}
	}
	if _, err := ask("empty", make([]byte, payloadMax+1)); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("too large: got %v", err)
	}
}
