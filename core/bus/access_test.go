package bus

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// client connects as whoever read the token in the data folder.
func client(t *testing.T, b *Bus, token string) (*nats.Conn, error) {
	t.Helper()
	nc, err := nats.Connect(b.Addr(), nats.Token(token), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err == nil {
		t.Cleanup(nc.Close)
	}
	return nc, err
}

func TestAccess_clientsListenAndInvokeButDoNotWriteTheTruth(t *testing.T) {
	b := open(t, Options{Listen: "127.0.0.1:0"})
	if _, err := client(t, b, "wrong"); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("a wrong token: got %v", err)
	}
	nc, err := client(t, b, b.Token())
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan error, 100)
	nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err })
	for _, subject := range []string{
		"$KV.patchbay-desired.evil", "$JS.API.STREAM.DELETE.PATCHBAY_EVENTS", "$JS.API.STREAM.PURGE.PATCHBAY_LOGS", "$JS.API.STREAM.CREATE.MINE",
		"$JS.API.CONSUMER.CREATE.KV_patchbay-desired", "patchbay.v1.log.a.b.stdout", "patchbay.v1.status.a.b", "patchbay.v1.event.a.x", "anything",
	} {
		if err := nc.Publish(subject, []byte("{}")); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-refused:
			if !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("publish on %s: got %v", subject, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("publish on %s: it was let through", subject)
		}
	}
}

func TestAccess_clientsReadHistoryAndData(t *testing.T) {
	b := open(t, Options{Listen: "127.0.0.1:0"})
	nc, err := client(t, b, b.Token())
	if err != nil {
		t.Fatal(err)
	}
	sub, err := nc.SubscribeSync("patchbay.v1.data.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Publish("patchbay.v1.data.mine", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if _, err := sub.NextMsg(10 * time.Second); err != nil {
		t.Errorf("data: %v", err)
	}
	b.Event(plugin.Event{ID: "1", Source: "/s", Type: "t", Plugin: "p", Time: time.Now()})
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream, err := js.Stream(ctx, streamEvents)
	if err != nil {
		t.Fatal(err)
	}
	history, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{FilterSubjects: []string{"patchbay.v1.event.>"}})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := history.Next(jetstream.FetchMaxWait(10 * time.Second)); err != nil || m.Headers().Get("ce-id") != "1" {
		t.Errorf("history: got %v %v", m, err)
	}
}

func TestRedacted(t *testing.T) {
	for in, want := range map[string]string{
		"nats://s3cr3t@127.0.0.1:1": "nats://127.0.0.1:1", "nats://u:p@h:1,nats://h:2": "nats://h:1,nats://h:2", "nats://h:1": "nats://h:1",
	} {
		if got := redacted(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}
