package logs

import (
	"context"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// told follows until n lines came, and calls then after each.
func told(t *testing.T, hub *Hub, q Query, n int, then func(n int)) (got []string) {
	t.Helper()
	for line, err := range hub.Follow(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(line.Plugin, " ", line.Message, " ", line.Dropped))
		if then(len(got)); len(got) == n {
			break
		}
	}
	return got
}

func TestFollow_severalPluginsMergedAsTheyCame(t *testing.T) {
	hub, _ := newFake()
	a, b, c := hub.Open("a", "a-1", "", 0), hub.Open("b", "b-1", "", 0), hub.Open("c", "c-1", "", 0)
	defer a.Close()
	defer b.Close()
	defer c.Close()
	var later atomic.Bool
	q := Query{
		Follow: true,
		Select: func() []plugin.LogSource { return []plugin.LogSource{{Plugin: "a"}, {Plugin: "b", Instance: "b-1"}} },
		Joins:  func(name string) bool { return name == "late" && later.Load() },
	}
	fmt.Fprintln(a.Writer(plugin.Stdout), "1")
	got := told(t, hub, q, 5, func(n int) {
		switch n {
		case 1:
			fmt.Fprintln(c.Writer(plugin.Stdout), "nobody asked")
			fmt.Fprintln(b.Writer(plugin.Stdout), "2")
		case 2:
			other := hub.Open("b", "b-2", "", 0)
			fmt.Fprintln(other.Writer(plugin.Stdout), "another instance")
			other.Close()
			fmt.Fprintln(a.Writer(plugin.Stdout), "3")
		case 3:
			later.Store(true) // it is applied now
			late := hub.Open("late", "late-1", "", 0)
			fmt.Fprintln(late.Writer(plugin.Stdout), "4")
			late.Close()
		case 4:
			fmt.Fprintln(b.Writer(plugin.Stdout), "5")
		}
	})
	if want := []string{"a 1 0", "b 2 0", "a 3 0", "late 4 0", "b 5 0"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A follower whose place was lost goes on where history does: lines with lower IDs
// than it had are new.
func TestFollow_goesOnBehindAGap(t *testing.T) {
	bus := &fakeBus{}
	var asked []string
	hub := New(Options{Publish: bus.publish, History: func(ctx context.Context, q Query) iter.Seq2[plugin.LogLine, error] {
		if asked = append(asked, q.After); q.After == "99.9" {
			q.Gap("0.0")
			q.After = "0.0"
		}
		return bus.history(ctx, q)
	}})
	log := hub.Open("p", "p-1", t.TempDir(), 0)
	defer log.Close()
	w := log.Writer(plugin.Stdout)
	gaps := ""
	q := Query{Plugin: "p", After: "99.9", Follow: true, Gap: func(after string) {
		gaps += after
		fmt.Fprintln(w, "one")
	}}
	got := told(t, hub, q, 2, func(n int) {
		if n == 1 {
			fmt.Fprintln(w, "two")
		}
	})
	if gaps != "0.0" || fmt.Sprint(got) != "[p one 0 p two 0]" || asked[0] != "99.9" {
		t.Errorf("got %v with gaps %q, asked for %v", got, gaps, asked)
	}
}

func TestFollow_nothingIsSelected(t *testing.T) {
	r := newReader(nil, Query{Select: func() []plugin.LogSource { return nil }}, nil)
	if names := r.sources(); names == nil || len(names) != 0 || r.query.Sources == nil || r.wants(plugin.LogLine{Plugin: "a"}) {
		t.Errorf("got %v and %v, want none instead of all", names, r.query.Sources)
	}
}

func TestFollow_byLevelAndText(t *testing.T) {
	for _, down := range []bool{false, true} { // from history and live, or from memory
		hub, bus := newFake()
		bus.set(down)
		log := hub.Open("a", "a-1", "", 0)
		w := log.Writer(plugin.Stdout)
		fmt.Fprint(w, "[INFO] slow a\n[WARN] slow b\n[WARN] fast c\nslow d\n{\"level\":\"error\",\"msg\":\"e\",\"why\":\"slow\"}\n")
		q := Query{Plugin: "a", Follow: true, Level: "warn", Grep: regexp.MustCompile("sl.w")}
		got := told(t, hub, q, 3, func(n int) {
			if n == 2 {
				fmt.Fprint(w, "[DEBUG] slow f\n[ERROR] slow g\n")
			}
		})
		if want := []string{"a slow b 0", "a e 0", "a slow g 0"}; !slices.Equal(got, want) {
			t.Errorf("bus down %t: got %q, want %q", down, got, want)
		}
		bus.set(false)
		log.Close()
	}
}

func TestFollow_linesThatNobodyAskedForTellWhatWasLost(t *testing.T) {
	var got []string
	r := newReader(nil, Query{Level: "error"}, func(l plugin.LogLine, _ error) bool {
		got = append(got, fmt.Sprint(l.Sequence, " ", l.Dropped))
		return true
	})
	line := func(n, dropped uint64, level string) plugin.LogLine {
		return plugin.LogLine{Plugin: "a", Instance: "a-1", Stream: plugin.Stdout, Sequence: n, Dropped: dropped, Level: level}
	}
	for _, l := range []plugin.LogLine{line(1, 0, "error"), line(11, 9, "info"), line(14, 2, "info"), line(16, 1, "error"), line(17, 0, "error")} {
		if r.query.Keep(&l) {
			r.one(l)
		}
	}
	if want := []string{"1 0", "16 12", "17 0"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q: the 12 lost lines must be told", got, want)
	}
}

func TestMatches_levels(t *testing.T) {
	for _, tt := range []struct {
		level, least string
		want         bool
	}{
		{"trace", "trace", true}, {"trace", "debug", false}, {"", "info", true}, {"", "warn", false},
		{"warn", "info", true}, {"error", "error", true}, {"warn", "error", false}, {"", "", true},
	} {
		q := Query{Level: tt.least}
		if got := q.matches(&plugin.LogLine{Level: tt.level}); got != tt.want {
			t.Errorf("%q at least %q: got %t", tt.level, tt.least, got)
		}
	}
}
