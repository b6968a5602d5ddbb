package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/logs"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/store"
)

// served runs an API on a listener of its own until the test ends, and returns
// its URL and what stops it.
func served(t testing.TB, a *API) (base string, stop func() error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx, ln) }() // ends with ctx
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return "http://" + ln.Addr().String(), stop
}

// open begins a stream.
func open(t testing.TB, url, accept string, header ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+testToken)
	r.Header.Set("Accept", accept)
	for _, h := range header {
		key, value, _ := strings.Cut(h, ": ")
		r.Header.Set(key, value)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	if response.StatusCode != 200 {
		t.Fatalf("got %s, want a stream", response.Status)
	}
	return response
}

// until reads lines until one begins with prefix.
func until(t testing.TB, r *bufio.Reader, prefix string) string {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("before %q: %v", prefix, err)
		}
		if strings.HasPrefix(line, prefix) {
			return strings.TrimSpace(line)
		}
	}
}

func TestEvents_followAndResume(t *testing.T) {
	d := testDeps(t, newShelf("one"))
	h := d.Events.(*history)
	h.tell("one", "a")
	h.tell("two", "b")
	base, _ := served(t, New(d))

	r := bufio.NewReader(open(t, base+"/v1/events?follow&after=1", wire.SSEType).Body)
	if got := until(t, r, "id:"); got != "id: 2" {
		t.Errorf("got %s, want what is after 1", got)
	}
	h.tell("one", "c")
	if got := until(t, r, "id:"); got != "id: 3" {
		t.Errorf("got %s, want what comes", got)
	}
	again := bufio.NewReader(open(t, base+"/v1/events?follow&after=1", wire.SSEType, "Last-Event-ID: 3").Body)
	h.tell("one", "d")
	if got := until(t, again, "id:"); got != "id: 4" {
		t.Errorf("got %s, want the header to win", got)
	}
	text, err := io.ReadAll(open(t, base+"/v1/plugins/one/events", wire.NDJSONType).Body)
	if got := strings.Count(string(text), "\n"); err != nil || got != 3 || !strings.Contains(string(text), `"type":"c"`) {
		t.Errorf("got %s %v, want the three of one", text, err)
	}
}

// Who comes back by itself, as browsers do, goes on where the daemon can; who names a
// place is told that it is not there.
func TestStreams_whosePlaceWasLost(t *testing.T) {
	d := testDeps(t, newShelf("one"))
	h := d.Events.(*history)
	h.tell("one", "a")
	h.tell("one", "b")
	d.Logs.(*history).lines = []plugin.LogLine{{Message: "bye", ID: "5.2"}}
	a := New(d)
	for path, want := range map[string]string{
		"/v1/events":           "event: gap\nid: 1\ndata: {\"lost\":\"99\",\"after\":\"1\",\"detail\":\"what came after 99 is not all kept; it goes on after 1, and some of it may come again\"}\n\nid: 2\n",
		"/v1/plugins/one/logs": "event: gap\nid: 4.0\ndata: {\"lost\":\"99.9\",\"after\":\"4.0\",",
	} {
		last := "Last-Event-ID: 99"
		if strings.HasSuffix(path, "logs") {
			last += ".9"
		}
		w := ask(t, a, "GET", path, "", "Accept: "+wire.SSEType, last)
		if w.Code != 200 || !strings.HasPrefix(w.Body.String(), want) {
			t.Errorf("%s: got %d %q, want %q", path, w.Code, w.Body, want)
		}
	}
	for _, header := range []string{"Accept: " + wire.SSEType, "Last-Event-ID: 99"} { // the second in NDJSON
		if w := ask(t, a, "GET", "/v1/events?after=99", "", header); w.Code != 404 {
			t.Errorf("after=99 with %s: got %d, want 404", header, w.Code)
		}
	}
}

func TestLogs_query(t *testing.T) {
	d := testDeps(t, newShelf("one"))
	h := d.Logs.(*history)
	h.lines = []plugin.LogLine{{Message: "hello\nthere", ID: "5.1"}, {Message: "bye", ID: "5.2"}}
	a := New(d)
	w := ask(t, a, "GET", "/v1/plugins/one/logs?tail=7&since=1h", "", "Accept: "+wire.SSEType)
	if got := w.Body.String(); !strings.HasPrefix(got, "id: 5.1\ndata: {") || !strings.HasSuffix(got, "event: end\ndata: {}\n\n") || strings.Count(got, "\n\n") != 3 {
		t.Errorf("got %q", got)
	}
	if q := h.asked; q.Tail != 7 || time.Since(q.Since) < time.Hour || q.Plugin != "one" || q.Follow {
		t.Errorf("got %+v", q)
	}
	ask(t, a, "GET", "/v1/plugins/one/logs?tail=7&follow=true", "", "Last-Event-ID: 5.1")
	if q := h.asked; q.Tail != 0 || q.After != "5.1" || !q.Follow {
		t.Errorf("got %+v, want only what is after 5.1", q)
	}
}

