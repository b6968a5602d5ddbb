package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// fakeServices are two plugins; b's operations are not known.
type fakeServices struct {
	hold  chan struct{}
	ended chan error // told how each InvokeStream ended
}

func (fakeServices) Plugins() []ServiceInfo {
	return []ServiceInfo{
		{Name: "a", ID: "a-1", Version: "1.2.3", Started: time.Now(), Operations: []plugin.Operation{
			{Name: "echo", Summary: "Says it again.", Input: plugin.RawJSON(`{"type":"object"}`)}, {Name: "pkg.Svc/Do"},
		}},
		{Name: "b"},
	}
}

func (f fakeServices) Plugin(name string) (ServiceInfo, bool) {
	for _, s := range f.Plugins() {
		if s.Name == name {
			return s, true
		}
	}
	return ServiceInfo{}, false
}

func (f fakeServices) Invoke(ctx context.Context, in plugin.Invocation) (plugin.Result, error) {
	switch in.Operation {
	case "echo", "pkg.Svc/Do":
		return plugin.Result{Data: in.Data, ContentType: in.ContentType}, nil
	case "whole":
		text, err := json.Marshal(in)
		return plugin.Result{Data: text}, err
	case "join":
		var all []byte
		for {
			part, err := in.Parts(ctx)
			if err == io.EOF {
				return plugin.Result{Data: all}, nil
			} else if err != nil {
				return plugin.Result{}, err
			}
			all = append(all, part...)
		}
	case "tell":
		in.Told(map[string]string{"first": "1", "other": "2", "last": "a\nb"})
		return plugin.Result{Data: []byte("{}")}, nil
	case "refuse":
		return plugin.Result{}, &plugin.Refusal{Code: "E1", Message: "no\nway", Details: plugin.RawJSON(`{"x":1}`)}
	case "late":
		return plugin.Result{}, fmt.Errorf("invoke: %w", plugin.ErrDeadline)
	case "large":
		return plugin.Result{Data: make([]byte, payloadMax+1)}, nil
	case "hold":
		select {
		case <-f.hold:
		case <-ctx.Done():
		}
		return plugin.Result{}, ctx.Err()
	}
	return plugin.Result{}, fmt.Errorf("operation %q: %w", in.Operation, plugin.ErrNotFound)
}

func (f fakeServices) InvokeStream(ctx context.Context, in plugin.Invocation, send func([]byte) error) (err error) {
	defer func() {
		if f.ended != nil {
			f.ended <- err
		}
	}()
	switch in.Operation {
	case "chat":
		for {
			part, err := in.Parts(ctx)
			if err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			if string(part) == "no" {
				return &plugin.Refusal{Message: "enough"}
			}
			if err := send(part); err != nil {
				return err
			}
		}
	case "count":
		if in.Told != nil {
			in.Told(map[string]string{"first": "1"})
			defer in.Told(map[string]string{"last": "2"})
		}
		for i := range 3 {
			if err := send([]byte{byte('0' + i)}); err != nil {
				return err
			}
		}
		return nil
	case "flood":
		for {
			if err := send([]byte("x")); err != nil {
				return err
			}
		}
	case "hold":
		<-ctx.Done()
		return ctx.Err()
	}
	return fmt.Errorf("operation %q: %w", in.Operation, plugin.ErrNotFound)
}

