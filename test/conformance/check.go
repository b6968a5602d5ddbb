package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// checkAccepts: the fixture's manifest is right, with and without defaults, and
// the adapter's name is the manifest's key.
func checkAccepts(t *testing.T, f Fixture) {
	m := f.Manifest(t)
	if m.Spec.Adapter != f.Adapter.Name() {
		t.Errorf("spec: got adapter %q, want %q", m.Spec.Adapter, f.Adapter.Name())
	}
	if _, ok := f.Adapter.(plugin.Specifier); !ok {
		t.Error("the adapter is no plugin.Specifier: its manifest block has no schema")
	}
	for name, m := range map[string]plugin.Manifest{"as given": m, "with defaults": m.WithDefaults()} {
		if err := f.Adapter.Check(m); err != nil {
			t.Errorf("check %s: %v", name, err)
		}
	}
}

// checkRefuses: what is wrong is refused as faults with paths, and nothing is
// started by asking.
func checkRefuses(t *testing.T, f Fixture) {
	base := count()
	for name, m := range f.wrong(t) {
		t.Run(name, func(t *testing.T) {
			err := f.Adapter.Check(m)
			var faults plugin.Faults
			if !errors.As(err, &faults) || len(faults) == 0 {
				t.Fatalf("check of %s: got %v, want plugin.Faults", show(m), err)
			}
			for _, fault := range faults {
				if !strings.HasPrefix(fault.Path, "spec") || fault.Detail == "" {
					t.Errorf("got fault %q at %q, want a detail and a path under spec", fault.Detail, fault.Path)
				}
			}
		})
	}
	Eventually(t, patience, func() error { return backTo(base) })
}

// wrong is the fixture's manifest with one thing wrong each.
func (f Fixture) wrong(t *testing.T) map[string]plugin.Manifest {
	t.Helper()
	bad := map[string]plugin.Manifest{
		"unknown field": f.with(t, func(s *plugin.Spec) { s.Block = withField(t, s.Block, "noSuchField") }),
		"empty block":   f.with(t, func(s *plugin.Spec) { s.Block = plugin.RawJSON(`{}`) }),
		"no block":      f.with(t, func(s *plugin.Spec) { s.Block = nil }),
		"null block":    f.with(t, func(s *plugin.Spec) { s.Block = plugin.RawJSON(`null`) }),
		"list block":    f.with(t, func(s *plugin.Spec) { s.Block = plugin.RawJSON(`["a"]`) }),
		"text block":    f.with(t, func(s *plugin.Spec) { s.Block = plugin.RawJSON(`"a"`) }),
		"broken block":  f.with(t, func(s *plugin.Spec) { s.Block = plugin.RawJSON(`{"a":`) }),
	}
	if !f.Limits {
		bad["limits.memory"] = f.with(t, func(s *plugin.Spec) { s.Limits.Memory = 64 << 20 })
		bad["limits.cpu"] = f.with(t, func(s *plugin.Spec) { s.Limits.CPU = 0.5 })
		bad["limits.openFiles"] = f.with(t, func(s *plugin.Spec) { s.Limits.OpenFiles = 100 })
		bad["limits.pids"] = f.with(t, func(s *plugin.Spec) { s.Limits.Pids = 10 })
	}
	if !f.Jobs {
		bad["mode job"] = f.with(t, func(s *plugin.Spec) { s.Mode = plugin.Job })
	}
	return bad
}

func (f Fixture) with(t *testing.T, change func(*plugin.Spec)) plugin.Manifest {
	t.Helper()
	m := f.Manifest(t)
	change(&m.Spec)
	return m
}

func withField(t *testing.T, block plugin.RawJSON, name string) plugin.RawJSON {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal(block, &fields); err != nil {
		t.Fatalf("fixture: block %s: %v", block, err)
	}
	fields[name] = 1
	out, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func show(m plugin.Manifest) string {
	return fmt.Sprintf("mode %q, block %s", m.Spec.Mode, m.Spec.Block)
}
