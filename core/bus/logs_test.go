package bus

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// fillLogs stores batches of 10 lines of two plugins by turns, and returns the
// lines of p as they should be read.
func fillLogs(t *testing.T, b *Bus, batches int) (want []plugin.LogLine) {
	t.Helper()
	at := time.Now().UTC()
	for i := range batches {
		name, stream := []string{"p", "other"}[i%2], []plugin.LogStream{plugin.Stdout, plugin.Stderr}[i/2%2]
		var lines []plugin.LogLine
		for k := range 10 {
			lines = append(lines, plugin.LogLine{
				Time: at, Plugin: name, Instance: name + "-1", Stream: stream, Sequence: uint64(k + 1), Message: fmt.Sprintf("%d.%d", i, k),
			})
		}
		sequence, err := b.LogBatch(plugin.LogBatch{Plugin: name, Instance: name + "-1", Stream: stream, Lines: lines})
		if err != nil {
			t.Fatal(err)
		}
		for k := range lines {
			lines[k].ID = LogID(sequence, k+1)
		}
		if name == "p" {
			want = append(want, lines...)
		}
	}
	return want
}

func readLogs(t *testing.T, b *Bus, q LogQuery) (got []plugin.LogLine) {
	t.Helper()
	for l, err := range b.LogHistory(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, l)
	}
	return got
}

func equalLogs(t *testing.T, what string, got, want []plugin.LogLine) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: got %d lines, want %d", what, len(got), len(want))
		return
	}
	for i := range got {
		if got[i].Message != want[i].Message || got[i].ID != want[i].ID || got[i].Stream != want[i].Stream || got[i].Plugin != "p" {
			t.Errorf("%s: line %d: got %+v, want %+v", what, i, got[i], want[i])
			return
		}
	}
}

func TestLogHistory(t *testing.T) {
	both(t, func(t *testing.T, b *Bus) {
		want := fillLogs(t, b, 400)
		equalLogs(t, "all", readLogs(t, b, LogQuery{Plugin: "p"}), want)
		for _, n := range []int{1, 10, 15, 100, 1999, 5000} {
			equalLogs(t, fmt.Sprint("tail ", n), readLogs(t, b, LogQuery{Plugin: "p", Tail: n}), want[max(0, len(want)-n):])
		}
		equalLogs(t, "after", readLogs(t, b, LogQuery{Plugin: "p", After: want[777].ID}), want[778:])
		equalLogs(t, "after a batch's last", readLogs(t, b, LogQuery{Plugin: "p", After: want[779].ID}), want[780:])
		equalLogs(t, "after, tail", readLogs(t, b, LogQuery{Plugin: "p", After: want[1994].ID, Tail: 3}), want[1997:])
		equalLogs(t, "after the last", readLogs(t, b, LogQuery{Plugin: "p", After: want[1999].ID}), nil)
		equalLogs(t, "since", readLogs(t, b, LogQuery{Plugin: "p", Since: time.Now().Add(-time.Minute), Tail: 7}), want[1993:])
		equalLogs(t, "since the future", readLogs(t, b, LogQuery{Plugin: "p", Since: time.Now().Add(time.Minute)}), nil)
		equalLogs(t, "nobody", readLogs(t, b, LogQuery{Plugin: "x", Tail: 7}), nil)
		for _, l := range readLogs(t, b, LogQuery{Plugin: "p", Stream: plugin.Stderr}) {
			if l.Stream != plugin.Stderr {
				t.Fatalf("got %+v", l)
			}
		}
	})
}

func TestLogHistory_faults(t *testing.T) {
	b := open(t, Options{})
	fillLogs(t, b, 4)
	for id, class := range map[string]error{"x": plugin.ErrInvalid, "1": plugin.ErrInvalid, "1.-2": plugin.ErrInvalid, "999.1": plugin.ErrNotFound} {
		for _, err := range b.LogHistory(t.Context(), LogQuery{Plugin: "p", After: id}) {
			if !errors.Is(err, class) {
				t.Errorf("after %s: got %v, want %v", id, err, class)
			}
		}
	}
}

func TestLogHistory_goesOnBehindAGap(t *testing.T) {
	b := open(t, Options{})
	want := fillLogs(t, b, 40)
	for _, after := range []string{"999.1", "999.0"} {
		var gaps []string
		q := LogQuery{Plugin: "p", After: after, Gap: func(after string) { gaps = append(gaps, after) }}
		equalLogs(t, after, readLogs(t, b, q), want)
		if !slices.Equal(gaps, []string{"0.0"}) {
			t.Errorf("after %s: got gaps after %v, want the beginning", after, gaps)
		}
	}
}

