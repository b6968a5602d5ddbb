package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestEvents_historyThenLive(t *testing.T) {
	both(t, func(t *testing.T, b *Bus) {
		const total = 3000
		var reads sync.WaitGroup
		for i := range total {
			if i%500 == 0 { // readers join while it goes on
				reads.Go(func() {
					for n, e := range collect(t, b, EventQuery{Follow: true}, total) {
						if e.Subject != fmt.Sprint(n) || e.Sequence == 0 {
							t.Errorf("place %d: got event %s with sequence %d", n, e.Subject, e.Sequence)
							return
						}
					}
				})
			}
			b.Event(event("p", i))
		}
		reads.Wait()
	})
}

func TestEvents_keepsEveryAttribute(t *testing.T) {
	b := open(t, Options{Node: "n1"})
	want := plugin.Event{
		ID: "id 1", Source: "/über", Type: "dev.test.v1", Subject: "100% \"sure\"", Plugin: "p", Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
		ContentType: "application/vnd.x+json", Data: plugin.RawJSON(`{"a": [1]}`),
	}
	b.Event(want)
	b.Event(plugin.Event{Type: "t", Plugin: "p", Data: plugin.RawJSON("not json")})
	b.Event(plugin.Event{Type: "t", Data: plugin.RawJSON(`"` + strings.Repeat("x", plugin.EventDataBytesMax) + `"`)})
	live := collect(t, b, EventQuery{Follow: true}, 3)
	stored := collect(t, b, EventQuery{}, 3)
	want.Sequence = live[0].Sequence
	if diff := cmp.Diff(want, stored[0]); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(live[1:], stored[1:], cmp.Transformer("time", func(at time.Time) int64 { return at.UnixNano() }), cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".ContentType" }, cmp.Ignore())); diff != "" {
		t.Error(diff)
	}
	if string(stored[1].Data) != `"not json"` || stored[1].Source != "/patchbay/n1/plugins/p" || stored[2].Source != "/patchbay/n1" || !strings.Contains(string(stored[2].Data), "omitted") {
		t.Errorf("got %+v", stored[1:])
	}
}

func TestEvents_filterAndResume(t *testing.T) {
	b := open(t, Options{})
	for i := range 100 {
		b.Event(event([]string{"a", "b"}[i%2], i))
	}
	all := collect(t, b, EventQuery{Plugin: "b", Follow: true}, 50)
	for n, e := range collect(t, b, EventQuery{Plugin: "b", After: all[19].Sequence, Follow: true}, 30) {
		if want := fmt.Sprint(2*(n+20) + 1); e.Subject != want {
			t.Fatalf("place %d: got %s, want %s", n, e.Subject, want)
		}
	}
	if got := collect(t, b, EventQuery{Type: "other"}, -1); len(got) != 0 {
		t.Errorf("other type: got %d", len(got))
	}
	if got := collect(t, b, EventQuery{Since: time.Now().Add(time.Hour)}, -1); len(got) != 0 {
		t.Errorf("since the future: got %d", len(got))
	}
	if got := collect(t, b, EventQuery{Since: time.Now().Add(-time.Hour)}, -1); len(got) != 100 {
		t.Errorf("since an hour ago: got %d", len(got))
	}
}

func TestEvents_placeThatIsGone(t *testing.T) {
	b := open(t, Options{})
	for i := range 10 {
		b.Event(event("p", i))
	}
	collect(t, b, EventQuery{Follow: true}, 10)
	s, err := b.js[control].Stream(t.Context(), streamEvents)
	if err != nil || s.Purge(t.Context(), jetstream.WithPurgeSequence(6)) != nil {
		t.Fatal(err)
	}
	for _, after := range []uint64{2, 4000} {
		for _, follow := range []bool{true, false} {
			for _, err := range b.Events(t.Context(), EventQuery{After: after, Follow: follow}) {
				if !errors.Is(err, plugin.ErrNotFound) {
					t.Errorf("after %d: got %v", after, err)
				}
			}
		}
	}
	collect(t, b, EventQuery{After: 5}, 5)
}

