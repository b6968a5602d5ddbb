package provider_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/adapters/provider"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// builtVar tells the tests where the tiny plugin was built.
const builtVar = "PROVIDER_TEST_PLUGIN"

func TestMain(m *testing.M) {
	proc.Child()
	if len(os.Args) > 1 && os.Args[1] == faultyArg {
		playFaulty(os.Args[2], os.Args[3:])
	}
	if len(os.Args) > 1 && os.Args[1] == daemonArg {
		playDaemon()
	}
	os.Exit(withPlugin(m))
}

// withPlugin builds test/plugins/provider once for all tests.
func withPlugin(m *testing.M) int {
	dir, err := os.MkdirTemp("", "provider-test-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "provider-demo")
	build := exec.Command("go", "build", "-o", binary, "../../test/plugins/provider")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	if err := os.Setenv(builtVar, binary); err != nil {
		panic(err)
	}
	return m.Run()
}

// demo is a manifest of the tiny plugin.
func demo(t testing.TB) plugin.Manifest {
	t.Helper()
	return manifestOf(t, provider.Spec{Command: []string{os.Getenv(builtVar)}})
}

func manifestOf(t testing.TB, s provider.Spec) plugin.Manifest {
	t.Helper()
	block, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return plugin.Manifest{
		APIVersion: plugin.APIVersion, Kind: plugin.Kind, Metadata: plugin.Metadata{Name: "demo"},
		Spec: plugin.Spec{Adapter: "provider", Block: block},
	}
}

func TestConformance(t *testing.T) {
	conformance.Run(t, conformance.Fixture{
		Adapter:  provider.New(provider.Options{}),
		Manifest: demo,
		Echo:     conformance.Call{Operation: "echo", Data: `{"n": @N@, "text": "ä\u0000", "big": 9007199254740993}`, Want: `{"n": @N@, "text": "ä\u0000", "big": 9007199254740993}`},
		Refuse:   conformance.Call{Operation: "refuse", Data: `{"message": "not @N@"}`, WantMessage: "not @N@"},
		Exit:     &conformance.Call{Operation: "exit", Data: `{"code": 3}`, WantCode: 3},
		Slow:     conformance.Call{Operation: "slow", Data: `{"milliseconds": 60000}`},
		Print:    conformance.Call{Operation: "print", Data: `{"text": "printed @N@"}`, Want: "printed @N@"},
		Process:  true, Limits: true,
	})
}