func TestLogBatch_busDown(t *testing.T) {
	e := startExternal(t)
	b := open(t, Options{URL: e.s.ClientURL()})
	line := []plugin.LogLine{{Message: "x"}}
	if _, err := b.LogBatch(plugin.LogBatch{Plugin: "p", Instance: "p-1", Stream: plugin.Stdout, Lines: line}); err != nil {
		t.Fatal(err)
	}
	e.stop()
	if _, err := b.LogBatch(plugin.LogBatch{Plugin: "p", Instance: "p-1", Stream: plugin.Stdout, Lines: line}); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("down: got %v", err)
	}
	e.start()
	eventually(t, "logs again", func() bool {
		_, err := b.LogBatch(plugin.LogBatch{Plugin: "p", Instance: "p-1", Stream: plugin.Stdout, Lines: line})
		return err == nil
	})
}

func TestPreviousInstance(t *testing.T) {
	both(t, func(t *testing.T, b *Bus) {
		put := func(name, instance string, n int) {
			t.Helper()
			for range n {
				one := plugin.LogBatch{Plugin: name, Instance: instance, Stream: plugin.Stdout, Lines: []plugin.LogLine{{Message: "x"}}}
				if _, err := b.LogBatch(one); err != nil {
					t.Fatal(err)
				}
			}
		}
		ask := func(name, current string) string {
			t.Helper()
			instance, err := b.PreviousInstance(t.Context(), name, current)
			if err != nil && !errors.Is(err, plugin.ErrNotFound) {
				t.Fatal(err)
			}
			return instance
		}
		if got := ask("p", ""); got != "" {
			t.Errorf("an empty log: got %q", got)
		}
		put("p", "p-1", 3)
		if got := ask("p", "") + ask("p", "p-1"); got != "" {
			t.Errorf("one instance: got %q", got)
		}
		put("q", "q-1", 50)
		put("p", "p-2", 2)
		put("q", "q-2", 77)
		put("p", "p-3", 1)
		put("q", "q-2", 5)
		for current, want := range map[string]string{"": "p-2", "p-3": "p-2", "p-2": "p-1", "p-1": "", "p-4": "p-3"} {
			if got := ask("p", current); got != want {
				t.Errorf("before %q: got %q, want %q", current, got, want)
			}
		}
		if got := ask("q", "q-2"); got != "q-1" {
			t.Errorf("got %q, want q-1", got)
		}
	})
}

func TestLogHistory_severalSources(t *testing.T) {
	both(t, func(t *testing.T, b *Bus) {
		all := fillLogs(t, b, 40)
		sources := []plugin.LogSource{{Plugin: "p"}, {Plugin: "nobody"}, {Plugin: "other", Instance: "other-2"}, {Plugin: "p"}}
		equalLogs(t, "several", readLogs(t, b, LogQuery{Sources: sources}), all)
		equalLogs(t, "several, tail", readLogs(t, b, LogQuery{Sources: sources, Tail: 15}), all[len(all)-15:])
		equalLogs(t, "an instance", readLogs(t, b, LogQuery{Sources: []plugin.LogSource{{Plugin: "p", Instance: "p-1"}}}), all)
		equalLogs(t, "another instance", readLogs(t, b, LogQuery{Plugin: "p", Instance: "p-2"}), nil)
		equalLogs(t, "none", readLogs(t, b, LogQuery{Sources: []plugin.LogSource{}}), nil)
		for i := range 2 * filtersMax {
			sources = append(sources, plugin.LogSource{Plugin: fmt.Sprint("nobody-", i)})
		}
		equalLogs(t, "more than filters", readLogs(t, b, LogQuery{Sources: sources}), all)
		equalLogs(t, "more than filters, tail", readLogs(t, b, LogQuery{Sources: sources, Tail: 15}), all[len(all)-15:])
		if both := readLogs(t, b, LogQuery{Sources: []plugin.LogSource{{Plugin: "p"}, {Plugin: "other"}}}); len(both) != 400 {
			t.Errorf("got %d lines of both, want 400", len(both))
		}
	})
}

