package conformance

import (
	"slices"
	"testing"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Limits that no plugin of the suite reaches.
const (
	roomMemory    = 1 << 30
	roomPids      = 500
	roomOpenFiles = 500
)

// limitsAreTold: an instance with limits works, and says of each, once, what keeps
// it, or why nothing does.
func limitsAreTold(t *testing.T, f Fixture) {
	plain := f.start(t)
	if l, ok := plain.Instance.(plugin.Limited); !ok || len(l.Limits()) != 0 {
		t.Fatalf("without limits: got plugin.Limited %t, want one that tells none", ok)
	}
	f.end(t, plain)

	given := f.Manifest
	f.Manifest = func(t testing.TB) plugin.Manifest {
		m := given(t)
		m.Spec.Limits.Memory, m.Spec.Limits.CPU = roomMemory, 1
		m.Spec.Limits.Pids, m.Spec.Limits.OpenFiles = roomPids, roomOpenFiles
		return m
	}
	r := f.start(t)
	if err := f.echo(r, 1); err != nil {
		t.Errorf("with limits: %v", err)
	}
	var names []string
	for _, one := range r.Instance.(plugin.Limited).Limits() {
		names = append(names, one.Name)
		if one.By == "" && one.Message == "" {
			t.Errorf("limit %s: nothing keeps it, and it is not said why", one.Name)
		}
	}
	slices.Sort(names)
	if want := []string{"cpu", "memory", "openFiles", "pids"}; !slices.Equal(names, want) {
		t.Errorf("limits told: got %v, want %v", names, want)
	}
	f.end(t, r)
}
