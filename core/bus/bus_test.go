package bus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestOpen_listenerWantsToken(t *testing.T) {
	dir := t.TempDir()
	b := open(t, Options{Dir: dir, Listen: "127.0.0.1:0"})
	info, err := os.Stat(filepath.Join(dir, "nats.token"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("token file: %v, %v", info, err)
	}
	if _, err := nats.Connect(b.Addr()); err == nil {
		t.Error("connected without a token")
	}
	nc, err := nats.Connect(b.Addr(), nats.Token(b.Token()))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	sub, err := nc.SubscribeSync("patchbay.v1.event.>")
	if err != nil || nc.Flush() != nil {
		t.Fatal(err)
	}
	b.Event(event("p", 1))
	m, err := sub.NextMsg(5 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Header.Get("ce-type"); m.Subject != "patchbay.v1.event.p.dev.test.v1" || got != "dev.test.v1" {
		t.Errorf("raw subscriber got %s with type %q", m.Subject, got)
	}
}

func TestOpen_secondDaemonIsRefused(t *testing.T) {
	dir := t.TempDir()
	b := open(t, Options{Dir: dir})
	_, err := Open(context.Background(), Options{Dir: dir})
	if !errors.Is(err, plugin.ErrConflict) || !strings.Contains(err.Error(), "another daemon uses it") {
		t.Fatalf("second daemon: got %v", err)
	}
	b.Close()
	open(t, Options{Dir: dir}).Close() // free again
}

func TestOpen_faults(t *testing.T) {
	taken := open(t, Options{Listen: "127.0.0.1:0"})
	for _, tt := range []struct {
		name string
		o    Options
		want error
	}{
		{"nothing", Options{}, plugin.ErrInvalid},
		{"bad address", Options{Dir: t.TempDir(), Listen: "nowhere"}, plugin.ErrInvalid},
		{"port taken", Options{Dir: t.TempDir(), Listen: strings.TrimPrefix(taken.Addr(), "nats://")}, plugin.ErrUnavailable},
		{"nobody there", Options{URL: "nats://127.0.0.1:1"}, plugin.ErrUnavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Open(context.Background(), tt.o); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestOpen_streamsAreKeptAndFew(t *testing.T) {
	dir := t.TempDir()
	b := open(t, Options{Dir: dir})
	b.Event(event("p", 1))
	collect(t, b, EventQuery{Follow: true}, 1)
	b.Close()
	b = open(t, Options{Dir: dir})
	if got := collect(t, b, EventQuery{}, 1); got[0].Subject != "1" {
		t.Errorf("after a restart: got %v", got)
	}
	s, err := b.js[control].Stream(t.Context(), streamLogs)
	if err != nil || s.CachedInfo().Config.PersistMode != jetstream.AsyncPersistMode || s.CachedInfo().Config.Compression != jetstream.S2Compression {
		t.Errorf("logs stream: %v, %+v", err, s.CachedInfo().Config)
	}
	s, err = b.js[control].Stream(t.Context(), streamEvents)
	if err != nil || s.CachedInfo().Config.PersistMode != jetstream.DefaultPersistMode {
		t.Errorf("events stream: %v, %+v", err, s.CachedInfo().Config)
	}
}

func TestCheck(t *testing.T) {
	both(t, func(t *testing.T, b *Bus) {
		if err := b.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := b.Check(t.Context()); err != nil {
			t.Errorf("second time: got %v", err)
		}
		if got := len(collect(t, b, EventQuery{}, -1)); got != 0 {
			t.Errorf("checks left %d events", got)
		}
	})
}

func TestCheck_deletedStreamIsNamed(t *testing.T) {
	b := open(t, Options{})
	if err := b.js[control].DeleteStream(t.Context(), streamLogs); err != nil {
		t.Fatal(err)
	}
	if err := b.Check(t.Context()); !errors.Is(err, plugin.ErrUnavailable) || !strings.Contains(err.Error(), streamLogs) {
		t.Errorf("got %v", err)
	}
	if _, err := b.LogBatch(plugin.LogBatch{Plugin: "p", Instance: "p-1", Stream: plugin.Stdout, Lines: []plugin.LogLine{{Message: "made again"}}}); err != nil {
		t.Errorf("log after the stream was deleted: %v", err)
	}
}

func TestStatus_lastPerSubject(t *testing.T) {
	both(t, func(t *testing.T, b *Bus) {
		for i := range 1000 {
			b.Status(plugin.Status{Plugin: "p", Instance: fmt.Sprintf("p-%d", i%10), State: plugin.Running, Restarts: i})
		}
		last := func(instance string) *plugin.Status {
			s, err := b.js[control].Stream(t.Context(), streamStatus)
			if err != nil {
				t.Fatal(err)
			}
			m, err := s.GetLastMsgForSubject(t.Context(), "patchbay.v1.status.p."+instance)
			if err != nil {
				return nil
			}
			var got plugin.Status
			if err := json.Unmarshal(m.Data, &got); err != nil {
				t.Fatal(err)
			}
			return &got
		}
		eventually(t, "the last status of each", func() bool {
			for i := range 10 {
				if s := last(fmt.Sprintf("p-%d", i)); s == nil || s.Restarts != 990+i {
					return false
				}
			}
			return true
		})
		b.Forget("p", "p-3")
		eventually(t, "p-3 is forgotten", func() bool { return last("p-3") == nil && last("p-4") != nil })
	})
}

func TestStatus_toldAgainToServerThatForgot(t *testing.T) {
	e := startExternal(t)
	b := open(t, Options{URL: e.s.ClientURL()})
	b.Status(plugin.Status{Plugin: "p", Instance: "p-1", State: plugin.Running})
	has := func() bool {
		s, err := b.js[control].Stream(t.Context(), streamStatus)
		if err != nil {
			return false
		}
		_, err = s.GetLastMsgForSubject(t.Context(), "patchbay.v1.status.p.p-1")
		return err == nil
	}
	eventually(t, "status is there", has)
	e.stop()
	e.start()
	eventually(t, "status is there again", has)
}

func TestInvoked_packsPerPlugin(t *testing.T) {
	b := open(t, Options{})
	at := time.Date(2026, 11, 22, 1, 2, 3, 4000, time.UTC)
	for i := range 600 {
		b.Invoked(plugin.InvocationRecord{ID: fmt.Sprint(i), Plugin: []string{"a", "b"}[i%2], Operation: "do \"it\"", Time: at, DurationMicros: 7, Outcome: "ok"})
	}
	count := map[string]int{}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for e, err := range b.Events(ctx, EventQuery{Type: plugin.EventInvocations, Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		var records []plugin.InvocationRecord
		if err := json.Unmarshal(e.Data, &records); err != nil || len(records) > packRecordsMax {
			t.Fatalf("%d records, %v", len(records), err)
		}
		for _, r := range records {
			if r.Plugin != e.Plugin || !r.Time.Equal(at) || r.Operation != "do \"it\"" || r.DurationMicros != 7 {
				t.Fatalf("got %+v", r)
			}
			count[r.Plugin]++
		}
		if count["a"] == 300 && count["b"] == 300 {
			return
		}
	}
	t.Errorf("got %v", count)
}

func TestInvoked_fullRingDropsOldest(t *testing.T) {
	var r invocationRing
	r.init()
	for i := range invocationsMax + 10 {
		r.add(&plugin.InvocationRecord{DurationMicros: int64(i)})
	}
	older, newer, lost := r.take(nil)
	if lost != 10 || older[0].DurationMicros != 10 || newer[len(newer)-1].DurationMicros != invocationsMax+9 {
		t.Errorf("lost %d, first %d", lost, older[0].DurationMicros)
	}
}

func TestPipe(t *testing.T) {
	both(t, func(t *testing.T, b *Bus) {
		sink, err := b.Pipe(plugin.Stream{Sink: "s", Subscribe: "sensors.>"})
		if err != nil {
			t.Fatal(err)
		}
		source, err := b.Pipe(plugin.Stream{Source: "s", Publish: "sensors.random"})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			if err := source.Publish(fmt.Append(nil, i)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 100 {
			got, err := sink.Next(t.Context())
			if err != nil || string(got) != fmt.Sprint(i) {
				t.Fatalf("message %d: got %q, %v", i, got, err)
			}
		}
		sent, _ := source.Counts()
		if got, dropped := sink.Counts(); sent != 100 || got != 100 || dropped != 0 {
			t.Errorf("sent %d, got %d, dropped %d", sent, got, dropped)
		}
		if err := source.Publish(make([]byte, payloadMax+1)); !errors.Is(err, plugin.ErrInvalid) {
			t.Errorf("oversized: got %v", err)
		}
		for range 2 {
			if err := sink.Close(); err != nil {
				t.Error(err)
			}
		}
		if _, err := sink.Next(t.Context()); !errors.Is(err, plugin.ErrUnavailable) {
			t.Errorf("closed sink: got %v", err)
		}
		_ = source.Close()
		if err := source.Publish(nil); !errors.Is(err, plugin.ErrUnavailable) {
			t.Errorf("closed source: got %v", err)
		}
	})
}

func TestPipe_slowSinkDropsAndCounts(t *testing.T) {
	b := open(t, Options{})
	sink, err := b.Pipe(plugin.Stream{Sink: "s", Subscribe: "flood"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sink.Close() }()
	source, err := b.Pipe(plugin.Stream{Source: "s", Publish: "flood"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = source.Close() }()
	for range sinkQueueMax + 500 {
		if err := source.Publish([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "500 dropped", func() bool { _, dropped := sink.Counts(); return dropped == 500 })
}

func TestPipe_names(t *testing.T) {
	b := open(t, Options{})
	for _, s := range []plugin.Stream{
		{Publish: "a.*"}, {Publish: "a..b"}, {Publish: "a b"}, {Publish: ">"}, {Subscribe: "a.>.b"}, {Subscribe: "$SYS"}, {Publish: strings.Repeat("a", 300)},
	} {
		if _, err := b.Pipe(s); !errors.Is(err, plugin.ErrInvalid) {
			t.Errorf("%+v: got %v", s, err)
		}
	}
}

func TestSubjects(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{statusSubject("p", ""), "patchbay.v1.status.p._"},
		{eventSubject("p", "dev.patchbay.plugin.state.v1"), "patchbay.v1.event.p.dev.patchbay.plugin.state.v1"},
		{eventSubject("", "a..b *>"), "patchbay.v1.event._.a._.b%20%2A%3E"},
		{eventFilter("", ""), "patchbay.v1.event.*.>"},
		{eventFilter("p", "x.y"), "patchbay.v1.event.p.x.y"},
		{logSubject("p", "p-1", plugin.Stdout), "patchbay.v1.log.p.p-1.stdout"},
		{logFilter("p", "", ""), "patchbay.v1.log.p.*.*"},
		{invokeSubject("p", "pkg.Service/Do"), "patchbay.v1.invoke.p.pkg%2EService%2FDo"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %s, want %s", tt.got, tt.want)
		}
	}
	for _, s := range []string{"", "_x", "a.b/c", "%41", "ü", "a b"} {
		if got := untoken(token(s)); got != s {
			t.Errorf("token and back: got %q, want %q", got, s)
		}
	}
}

func TestAppendLines_isJSON(t *testing.T) {
	at := time.Date(2026, 11, 22, 1, 2, 3, 456000000, time.UTC)
	lines := []plugin.LogLine{
		{Time: at, Plugin: "p", Instance: "p-1", Stream: plugin.Stderr, Sequence: 1, Level: "info", Message: "plain"},
		{Time: at, Plugin: "p", Instance: "p-1", Stream: plugin.Stderr, Sequence: 2, Message: "\x00\x1f\"\\\n\r\té\u2028", Truncated: true},
		{Time: at.Add(1), Plugin: "p", Instance: "p-1", Stream: plugin.Stderr, Sequence: 3, Fields: plugin.RawJSON(`{"a":1}`), Dropped: 9, Lines: 3},
	}
	var got []plugin.LogLine
	d := json.NewDecoder(bytes.NewReader(appendLines(nil, "p", "p-1", plugin.Stderr, lines)))
	for d.More() {
		var l plugin.LogLine
		if err := d.Decode(&l); err != nil {
			t.Fatal(err)
		}
		got = append(got, l)
	}
	if diff := cmp.Diff(lines, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "a\"b", "\xff\x00", "é\u2028", "\xed\xa0\x80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		text := appendString(nil, s)
		var back string
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatalf("%q: %s: %v", s, text, err)
		}
		if want := string([]rune(s)); back != want {
			t.Errorf("got %q, want %q", back, want)
		}
	})
}

func FuzzEscape(f *testing.F) {
	f.Add("a b%20\"é\xff")
	f.Fuzz(func(t *testing.T, s string) {
		if got := unescape(escape(s)); got != s {
			t.Errorf("got %q, want %q", got, s)
		}
	})
}

func TestClose_twiceAndLateCalls(t *testing.T) {
	b := open(t, Options{})
	var done sync.WaitGroup
	done.Go(func() {
		if err := b.Run(t.Context()); err != nil {
			t.Error(err)
		}
	})
	b.Close()
	b.Close()
	done.Wait()
	b.Event(event("p", 1))
	b.Status(plugin.Status{Plugin: "p"})
	b.Invoked(plugin.InvocationRecord{Plugin: "p"})
	if _, err := b.LogBatch(plugin.LogBatch{Plugin: "p", Instance: "p-1", Stream: plugin.Stdout, Lines: []plugin.LogLine{{Message: "x"}}}); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("log after close: got %v", err)
	}
	for _, err := range b.Events(t.Context(), EventQuery{Follow: true}) {
		if !errors.Is(err, plugin.ErrUnavailable) {
			t.Errorf("events after close: got %v", err)
		}
	}
}

func TestLog_neverHoldsToken(t *testing.T) {
	var text bytes.Buffer
	b := open(t, Options{Listen: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	b.Close()
	if strings.Contains(text.String(), b.Token()) {
		t.Error("the token stands in the log")
	}
}
