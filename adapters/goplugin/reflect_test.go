package goplugin_test

import (
	"context"
	"slices"
	"testing"

	"github.com/patchbay-dev/patchbay/adapters/goplugin"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// TestReflection_ofAnotherPluginOfTheName: what is asked because an earlier start led to
// it decides nothing. All plugins of manifest have one name.
func TestReflection_ofAnotherPluginOfTheName(t *testing.T) {
	adapter := goplugin.New(goplugin.Options{})
	defer adapter.Close()
	operations := func(spec goplugin.Spec) (names []string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		i, err := adapter.Launch(ctx, conformance.NewLaunch(t, manifest(t, spec)))
		if err != nil {
			t.Fatal(err)
		}
		all, err := i.(plugin.Describer).Describe(ctx)
		if err != nil {
			t.Error(err)
		}
		for _, o := range all {
			names = append(names, o.Name)
		}
		if err := i.Stop(ctx); err != nil {
			t.Error(err)
		}
		return names
	}
	tiny, sink := goplugin.Spec{Command: []string{built(t, "grpc")}, Handshake: cookie()}, sinkSpec(t)
	wantTiny, wantSink := operations(tiny), operations(sink)
	if !slices.Contains(wantTiny, "Tally") || slices.Contains(wantSink, "Tally") || len(wantSink) == 0 {
		t.Fatalf("got %v and %v", wantTiny, wantSink)
	}
	for range 2 { // with the other's questions, and with its own
		if got := operations(sink); !slices.Equal(got, wantSink) {
			t.Errorf("got %v, want %v", got, wantSink)
		}
	}
	for range 2 {
		if got := operations(tiny); !slices.Equal(got, wantTiny) {
			t.Errorf("got %v, want %v", got, wantTiny)
		}
	}
}
