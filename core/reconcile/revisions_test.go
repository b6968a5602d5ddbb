package reconcile_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/store"
)

func TestRevisions_areGenerationsNewestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newStore())
		w.put(t, "a", `{"fake":{"v":1}}`)
		if _, err := w.Restart(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		w.put(t, "a", `{"fake":{"v":2}}`)
		all, err := w.Revisions(t.Context(), "a")
		if err != nil || len(all) != 2 || all[0].Generation != 2 || !all[0].Current || all[1].Generation != 1 || all[1].Current ||
			string(all[1].Manifest.Spec.Block) != `{"v":1}` {
			t.Errorf("got %+v, %v", all, err)
		}
		if _, err := w.Revisions(t.Context(), "none"); !errors.Is(err, plugin.ErrNotFound) {
			t.Errorf("of nobody: got %v", err)
		}
	})
}

func TestPin_refusesAChangeOfTheSpec(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newStore())
		w.adapter.digest = "sha256:" + strings.Repeat("ab", 32)
		w.put(t, "a", `{"fake":{"v":1}}`)
		r, err := w.Pin(t.Context(), "a")
		if err != nil || r.Pin == nil || r.Pin.Generation != 1 || r.Pin.Digest != w.adapter.digest {
			t.Fatalf("got %+v, %v", r.Pin, err)
		}
		again, err := w.Pin(t.Context(), "a")
		if err != nil || again.Revision != r.Revision {
			t.Errorf("pinned twice: got revision %d after %d, %v", again.Revision, r.Revision, err)
		}
		if _, _, err := w.Put(t.Context(), manifest(t, "a", `{"fake":{"v":2}}`), store.Expect{}); !errors.Is(err, plugin.ErrConflict) ||
			!strings.Contains(err.Error(), "pinned to generation 1; to change it: patchbay unpin a") {
			t.Errorf("apply: got %v", err)
		}
		relabelled := manifest(t, "a", `{"fake":{"v":1}}`)
		relabelled.Metadata.Labels = map[string]string{"team": "edge"}
		if got, _, err := w.Put(t.Context(), relabelled, store.Expect{}); err != nil || got.Pin == nil {
			t.Errorf("a label: got %+v, %v", got.Pin, err)
		}
		synctest.Wait()
		if n := w.adapter.count("a"); n != 1 {
			t.Errorf("%d launches, want that a pin replaces nothing", n)
		}
		if _, err := w.Restart(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := w.adapter.asked; got != w.adapter.digest || w.adapter.count("a") != 2 {
			t.Errorf("restarted: launched with digest %q, want %q", got, w.adapter.digest)
		}
		if _, err := w.Unpin(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		w.put(t, "a", `{"fake":{"v":2}}`)
		if got := w.adapter.asked; got != "" {
			t.Errorf("unpinned: launched with digest %q, want none", got)
		}
	})
}
