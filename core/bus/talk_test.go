package bus

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// caller is one that has begun an invocation in parts.
type caller struct {
	t     *testing.T
	nc    *nats.Conn
	inbox *nats.Subscription
	to    string // where it sends
}

// converse begins one. The headers are "Key: value".
func converse(t *testing.T, nc *nats.Conn, operation, data string, headers ...string) *caller {
	t.Helper()
	inbox, err := nc.SubscribeSync(nats.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	m := &nats.Msg{Subject: "patchbay.v1.invoke.a." + operation, Reply: inbox.Subject, Data: []byte(data), Header: nats.Header{}}
	for _, h := range headers {
		key, value, _ := strings.Cut(h, ": ")
		m.Header.Set(key, value)
	}
	if err := nc.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
	return &caller{t: t, nc: nc, inbox: inbox}
}

// next returns the next message as "data", or "kind data" or "code data".
func (c *caller) next() string {
	c.t.Helper()
	m, err := c.inbox.NextMsg(10 * time.Second)
	if err != nil {
		c.t.Fatal(err)
	}
	if c.to == "" {
		c.to = m.Reply
	}
	text := strings.TrimSpace(m.Header.Get("Patchbay-Stream") + " " + m.Header.Get(micro.ErrorCodeHeader))
	for _, key := range []string{"first", "last"} {
		if v := m.Header.Get("Patchbay-Meta-" + key); v != "" {
			text += fmt.Sprintf(" %s=%s", key, v)
		}
	}
	return strings.TrimSpace(text + " " + string(m.Data))
}

// send sends a part, waiting until it is taken.
func (c *caller) send(part string) {
	c.t.Helper()
	if m, err := c.nc.Request(c.to, []byte(part), 10*time.Second); err != nil || len(m.Data) > 0 {
		c.t.Fatalf("part %s: got %v, %v", part, m, err)
	}
}

// say sends a word of the protocol, "" for an acknowledgement.
func (c *caller) say(word string) {
	c.t.Helper()
	m := &nats.Msg{Subject: c.to, Header: nats.Header{}}
	if word != "" {
		m.Header.Set("Patchbay-Stream", word)
	}
	if err := c.nc.PublishMsg(m); err != nil {
		c.t.Fatal(err)
	}
}

func (c *caller) want(want ...string) {
	c.t.Helper()
	for _, w := range want {
		if got := c.next(); got != w {
			c.t.Fatalf("got %q, want %q", got, w)
		}
	}
}

func TestTalk_bothDirections(t *testing.T) {
	_, nc := serve(t, fakeServices{})
	c := converse(t, nc, "chat", "", "Patchbay-Stream: both")
	c.want("open")
	for _, part := range []string{"1", "2", "3"} {
		c.send(part)
		c.want(part)
	}
	c.say("end")
	c.want("end")

	c = converse(t, nc, "chat", "1", "Patchbay-Stream: both")
	c.want("open", "1")
	c.send("no")
	c.want(`end 422 {"message":"enough"}`)
}

func TestTalk_oneDirection(t *testing.T) {
	_, nc := serve(t, fakeServices{})
	c := converse(t, nc, "count", "", "Patchbay-Stream: answer", "Patchbay-Want-Metadata: *")
	c.want("first=1 0", "1", "2", "end last=2")

	c = converse(t, nc, "join", "1", "Patchbay-Stream: argument")
	c.want("open")
	c.send("2")
	c.send("3")
	c.say("end")
	c.want("end 123")

	c = converse(t, nc, "tell", "", "Patchbay-Want-Metadata: first,last")
	c.want("first=1 {}")
}

func TestTalk_whatCannotBe(t *testing.T) {
	_, nc := serve(t, fakeServices{})
	for _, tt := range []struct{ operation, kind, window, want string }{
		{"chat", "sideways", "", "end 400"}, {"count", "answer", "0", "end 400"}, {"count", "answer", "1025", "end 400"},
		{"count", "answer", "x", "end 400"}, {"none", "answer", "", "end 404"},
	} {
		c := converse(t, nc, tt.operation, "", "Patchbay-Stream: "+tt.kind, "Patchbay-Window: "+tt.window)
		c.want(tt.want)
	}
}

// TestTalk_window: no more parts than the caller has room for.
func TestTalk_window(t *testing.T) {
	f := fakeServices{ended: make(chan error, 1)}
	_, nc := serve(t, f)
	c := converse(t, nc, "flood", "", "Patchbay-Stream: answer", "Patchbay-Window: 2")
	c.want("x", "x")
	for range 5 {
		if m, err := c.inbox.NextMsg(20 * time.Millisecond); err == nil {
			t.Fatalf("beyond the window: got %+v", m)
		}
		c.say("")
		c.want("x")
	}
	c.say("cancel")
	c.want("end 503")
	if err := <-f.ended; !errors.Is(err, errCancel) {
		t.Errorf("got %v, want %v", err, errCancel)
	}
}

// TestTalk_callerIsGone: what nobody reads is not produced.
func TestTalk_callerIsGone(t *testing.T) {
	f := fakeServices{ended: make(chan error, 1)}
	_, nc := serve(t, f)
	c := converse(t, nc, "flood", "", "Patchbay-Stream: answer", "Patchbay-Window: 1024")
	c.want("x")
	if err := c.inbox.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	c.say("") // one more part, which nobody reads
	if err := <-f.ended; !errors.Is(err, errGone) {
		t.Errorf("got %v, want %v", err, errGone)
	}
}

// TestTalk_tooFarAhead: parts that the plugin does not take are not kept.
func TestTalk_tooFarAhead(t *testing.T) {
	f := fakeServices{ended: make(chan error, 1)}
	_, nc := serve(t, f)
	c := converse(t, nc, "hold", "", "Patchbay-Stream: both")
	c.want("open")
	for range aheadMax + 1 {
		if err := nc.Publish(c.to, []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	c.want("end 429")
	<-f.ended
}
