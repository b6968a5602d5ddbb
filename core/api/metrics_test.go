package api

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/bus"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestMetrics_seriesAreBounded(t *testing.T) {
	m := NewMetrics()
	for i := range seriesMax + 100 {
		m.Invoked(plugin.InvocationRecord{Plugin: fmt.Sprintf("p%d", i), Outcome: "ok"})
	}
	if got := len(*m.series.Load()); got != seriesMax {
		t.Errorf("got %d series, want %d", got, seriesMax)
	}
	m.forget("p7")
	if got := len(*m.series.Load()); got != seriesMax-1 {
		t.Errorf("after forget: got %d series, want %d", got, seriesMax-1)
	}
}

func TestMetrics_tellTheWholeHouse(t *testing.T) {
	d := testDeps(t, newShelf("one"))
	d.BusStats = func() bus.Stats {
		return bus.Stats{EventLag: 1500 * time.Millisecond, EventsPublished: 7, EventsDropped: 2}
	}
	a, m := New(d), d.Metrics
	for range 2 {
		m.Changed(plugin.StateChange{To: plugin.Backoff, Status: plugin.Status{Plugin: "one", Instance: "one-abc", Reason: "Exited"}})
	}
	m.Changed(plugin.StateChange{To: plugin.Running, Status: plugin.Status{Plugin: "one"}})
	m.Reconciled(time.Millisecond)
	told := 0
	m.CountChanges(func(plugin.StateChange) { told++ })(plugin.StateChange{To: plugin.Backoff, Status: plugin.Status{Plugin: "one", Reason: "Exited"}})
	m.CountInvocations(func(plugin.InvocationRecord) { told++ })(plugin.InvocationRecord{Plugin: "one", Outcome: "ok"})
	if told != 2 {
		t.Errorf("handed on %d of 2", told)
	}
	var fail error
	store := m.CountLogs(func(plugin.LogBatch) (uint64, error) { return 9, fail })
	batch := plugin.LogBatch{
		Plugin: "one", Instance: "one-abc", Stream: plugin.Stdout,
		Lines: []plugin.LogLine{{Message: "12345"}, {Message: "123", Dropped: 4}},
	}
	if sequence, err := store(batch); sequence != 9 || err != nil {
		t.Errorf("got %d, %v, want what the bus says", sequence, err)
	}
	fail = errTest
	if _, err := store(batch); !errors.Is(err, errTest) {
		t.Errorf("got %v, want the bus's error, and nothing counted", err)
	}
	m.LostLogs("one", 6)
	m.Callback("one", "kv", "ok")
	text := ask(t, a, "GET", "/metrics", "").Body.String()
	for _, want := range []string{
		`patchbay_plugin_restarts_total{plugin="one",reason="Exited"} 3`, `patchbay_log_bytes_total{plugin="one"} 8`,
		`patchbay_invocation_duration_seconds_count{outcome="ok",plugin="one"} 1`,
		`patchbay_log_dropped_total{plugin="one"} 10`, `patchbay_callbacks_total{binding="kv",outcome="ok",plugin="one"} 1`, `patchbay_reconcile_duration_seconds_count 1`, `patchbay_adapter_up{adapter="toy"} 0`,
		`patchbay_event_lag_seconds 1.5`, `patchbay_events_total 7`, `patchbay_events_dropped_total 2`, `patchbay_invocations_in_flight{adapter="toy",plugin="one"} 0`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("metrics: no %s", want)
		}
	}
	if strings.Contains(text, "one-abc") {
		t.Error("metrics: an instance's id is a label")
	}
	m.forget("one")
	if text := ask(t, a, "GET", "/metrics", "").Body.String(); strings.Contains(text, `_total{plugin="one"`) || strings.Contains(text, "callbacks_total{") {
		t.Error("metrics: a plugin that was deleted is still counted")
	}
}

func TestMetrics_labelsAreBounded(t *testing.T) {
	names := make([]string, pluginsMax+3)
	for i := range names {
		names[i] = fmt.Sprintf("p%05d", i)
	}
	shelf := newShelf(names...)
	d := testDeps(t, shelf)
	for i, name := range names {
		d.Metrics.Changed(plugin.StateChange{To: plugin.Backoff, Status: plugin.Status{Plugin: name, Reason: fmt.Sprintf("R%d", i%(reasonsMax+2))}})
	}
	if _, err := shelf.Desire(t.Context(), names[len(names)-1], plugin.DesiredStopped); err != nil {
		t.Fatal(err)
	}
	text := ask(t, New(d), "GET", "/metrics", "").Body.String()
	for name, most := range map[string]int{
		"patchbay_plugin_up{": pluginsMax + 1, "patchbay_invocations_in_flight{": pluginsMax + 1, "patchbay_plugin_restarts_total{": pluginsMax + 3,
	} {
		if got := strings.Count(text, "\n"+name); got > most || got < pluginsMax {
			t.Errorf("%s: got %d series, want at most %d", name, got, most)
		}
	}
	for _, want := range []string{`patchbay_plugin_up{adapter="toy",plugin="_other"} 0`, `plugin="_other",reason=`, `reason="Other"`} {
		if !strings.Contains(text, want) {
			t.Errorf("metrics: no %s", want)
		}
	}
}