// serve runs Serve until the test ends, and gives a client of its own.
func serve(t *testing.T, s Services) (*Bus, *nats.Conn) {
	t.Helper()
	b := open(t, Options{Listen: "127.0.0.1:0"})
	ctx, cancel := context.WithCancel(t.Context())
	var served sync.WaitGroup
	served.Go(func() {
		if err := b.Serve(ctx, s); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); served.Wait() })
	nc, err := nats.Connect(b.Addr(), nats.Token(b.Token()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	eventually(t, "served", func() bool {
		_, err := nc.Request("$SRV.PING", nil, time.Second)
		return err == nil
	})
	return b, nc
}

// ask collects the answers of all plugins to one discovery request.
func ask[T any](t *testing.T, nc *nats.Conn, subject string, want int) []T {
	t.Helper()
	inbox := nats.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := nc.PublishRequest(subject, inbox, nil); err != nil {
		t.Fatal(err)
	}
	var all []T
	for {
		wait := 5 * time.Second
		if len(all) == want {
			wait = 50 * time.Millisecond // one too many?
		}
		m, err := sub.NextMsg(wait)
		if err != nil {
			break
		}
		var one T
		if err := json.Unmarshal(m.Data, &one); err != nil {
			t.Fatalf("%s: %s: %v", subject, m.Data, err)
		}
		all = append(all, one)
	}
	if len(all) != want {
		t.Fatalf("%s: got %d answers, want %d", subject, len(all), want)
	}
	return all
}

func TestServe_discovery(t *testing.T) {
	_, nc := serve(t, fakeServices{})
	for subject, want := range map[string]int{"$SRV.PING": 2, "$SRV.PING.a": 1, "$SRV.PING.a.a-1": 1} {
		if got := ask[micro.Ping](t, nc, subject, want)[0]; got.Name != "a" || got.ID != "a-1" || got.Version != "1.2.3" || got.Type != micro.PingResponseType || got.Metadata == nil {
			t.Errorf("%s: got %+v", subject, got)
		}
	}
	for _, subject := range []string{"$SRV.PING.c", "$SRV.PING.a.a-2", "$SRV.OTHER", "$SRV.PING.a.a-1.x"} {
		if m, err := nc.Request(subject, nil, 50*time.Millisecond); err == nil {
			t.Errorf("%s: got %s", subject, m.Data)
		}
	}
	info := ask[micro.Info](t, nc, "$SRV.INFO.a", 1)[0]
	if info.Type != micro.InfoResponseType || len(info.Endpoints) != 2 || info.Endpoints[0].Subject != "patchbay.v1.invoke.a.echo" ||
		info.Endpoints[1].Name != "pkg_Svc_Do" || info.Endpoints[0].Metadata["input_schema"] != `{"type":"object"}` {
		t.Errorf("info: got %+v", info)
	}
	info = ask[micro.Info](t, nc, "$SRV.INFO.b", 1)[0]
	if info.ID != "b" || info.Version != "0.0.0" || info.Endpoints[0].Subject != "patchbay.v1.invoke.b.*" {
		t.Errorf("info of b: got %+v", info)
	}
}

func TestServe_invoke(t *testing.T) {
	_, nc := serve(t, fakeServices{})
	for _, tt := range []struct{ subject, code, header, body string }{
		{"a.echo", "", "", "hello"},
		{"a.pkg%2ESvc%2FDo", "", "", "hello"},
		{"a.refuse", "422", "refused: E1: no way", `{"code":"E1","message":"no\nway","details":{"x":1}}`},
		{"a.late", "504", "invoke: deadline", ""},
		{"a.large", "400", "result of 8388609 bytes", ""},
		{"a.none", "404", `operation "none": not found`, ""},
	} {
		m, err := nc.RequestMsg(&nats.Msg{Subject: "patchbay.v1.invoke." + tt.subject, Data: []byte("hello"), Header: nats.Header{"Content-Type": []string{"text/plain"}}}, 5*time.Second)
		if err != nil {
			t.Fatalf("%s: %v", tt.subject, err)
		}
		if got := m.Header.Get(micro.ErrorCodeHeader); got != tt.code || !strings.HasPrefix(m.Header.Get(micro.ErrorHeader), tt.header) || string(m.Data) != tt.body {
			t.Errorf("%s: got %s %q %s", tt.subject, got, m.Header.Get(micro.ErrorHeader), m.Data)
		}
		if tt.code == "" && m.Header.Get("Content-Type") != "text/plain" {
			t.Errorf("%s: got %v", tt.subject, m.Header)
		}
	}
	stats := ask[micro.Stats](t, nc, "$SRV.STATS.a.a-1", 1)[0]
	if e := stats.Endpoints[0]; stats.Type != micro.StatsResponseType || e.NumRequests != 1 || e.NumErrors != 0 || e.ProcessingTime <= 0 || e.AverageProcessingTime <= 0 {
		t.Errorf("stats: got %+v", e)
	}
}

func TestServe_metadata(t *testing.T) {
	_, nc := serve(t, fakeServices{})
	m, err := nc.RequestMsg(&nats.Msg{Subject: "patchbay.v1.invoke.b.whole", Header: nats.Header{"Traceparent": []string{"00-1"}, "Nats-Secret": []string{"x"}}}, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var in plugin.Invocation
	if err := json.Unmarshal(m.Data, &in); err != nil || in.Plugin != "b" || in.Caller != "bus" || in.ID == "" || len(in.Metadata) != 1 || in.Metadata["traceparent"] != "00-1" {
		t.Errorf("got %+v, %v", in, err)
	}
}

func TestServe_tooManyAreBusy(t *testing.T) {
	f := fakeServices{hold: make(chan struct{})}
	_, nc := serve(t, f)
	inbox := nats.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	for range invocationsInFlightMax + 5 {
		if err := nc.PublishRequest("patchbay.v1.invoke.a.hold", inbox, nil); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		m, err := sub.NextMsg(10 * time.Second)
		if err != nil || m.Header.Get(micro.ErrorCodeHeader) != "429" {
			t.Fatalf("got %v, %v", m, err)
		}
	}
	close(f.hold)
	for range invocationsInFlightMax {
		if m, err := sub.NextMsg(10 * time.Second); err != nil || m.Header.Get(micro.ErrorCodeHeader) != "" {
			t.Fatalf("got %v, %v", m, err)
		}
	}
}

func TestServe_finishesWhatIsUnderWay(t *testing.T) {
	f := fakeServices{hold: make(chan struct{})}
	b := open(t, Options{Listen: "127.0.0.1:0"})
	nc, err := nats.Connect(b.Addr(), nats.Token(b.Token()))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var served, asked sync.WaitGroup
	served.Go(func() {
		if err := b.Serve(ctx, f); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "served", func() bool { _, err := nc.Request("$SRV.PING", nil, time.Second); return err == nil })
	asked.Go(func() {
		m, err := nc.Request("patchbay.v1.invoke.a.hold", nil, 10*time.Second)
		if err != nil || m.Header.Get(micro.ErrorCodeHeader) != "" {
			t.Errorf("under way when it ended: got %v, %v", m, err)
		}
	})
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "under way", func() bool { return b.conns[data].Stats().InMsgs >= 2 })
	cancel()
	close(f.hold)
	asked.Wait()
	served.Wait()
	if _, err := nc.Request("$SRV.PING", nil, time.Second); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("still served: %v", err)
	}
}

func TestCode(t *testing.T) {
	for err, want := range map[error]int{errors.New("x"): 500, plugin.ErrBusy: 429, context.DeadlineExceeded: 504, plugin.ErrUnavailable: 503, plugin.ErrDenied: 403} {
		if got := code(err); got != want {
			t.Errorf("%v: got %d, want %d", err, got, want)
		}
	}
}