func TestLogs_chooseLines(t *testing.T) {
	d := testDeps(t, newShelf("one", "other"))
	h, plugins := d.Logs.(*history), d.Plugins.(*shelf)
	one := plugins.all["one"]
	one.Status.Instance = "one-2"
	plugins.all["one"] = one
	a := New(d)
	asked := func(path string) logs.Query {
		t.Helper()
		h.asked = logs.Query{}
		if w := ask(t, a, "GET", path, ""); w.Code != 200 {
			t.Fatalf("%s: got %d %s", path, w.Code, w.Body)
		}
		return h.asked
	}
	q := asked("/v1/plugins/one/logs?level=warn&grep=a%2Bb&instance=one-7")
	if q.Level != "warn" || q.Grep.String() != "a+b" || q.Instance != "one-7" || q.Select != nil {
		t.Errorf("got %+v", q)
	}
	if q := asked("/v1/plugins/one/logs?previous"); q.Instance != "one-1" {
		t.Errorf("previous: got %+v", q)
	}
	if q := asked("/v1/logs"); q.Select != nil || q.Plugin != "" {
		t.Errorf("all: got %+v", q)
	}
	names := func(q logs.Query) string { return fmt.Sprint(q.Select()) }
	if q := asked("/v1/logs?plugin=other,one&plugin=one"); names(q) != "[{one } {other }]" || q.Joins != nil {
		t.Errorf("by name: got %s", names(q))
	}
	q = asked("/v1/logs?plugin=one&selector=team%3Dedge&follow")
	if got := names(q); got != "[{one } {one } {other }]" {
		t.Errorf("by label: got %s", got)
	}
	if _, _, err := plugins.Put(t.Context(), toyManifest("third"), store.Expect{}); err != nil {
		t.Fatal(err)
	}
	if !q.Joins("third") || q.Joins("nobody") || !strings.Contains(names(q), "third") {
		t.Error("a plugin that is applied later does not join")
	}
	if q := asked("/v1/logs?selector=team&previous"); names(q) != "[{one one-1}]" {
		t.Errorf("previous of several: got %s", names(q))
	}
}

func TestRun_drains(t *testing.T) {
	d := testDeps(t, newShelf("one"))
	a := New(d)
	base, stop := served(t, a)
	sse := bufio.NewReader(open(t, base+"/v1/events?follow", wire.SSEType).Body)
	lines := bufio.NewReader(open(t, base+"/v1/events?follow", wire.NDJSONType).Body)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(sse)
	if err != nil || strings.Contains(string(text), "event: end") {
		t.Errorf("got %q %v, want no end: the reader shall come back", text, err)
	}
	if text, err = io.ReadAll(lines); err != nil || !strings.Contains(string(text), "shutting down") {
		t.Errorf("got %q %v, want why it ended", text, err)
	}
	if w := ask(t, a, "GET", "/readyz", ""); w.Code != 503 {
		t.Errorf("readyz while draining: got %d, want 503", w.Code)
	}
	if _, err := http.Get(base + "/livez"); err == nil {
		t.Error("it still listens")
	}
}

// TestStream_slowReaderHoldsNobody has a reader that reads nothing: what waits
// for it is bounded, and others go on.
func TestStream_slowReaderHoldsNobody(t *testing.T) {
	d := testDeps(t, newShelf("one"))
	h := d.Events.(*history)
	base, _ := served(t, New(d))
	open(t, base+"/v1/events?follow", wire.SSEType) // never read
	quick := bufio.NewReader(open(t, base+"/v1/events?follow", wire.SSEType).Body)
	until(t, quick, ": heartbeat")
	for i := range 20000 {
		h.tell("one", "flood"+strings.Repeat("x", 100))
		if i%1000 == 999 {
			until(t, quick, fmt.Sprintf("id: %d", i+1))
		}
	}
}

func TestPending_isBounded(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &pending{fresh: newToken(), room: newToken(), done: ctx}
	frame := make([]byte, pendingBytesMax/2)
	for range 2 {
		if err := p.put(frame); err != nil {
			t.Fatal(err)
		}
	}
	waited := make(chan error)
	go func() { waited <- p.put(frame) }() // ends when there is room
	p.take(nil)
	if err := <-waited; err != nil {
		t.Errorf("with room: got %v", err)
	}
	if err := p.put(make([]byte, pendingBytesMax/2)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := p.put(frame); err != errLeft {
		t.Errorf("full and nobody there: got %v, want %v", err, errLeft)
	}
	if large := make([]byte, 2*pendingBytesMax); (&pending{fresh: newToken(), room: newToken(), done: ctx}).put(large) != nil {
		t.Error("a frame larger than the bound never goes")
	}
}
