package starlark_test

import (
	"path/filepath"
	"testing"

	"github.com/patchbay-dev/patchbay/adapters/starlark"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

func tiny(t testing.TB) plugin.Manifest {
	t.Helper()
	source, err := filepath.Abs("../../test/plugins/starlark")
	if err != nil {
		t.Fatal(err)
	}
	return plugin.Manifest{
		APIVersion: plugin.APIVersion, Kind: plugin.Kind,
		Metadata: plugin.Metadata{Name: "tiny", Source: source},
		Spec:     plugin.Spec{Adapter: "starlark", Block: plugin.RawJSON(`{"module":"tiny.star"}`)},
	}
}

func TestConformance(t *testing.T) {
	conformance.Run(t, conformance.Fixture{
		Adapter:  starlark.New(),
		Manifest: tiny,
		Echo:     conformance.Call{Operation: "echo", Data: `{"n": @N@, "big": 123456789012345678901234567890}`, Want: `{"n": @N@, "big": 123456789012345678901234567890}`},
		Refuse:   conformance.Call{Operation: "refuse", Data: `"not today"`, WantMessage: "not today"},
		Slow:     conformance.Call{Operation: "slow", Data: `100000`},
		Print:    conformance.Call{Operation: "print_text", Data: `"hello from starlark"`, Want: "hello from starlark"},
	})
}
