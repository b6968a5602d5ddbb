package portable_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/adapters/portable"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// tiny is the built plugin of test/plugins/portable.
var tiny string

func TestMain(m *testing.M) {
	proc.Child()
	if misbehave, ok := fakes[filepath.Base(os.Args[0])]; ok && len(os.Args) == 2 && os.Args[1] == fakeArgument {
		if err := misbehave(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 2 && os.Args[1] == daemonArg {
		fmt.Fprintln(os.Stderr, playDaemon())
		os.Exit(1)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "portable")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	tiny = filepath.Join(dir, "tiny")
	build := exec.Command("go", "build", "-o", tiny, "../../test/plugins/portable")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// tinyManifest is a service of the tiny plugin.
func tinyManifest(t testing.TB) plugin.Manifest {
	t.Helper()
	block, err := json.Marshal(portable.Spec{
		Language: "go", Executable: tiny, Name: "tiny",
		Functions: []string{"print", "echo", "refuse", "exit", "slow"},
		Sources:   []string{"ticker"}, Sinks: []string{"print", "file"},
	})
	if err != nil {
		t.Fatal(err)
	}
	m := plugin.Manifest{APIVersion: plugin.APIVersion, Kind: plugin.Kind}
	m.Metadata.Name = "conformance"
	m.Spec.Adapter, m.Spec.Block = "portable", block
	return m
}

func TestConformance(t *testing.T) {
	conformance.Run(t, conformance.Fixture{
		Adapter:  portable.New(portable.Options{}),
		Manifest: tinyManifest,
		Echo:     conformance.Call{Operation: "echo", Data: `[{"n":@N@,"deep":[1,null,"ü"]}]`, Want: `{"n":@N@,"deep":[1,null,"ü"]}`},
		Refuse:   conformance.Call{Operation: "refuse", Data: `["not today @N@"]`, WantMessage: "not today @N@"},
		Exit:     &conformance.Call{Operation: "exit", Data: `[3]`, WantCode: 3},
		Slow:     conformance.Call{Operation: "slow", Data: `[60000]`},
		Print:    conformance.Call{Operation: "print", Data: `["line @N@"]`, Want: "line @N@"},
		Process:  true, Limits: true,
	})
}