func TestLogHistory_chosenLines(t *testing.T) {
	b := open(t, Options{})
	all := fillLogs(t, b, 400)
	var want []plugin.LogLine
	for _, l := range all {
		if strings.HasSuffix(l.Message, "0.7") {
			want = append(want, l)
		}
	}
	seldom := func(l *plugin.LogLine) bool { return strings.HasSuffix(l.Message, "0.7") }
	equalLogs(t, "all", readLogs(t, b, LogQuery{Plugin: "p", Keep: seldom}), want)
	for _, n := range []int{1, 3, len(want), 1000} {
		equalLogs(t, fmt.Sprint("tail ", n), readLogs(t, b, LogQuery{Plugin: "p", Keep: seldom, Tail: n}), want[max(0, len(want)-n):])
	}
	equalLogs(t, "tail after", readLogs(t, b, LogQuery{Plugin: "p", Keep: seldom, Tail: 2, After: all[0].ID}), want[len(want)-2:])
	equalLogs(t, "none", readLogs(t, b, LogQuery{Plugin: "p", Tail: 5, Keep: func(*plugin.LogLine) bool { return false }}), nil)
}

func TestLastLog(t *testing.T) {
	both(t, func(t *testing.T, b *Bus) {
		ask := func(instance string, stream plugin.LogStream) string {
			sequence, upto, err := b.LastLog(t.Context(), "p", instance, stream)
			return fmt.Sprint(sequence, upto, err)
		}
		if got := ask("p-1", plugin.Stdout); got != "0 0 <nil>" {
			t.Errorf("nothing stored: got %s", got)
		}
		for i := range 3 {
			one := plugin.LogBatch{Plugin: "p", Instance: "p-1", Stream: plugin.Stdout, Upto: int64(1000 * (i + 1))}
			for k := range 10 {
				one.Lines = append(one.Lines, plugin.LogLine{Sequence: uint64(10*i + k + 1), Message: "with a\nline break"})
			}
			if _, err := b.LogBatch(one); err != nil {
				t.Fatal(err)
			}
		}
		written := plugin.LogBatch{Plugin: "p", Instance: "p-1", Stream: plugin.PluginLog, Lines: []plugin.LogLine{{Sequence: 7}}}
		if _, err := b.LogBatch(written); err != nil {
			t.Fatal(err)
		}
		for want, got := range map[string]string{
			"30 3000 <nil>": ask("p-1", plugin.Stdout), "7 0 <nil>": ask("p-1", plugin.PluginLog),
			"0 0 <nil>": ask("p-2", plugin.Stdout),
		} {
			if got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	})
}

func TestLastLog_busDown(t *testing.T) {
	e := startExternal(t)
	b := open(t, Options{URL: e.s.ClientURL()})
	e.stop()
	if _, _, err := b.LastLog(t.Context(), "p", "p-1", plugin.Stdout); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("got %v, want that the bus is down", err)
	}
	e.start()
}

func BenchmarkLogBatch(b *testing.B) {
	bus := open(b, Options{})
	lines := make([]plugin.LogLine, 256)
	for i := range lines {
		lines[i] = plugin.LogLine{Time: time.Now(), Sequence: uint64(i), Message: "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"}
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if _, err := bus.LogBatch(plugin.LogBatch{Plugin: "p", Instance: "p-1", Stream: plugin.Stdout, Lines: lines}); err != nil {
			b.Fatal(err)
		}
		n += len(lines)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "lines/s")
}

// BenchmarkBarePacked is the yardstick of BenchmarkLogBatch: the same bytes of
// text, packed, without records, to the same stream.
func BenchmarkBarePacked(b *testing.B) {
	bus := open(b, Options{})
	text := []byte(strings.Repeat("0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\n", 256))
	js := bus.js[logging]
	n := 0
	for b.Loop() {
		if _, err := js.PublishAsync("patchbay.v1.log.p.p-1.stdout", text, jetstream.WithStallWait(time.Second)); err != nil {
			b.Fatal(err)
		}
		n += 256
	}
	<-js.PublishAsyncComplete()
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "lines/s")
}

// BenchmarkLogBatch_four is four plugins at once.
func BenchmarkLogBatch_four(b *testing.B) {
	bus := open(b, Options{})
	lines := make([]plugin.LogLine, 256)
	for i := range lines {
		lines[i] = plugin.LogLine{Time: time.Now(), Sequence: uint64(i), Message: strings.Repeat("x", 100)}
	}
	b.SetParallelism(2)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := bus.LogBatch(plugin.LogBatch{Plugin: "p", Instance: "p-1", Stream: plugin.Stdout, Lines: lines}); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N*256)/b.Elapsed().Seconds(), "lines/s")
}
