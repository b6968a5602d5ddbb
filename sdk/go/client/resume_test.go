package client

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestAnchor_goesBackToWhatHadSettled(t *testing.T) {
	now := time.Now()
	var a anchor
	for i := range 50 { // one each 100 ms
		a.passed(fmt.Sprint(i), now.Add(time.Duration(i)*100*time.Millisecond))
	}
	broke := now.Add(5 * time.Second)
	id := a.retreat(broke)
	var n int
	if _, err := fmt.Sscan(id, &n); err != nil || n > 30 || n < 5 {
		t.Errorf("got id %q, want one that came 2 s before, and not much earlier", id)
	}
	if again := a.retreat(broke.Add(time.Hour)); again != id {
		t.Errorf("a second time without anything between: got %q, want %q", again, id)
	}
	a.passed("51", broke)
	if got := a.retreat(broke); got != id {
		t.Errorf("soon after: got %q, want %q still", got, id)
	}
	a.passed("60", broke)
	if got := a.retreat(broke.Add(settledAfter)); got != "60" {
		t.Errorf("after a quiet spell: got %q, want the last one", got)
	}
	var fresh anchor
	fresh.passed("1", now)
	if got := fresh.retreat(now.Add(time.Second)); got != "" {
		t.Errorf("nothing has settled: got %q", got)
	}
}

func TestSeen_skipsOnlyWhatComesAgain(t *testing.T) {
	s := newSeen()
	line := func(instance string, n uint64) plugin.LogLine {
		return plugin.LogLine{Instance: instance, Stream: plugin.Stdout, Sequence: n}
	}
	for n := range uint64(5) {
		if s.again(line("a", n+1)) || s.again(line("b", n+1)) {
			t.Fatal("a new line was skipped")
		}
	}
	s.broke()
	for n := range uint64(5) {
		if !s.again(line("a", n+1)) {
			t.Errorf("line %d came twice", n+1)
		}
	}
	if s.again(line("a", 6)) || s.again(line("a", 1)) { // counted anew
		t.Error("a new line was skipped")
	}
	for i := range 2 * seenMax {
		s.again(line(fmt.Sprint(i), 1))
	}
	if len(s.streams) > seenMax {
		t.Errorf("%d streams are remembered", len(s.streams))
	}
}

// TestLogs_overDaemonsThatAreKilled: each daemon loses the last lines it had told,
// and the next one tells them again under other ids.
func TestLogs_overDaemonsThatAreKilled(t *testing.T) {
	var lives atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		life := int(lives.Add(1))
		w.Header().Set("Content-Type", "text/event-stream")
		if q := r.URL.RawQuery; life == 2 && q != "follow=true&level=warn&tail=3" {
			t.Errorf("the second asks for %q, want what the first did: nothing had settled", q)
		}
		for n := max(1, 10*(life-1)-5); n <= 10*life; n++ { // 5 were lost
			text, err := json.Marshal(plugin.LogLine{Instance: "a", Stream: plugin.Stdout, Sequence: uint64(n), Time: time.Now()})
			if err != nil {
				t.Error(err)
			}
			fmt.Fprintf(w, "id: %d.1\ndata: %s\n\n", 100*life+n, text)
		}
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler) // killed
	}))
	defer server.Close()
	c, err := New(Options{URL: server.URL, Token: "x"})
	if err != nil {
		t.Fatal(err)
	}
	want := uint64(1)
	for l, err := range c.Logs(t.Context(), "p", LogOptions{Follow: true, Tail: 3, Level: "warn"}) {
		if err != nil {
			t.Fatal(err)
		}
		if l.Sequence != want {
			t.Fatalf("got line %d, want %d", l.Sequence, want)
		}
		if want++; want > 40 {
			break
		}
	}
}
