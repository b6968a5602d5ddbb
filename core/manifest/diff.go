package manifest

import (
	"cmp"
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// A Change is one field that differs between two manifests.
type Change struct {
	// Path leads to the field: "spec.limits.memory".
	Path string `json:"path"`
	// Old and New are JSON text; empty where there is no such field.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
	// Restarts is true when a running instance must be replaced to have it.
	Restarts bool `json:"restarts"`
}

// Diff lists the fields that differ, by path. Defaults are written into both
// before, so that writing a default out is no change. Secrets are references in
// a manifest, so no secret is shown.
func Diff(old, new plugin.Manifest) []Change {
	var changes []Change
	compare(nil, tree(old), tree(new), &changes)
	for i := range changes {
		changes[i].Restarts = restarts(changes[i].Path)
	}
	slices.SortFunc(changes, func(a, b Change) int { return cmp.Compare(a.Path, b.Path) })
	return changes
}

// restarts tells what only a new instance takes up from what Patchbay reads anew
// each time.
func restarts(path string) bool {
	for _, live := range [...]string{
		"metadata.labels", "metadata.annotations", "spec.restart", "spec.probe", "spec.limits.inFlight", "spec.limits.logRate",
		"spec.timeouts", "spec.logs", "spec.update", "spec.start", "spec.instances",
	} {
		rest, ok := strings.CutPrefix(path, live)
		if ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return false
		}
	}
	return true
}

// tree returns m as a JSON tree, nil for an empty manifest: one that is not there.
func tree(m plugin.Manifest) *node {
	if reflect.DeepEqual(m, plugin.Manifest{}) {
		return nil
	}
	data, err := json.Marshal(m.WithDefaults())
	if err != nil {
		return nil // a block that is not JSON: not from this package
	}
	n, err := jsonDocument(data)
	if err != nil {
		return nil
	}
	n.sort()
	return n
}

// sort orders the keys of all objects, which have no order in JSON.
func (n *node) sort() {
	slices.SortStableFunc(n.fields, func(a, b field) int { return cmp.Compare(a.key, b.key) })
	for _, f := range n.fields {
		f.value.sort()
	}
	for _, item := range n.items {
		item.sort()
	}
}

func compare(p *place, old, new *node, changes *[]Change) {
	was, is := jsonText(old), jsonText(new)
	if was == is {
		return
	}
	a, b := children(old), children(new)
	if (a == nil && b == nil) || (old != nil && new != nil && old.kind != new.kind) {
		*changes = append(*changes, Change{Path: p.String(), Old: was, New: is})
		return
	}
	done := map[string]bool{}
	for _, f := range append(slices.Clone(a), b...) {
		if done[f.key] {
			continue
		}
		done[f.key] = true
		compare(p.in(f.key), valueOf(old, f.key), valueOf(new, f.key), changes)
	}
}

// children returns the fields of an object that has some.
func children(n *node) []field {
	if n == nil || n.kind != object {
		return nil
	}
	return n.fields
}

func valueOf(n *node, key string) *node {
	for _, f := range children(n) {
		if f.key == key {
			return f.value
		}
	}
	return nil
}

func jsonText(n *node) string {
	if n == nil {
		return ""
	}
	return string(n.appendJSON(nil))
}
