package reconcile_test

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"

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