// A reader that is told of gaps goes on with the oldest that is kept, or, when its
// place was lost with a daemon, with all that came since.
func TestEvents_goOnBehindAGap(t *testing.T) {
	dir := t.TempDir()
	first, err := Open(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	var gaps []uint64
	gap := func(after uint64) { gaps = append(gaps, after) }
	ctx, cancel := context.WithCancel(t.Context())
	for _, err := range first.Events(ctx, EventQuery{After: 9, Follow: true, Gap: func(after uint64) { gap(after); cancel() }}) {
		t.Errorf("of an empty stream: got %v", err)
	}
	for i := range 10 {
		first.Event(event("p", i))
	}
	collect(t, first, EventQuery{Follow: true}, 10)
	s, err := first.js[control].Stream(t.Context(), streamEvents)
	if err != nil || s.Purge(t.Context(), jetstream.WithPurgeSequence(6)) != nil {
		t.Fatal(err)
	}
	collect(t, first, EventQuery{After: 2, Gap: gap}, 5)
	collect(t, first, EventQuery{After: 2, Gap: gap, Follow: true}, 5)
	first.Close()
	second := open(t, Options{Dir: dir})
	for i := range 2 {
		second.Event(event("p", i))
	}
	collect(t, second, EventQuery{Follow: true}, 7)
	collect(t, second, EventQuery{After: 4000, Gap: gap}, 2)
	collect(t, second, EventQuery{After: 4000, Gap: gap, Follow: true}, 2)
	if want := []uint64{0, 5, 5, 10, 10}; !slices.Equal(gaps, want) {
		t.Errorf("got gaps after %v, want %v", gaps, want)
	}
}

func TestEvents_slowFollowerReadsTheStream(t *testing.T) {
	b := open(t, Options{})
	const total = 3 * followerQueueMax
	started := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var read sync.WaitGroup
	read.Go(func() {
		n := 0
		for e, err := range b.Events(ctx, EventQuery{Follow: true, NoHistory: true}) {
			if err != nil {
				t.Error(err)
				return
			}
			if n == 0 { // stands still until all is published
				close(started)
				eventually(t, "all stored", func() bool { return b.Stats().EventsPublished == total })
			}
			if e.Subject != fmt.Sprint(n) {
				t.Errorf("place %d: got %s", n, e.Subject)
				return
			}
			if n++; n == total {
				return
			}
		}
	})
	eventually(t, "follower", func() bool { return b.Stats().Followers == 1 })
	b.Event(event("p", 0))
	<-started
	for i := 1; i < total; i++ {
		b.Event(event("p", i))
	}
	read.Wait()
}

func TestEvents_thousandFollowers(t *testing.T) {
	b := open(t, Options{})
	const followers = 1000
	got := make(chan *Item, followers)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range followers {
		all.Go(func() {
			for item, err := range b.EventItems(ctx, EventQuery{Follow: true, NoHistory: true}) {
				if err != nil {
					t.Error(err)
				}
				got <- item
			}
		})
	}
	eventually(t, "all follow", func() bool { return b.Stats().Followers == followers })
	var first *Item
	began := time.Now()
	b.Event(event("p", 1))
	for range followers {
		item := <-got
		if first == nil {
			first = item
		}
		if item != first {
			t.Fatal("encoded more than once")
		}
	}
	t.Logf("one event to %d followers: %v", followers, time.Since(began))
	var back plugin.Event
	if err := json.Unmarshal(first.JSON, &back); err != nil || back.Sequence != first.Event.Sequence {
		t.Errorf("json: %v, %+v", err, back)
	}
	cancel()
	all.Wait()
	if n := b.Stats().Followers; n != 0 {
		t.Errorf("%d followers left", n)
	}
}

func TestEvents_storm(t *testing.T) {
	both(t, func(t *testing.T, b *Bus) {
		const total = 20000
		began := time.Now()
		for i := range total {
			b.Event(event("p", i))
		}
		given := time.Since(began)
		eventually(t, "all stored", func() bool { return b.Stats().EventsPublished == total })
		t.Logf("%d events: given in %v, stored in %v", total, given, time.Since(began))
		for n, e := range collect(t, b, EventQuery{}, total) {
			if e.Subject != fmt.Sprint(n) {
				t.Fatalf("place %d: got %s", n, e.Subject)
			}
		}
	})
}

func TestEvents_busDown(t *testing.T) {
	e := startExternal(t)
	b := open(t, Options{URL: e.s.ClientURL()})
	live := make(chan plugin.Event, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	var read sync.WaitGroup
	read.Go(func() {
		for e, err := range b.Events(ctx, EventQuery{Follow: true}) {
			if err != nil {
				t.Error(err)
			}
			live <- e
		}
	})
	b.Event(event("p", 0))
	if got := <-live; got.Sequence == 0 {
		t.Error("no sequence while the bus is up")
	}
	e.stop()
	began := time.Now()
	for i := 1; i <= 100; i++ {
		b.Event(event("p", i))
	}
	for i := 1; i <= 100; i++ {
		if got := <-live; got.Subject != fmt.Sprint(i) || got.Sequence != 0 {
			t.Fatalf("while down: got %s with sequence %d, want %d with 0", got.Subject, got.Sequence, i)
		}
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("live delivery while down took %v", took)
	}
	e.start()
	eventually(t, "all stored", func() bool { return b.Stats().EventsPublished == 101 })
	b.Event(event("p", 101))
	if got := <-live; got.Subject != "101" || got.Sequence == 0 {
		t.Errorf("up again: got %s with sequence %d", got.Subject, got.Sequence)
	}
	eventually(t, "every connection is up", b.Connected)
	for n, e := range collect(t, b, EventQuery{}, 102) {
		if e.Subject != fmt.Sprint(n) {
			t.Fatalf("stored, place %d: got %s", n, e.Subject)
		}
	}
	cancel()
	read.Wait()
}

func TestEvents_tooManyWhileDown(t *testing.T) {
	e := startExternal(t)
	b := open(t, Options{URL: e.s.ClientURL()})
	b.Event(event("p", 0))
	eventually(t, "stored", func() bool { return b.Stats().EventsPublished == 1 })
	e.stop()
	eventually(t, "down", func() bool { return !b.Connected() })
	const total = eventsPendingMax + 2*groupMax
	for i := range total {
		b.Event(event("p", i))
	}
	e.start()
	eventually(t, "all stored", func() bool { return b.Stats().EventsPending == 0 && b.Connected() })
	b.Event(event("p", total))
	eventually(t, "told what was lost", func() bool {
		lost := collect(t, b, EventQuery{Type: plugin.EventDropped}, -1)
		var data struct{ Dropped int }
		if len(lost) == 0 || json.Unmarshal(lost[0].Data, &data) != nil {
			return false
		}
		return data.Dropped > 0 && uint64(data.Dropped) == b.Stats().EventsDropped
	})
}

// TestEventQueue_bytes: few events that are large have a bound, too.
func TestEventQueue_bytes(t *testing.T) {
	var q eventQueue
	q.init()
	const room = eventsPendingBytesMax / plugin.EventDataBytesMax
	data := make([]byte, plugin.EventDataBytesMax)
	lost := uint64(0)
	for i := range 2*room + 1 {
		lost += q.push(plugin.Event{Subject: strconv.Itoa(i), Data: data})
	}
	if lost != room+1 || q.len() != room {
		t.Errorf("%d are lost and %d wait, want %d and %d", lost, q.len(), room+1, room)
	}
	for next := room + 1; q.len() > 0; {
		group, told := q.take()
		if told != lost {
			t.Errorf("the group tells that %d are lost, want %d", told, lost)
		}
		lost = 0
		for _, e := range group {
			if e.Subject != strconv.Itoa(next) {
				t.Fatalf("got event %s, want %d", e.Subject, next)
			}
			next++
		}
	}
	if q.bytes != 0 {
		t.Errorf("an empty queue counts %d bytes", q.bytes)
	}
}

func TestEvents_streamDeletedBySomebody(t *testing.T) {
	b := open(t, Options{})
	b.Event(event("p", 1))
	collect(t, b, EventQuery{Follow: true}, 1)
	if err := b.js[control].DeleteStream(t.Context(), streamEvents); err != nil {
		t.Fatal(err)
	}
	b.Event(event("p", 2))
	eventually(t, "stored in a new stream", func() bool { return b.Stats().EventsPublished == 2 })
	if got := collect(t, b, EventQuery{}, 1); got[0].Subject != "2" {
		t.Errorf("got %v", got)
	}
}

func BenchmarkInvoked(b *testing.B) {
	bus := open(b, Options{})
	r := plugin.InvocationRecord{ID: "0123456789", Plugin: "p", Operation: "do", Caller: "rest", Time: time.Now(), Outcome: "ok"}
	b.ReportAllocs()
	for b.Loop() {
		bus.Invoked(r)
	}
}

func BenchmarkEvent_toThousandFollowers(b *testing.B) {
	bus := open(b, Options{})
	const followers = 1000
	ctx, cancel := context.WithCancel(b.Context())
	var got, all sync.WaitGroup
	for range followers {
		all.Go(func() {
			for range bus.EventItems(ctx, EventQuery{Follow: true, NoHistory: true}) {
				got.Done()
			}
		})
	}
	eventually(b, "all follow", func() bool { return bus.Stats().Followers == followers })
	for b.Loop() {
		got.Add(followers)
		bus.Event(event("p", 1))
		got.Wait()
	}
	b.StopTimer()
	cancel()
	all.Wait()
}
