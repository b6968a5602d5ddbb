package bus

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// storeBatches stores n batches of some 10 KiB each of one plugin.
func storeBatches(t *testing.T, b *Bus, name string, n int, keep plugin.Logs) {
	t.Helper()
	for i := range n {
		line := plugin.LogLine{Plugin: name, Time: time.Now(), Sequence: uint64(i + 1), Message: strings.Repeat("x", 10<<10)}
		_, err := b.LogBatch(plugin.LogBatch{
			Plugin: name, Instance: fmt.Sprint(name, "-", i%3), Stream: plugin.Stdout, Lines: []plugin.LogLine{line}, Keep: keep,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// kept is how many bytes of messages a plugin has, in lines of 10 KiB.
func kept(t *testing.T, b *Bus, name string) int {
	t.Helper()
	n := 0
	for l, err := range b.LogHistory(t.Context(), LogQuery{Plugin: name}) {
		if err != nil {
			t.Fatal(err)
		}
		n += len(l.Message)
	}
	return n
}

func TestRetention_bytes(t *testing.T) {
	both(t, func(t *testing.T, b *Bus) {
		keep := plugin.Logs{MaxSize: 1 << 20}
		storeBatches(t, b, "other", 150, plugin.Logs{})
		storeBatches(t, b, "p", 300, keep)
		eventually(t, "the oldest are gone", func() bool { return kept(t, b, "p") <= 1<<20 })
		if n := kept(t, b, "p"); n < 1<<20*3/4 {
			t.Errorf("%d bytes are kept, want nearly 1 MiB", n)
		}
		lines := readLogs(t, b, LogQuery{Plugin: "p", Tail: 1})
		if lines[0].Sequence != 300 {
			t.Errorf("the newest is line %d, want 300", lines[0].Sequence)
		}
		if n := kept(t, b, "other"); n != 150*10<<10 {
			t.Errorf("another plugin has %d bytes left, want all", n)
		}
	})
}

func TestRetention_countsWhatAnEarlierDaemonStored(t *testing.T) {
	dir := t.TempDir()
	b := open(t, Options{Dir: dir})
	storeBatches(t, b, "p", 150, plugin.Logs{})
	storeBatches(t, b, "other", 10, plugin.Logs{})
	b.Close()
	b = open(t, Options{Dir: dir})
	storeBatches(t, b, "p", 1, plugin.Logs{MaxSize: 1 << 20})
	eventually(t, "the oldest are gone", func() bool { return kept(t, b, "p") <= 1<<20 })
	if n := kept(t, b, "p"); n < 1<<20*3/4 {
		t.Errorf("%d bytes are kept, want nearly 1 MiB", n)
	}
	if n := kept(t, b, "other"); n != 10*10<<10 {
		t.Errorf("another plugin has %d bytes left, want all", n)
	}
}

func TestRetention_age(t *testing.T) {
	both(t, func(t *testing.T, b *Bus) {
		storeBatches(t, b, "p", 3, plugin.Logs{MaxAge: plugin.Duration(time.Second)})
		storeBatches(t, b, "other", 3, plugin.Logs{})
		if n := kept(t, b, "p"); n != 3*10<<10 {
			t.Errorf("%d bytes are kept at first, want all", n)
		}
		eventually(t, "the old are gone", func() bool { return kept(t, b, "p") == 0 })
		if n := kept(t, b, "other"); n != 3*10<<10 {
			t.Errorf("another plugin has %d bytes left, want all", n)
		}
	})
}

func TestRetained_partsAreBounded(t *testing.T) {
	var r retention
	r.init()
	for i := range uint64(100_000) {
		r.stored("p", i+1, 1<<16, 1<<20) // nobody purges
	}
	for i := range 2 * retainedMax {
		r.stored(fmt.Sprint(i), uint64(200_000+i), 1, 1<<20)
	}
	if k := r.plugins["p"]; k != nil && (len(k.parts) > logPartsMax || k.bytes != 100_000<<16) {
		t.Errorf("%d parts with %d bytes", len(k.parts), k.bytes)
	}
	if n := len(r.plugins); n > retainedMax {
		t.Errorf("%d plugins are remembered, the most is %d", n, retainedMax)
	}
	r.stored("p", 300_000, 1, 0)
	if r.plugins["p"] != nil {
		t.Error("a plugin without a limit is still counted")
	}
}

// TestRetention_subjects: instances that come and go fill the server's memory with
// their subjects, long before their lines fill the log.
func TestRetention_subjects(t *testing.T) {
	const most, batches = 4 * crowdLooks, 16 * crowdLooks
	dir := t.TempDir()
	b := open(t, Options{Dir: dir, logSubjects: most})
	store := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			line := plugin.LogLine{Plugin: "p", Sequence: 1, Message: "hello"}
			batch := plugin.LogBatch{Plugin: "p", Instance: fmt.Sprint("p-", i), Stream: plugin.Stdout, Lines: []plugin.LogLine{line}}
			if _, err := b.LogBatch(batch); err != nil {
				t.Fatal(err)
			}
		}
	}
	subjects := func() uint64 {
		t.Helper()
		s, err := b.js[control].Stream(t.Context(), streamLogs)
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State.NumSubjects
	}
	store(0, batches)
	eventually(t, "the oldest are gone", func() bool { return subjects() <= most })
	if n := subjects(); n < most/2 {
		t.Errorf("%d subjects are left, want nearly %d", n, most)
	}
	if last := readLogs(t, b, LogQuery{Plugin: "p", Tail: 1}); last[0].Instance != fmt.Sprint("p-", batches-1) {
		t.Errorf("the last line is of %s, want the last instance's", last[0].Instance)
	}
	b.Close()
	b = open(t, Options{Dir: dir, logSubjects: crowdLooks})
	eventually(t, "what an earlier daemon left is looked at", func() bool { return subjects() <= crowdLooks })
}
