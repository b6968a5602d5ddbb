package reconcile_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/reconcile"
)

func TestReporter_forgetsInOrder(t *testing.T) {
	var got []string
	r := reconcile.NewReporter("n", func(s plugin.Status) { got = append(got, "status "+s.Instance) }, func(plugin.Event) {}, slog.New(slog.DiscardHandler))
	r.Drop = func(_, instance string) { got = append(got, "forget "+instance) }
	r.Changed(plugin.StateChange{To: plugin.Stopped, Cause: "gone", Status: plugin.Status{Plugin: "p", Instance: "p-1"}})
	r.Forget("p", "p-1")
	r.Refreshed(plugin.Status{Plugin: "p", Instance: "p-2"})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ended); err != nil {
		t.Fatal(err)
	}
	if want := []string{"status p-1", "forget p-1", "status p-2"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v: a status after its forgetting would stay for ever", got, want)
	}
}

func TestReporter_holdsNobodyOnceItHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := reconcile.NewReporter("n", func(plugin.Status) {}, func(plugin.Event) {}, slog.New(slog.DiscardHandler))
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := r.Run(ended); err != nil {
			t.Fatal(err)
		}
		for range 10_000 { // more than may be pending: this would block for ever
			r.Changed(plugin.StateChange{})
		}
	})
}

func TestReporter_tellsHowAStopWent(t *testing.T) {
	var got []plugin.Event
	r := reconcile.NewReporter("n", func(plugin.Status) {}, func(e plugin.Event) { got = append(got, e) }, slog.New(slog.DiscardHandler))
	stop := &plugin.Stop{Instance: "p-1", DurationMillis: 7, Steps: []plugin.StopStep{{Name: "drain", DurationMillis: 5, Outcome: "done"}}}
	s := plugin.Status{Plugin: "p", LastStop: stop}
	r.Changed(plugin.StateChange{From: plugin.Stopping, To: plugin.Stopped, Cause: "gone", Status: s})
	r.Changed(plugin.StateChange{From: plugin.Stopped, To: plugin.Starting, Cause: "begin", Status: s}) // it is not told again
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ended); err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got[1].Type != plugin.EventStop || got[1].Plugin != "p" {
		t.Fatalf("got %v, want two changes and one stop between", got)
	}
	var told plugin.Stop
	if err := json.Unmarshal(got[1].Data, &told); err != nil || told.DurationMillis != 7 || told.Steps[0] != stop.Steps[0] {
		t.Errorf("got %s %v", got[1].Data, err)
	}
}

func TestReporter_givesMemoryBackAfterAStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := reconcile.NewReporter("n", func(plugin.Status) {}, func(plugin.Event) {}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.Run(ctx) }() // ends with ctx
		forced := func(after time.Duration) uint32 {
			<-time.After(after) // synctest's clock
			synctest.Wait()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.NumForcedGC
		}
		before := forced(0)
		for range 1000 {
			r.Changed(plugin.StateChange{})
		}
		over := forced(4 * time.Second)
		cold := forced(40 * time.Second)
		if over == before || cold == over {
			t.Errorf("collections: %d before, %d after the storm, %d when the bus is cold; want more each time", before, over, cold)
		}
		r.Changed(plugin.StateChange{})
		if got := forced(time.Minute); got != cold {
			t.Errorf("one change: %d collections, want none", got-cold)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
