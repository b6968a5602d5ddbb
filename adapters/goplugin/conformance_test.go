package goplugin_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/patchbay-dev/patchbay/adapters/goplugin"
	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// plugins builds the tiny plugins into a folder, once, when a test first wants
// one: the workers of the fuzz tests, which are processes of their own, do not.
var plugins = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", tinyDir); err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-o", dir+"/", "../../test/plugins/goplugin/netrpc", "../../test/plugins/goplugin/grpc", "../../test/plugins/goplugin/shapes",
		"../../test/plugins/goplugin/sink", "../../test/plugins/goplugin/caller", "../../test/plugins/goplugin/shifty",
		"../../test/plugins/goplugin/reva/a", "../../test/plugins/goplugin/reva/b", "../../test/plugins/goplugin/reva/c")
	if out, err := build.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build: %w\n%s", err, out)
	}
	return dir, nil
})

// tinyDir begins the name of that folder, so that TestMain finds it without
// building anything.
var tinyDir = fmt.Sprintf("tiny-%d-", os.Getpid())

func TestMain(m *testing.M) {
	proc.Child()
	code := m.Run()
	built, _ := filepath.Glob(filepath.Join(os.TempDir(), tinyDir+"*"))
	for _, dir := range built {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// built returns the path of a tiny plugin.
func built(t testing.TB, which string) string {
	t.Helper()
	dir, err := plugins()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, which)
}

// manifest is a manifest whose block is spec.
func manifest(t testing.TB, spec goplugin.Spec) plugin.Manifest {
	t.Helper()
	block, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	return plugin.Manifest{
		APIVersion: plugin.APIVersion, Kind: plugin.Kind, Metadata: plugin.Metadata{Name: "tiny"},
		Spec: plugin.Spec{Adapter: "goplugin", Block: block},
	}
}

func cookie() goplugin.Handshake { return goplugin.Handshake{Key: "PATCHBAY_TINY", Value: "3f2c"} }

// netrpcSpec is the tiny net/rpc plugin, described.
func netrpcSpec(path string) goplugin.Spec {
	text := goplugin.Method{Args: "Text", Reply: "Text"}
	spec := goplugin.Spec{Command: []string{path}, Handshake: cookie(), Transport: "netrpc", Plugin: "tiny"}
	spec.Describe.Methods = map[string]goplugin.Method{
		"Echo": text, "Refuse": text, "Print": text,
		"Exit": {Args: "Code", Reply: "Text"}, "Slow": {Args: "Wait", Reply: "Text"},
		"Odd": {Args: "Text", Reply: "any"}, "Missing": text,
		"Wrong": {Args: "Code", Reply: "Text"},
	}
	spec.Describe.Types = goplugin.Types{
		"Text": {Fields: map[string]string{"Text": "string"}},
		"Code": {Fields: map[string]string{"Code": "int"}},
		"Wait": {Fields: map[string]string{"Milliseconds": "int64"}},
	}
	return spec
}

func TestConformance_netrpc(t *testing.T) {
	path := built(t, "netrpc")
	for _, tls := range []string{"off", "auto"} {
		t.Run("tls "+tls, func(t *testing.T) {
			spec := netrpcSpec(path)
			spec.TLS = tls
			conformance.Run(t, conformance.Fixture{
				Adapter:  goplugin.New(goplugin.Options{}),
				Manifest: func(t testing.TB) plugin.Manifest { return manifest(t, spec) },
				Echo:     conformance.Call{Operation: "Echo", Data: `{"Text":"@N@"}`, Want: `{"Text":"@N@"}`},
				Refuse:   conformance.Call{Operation: "Refuse", Data: `{"Text":"no @N@"}`, WantMessage: "no @N@"},
				Exit:     &conformance.Call{Operation: "Exit", Data: `{"Code":7}`, WantCode: 7},
				Slow:     conformance.Call{Operation: "Slow", Data: `{"Milliseconds":60000}`},
				Print:    conformance.Call{Operation: "Print", Data: `{"Text":"printed @N@"}`, Want: "printed @N@"},
				Process:  true, Limits: true,
			})
		})
	}
}

func TestConformance_grpc(t *testing.T) {
	path := built(t, "grpc")
	for _, tls := range []string{"off", "auto"} {
		t.Run("tls "+tls, func(t *testing.T) {
			spec := goplugin.Spec{Command: []string{path}, Handshake: cookie(), TLS: tls}
			conformance.Run(t, conformance.Fixture{
				Adapter:  goplugin.New(goplugin.Options{}),
				Manifest: func(t testing.TB) plugin.Manifest { return manifest(t, spec) },
				Echo:     conformance.Call{Operation: "Echo", Data: `{"text":"@N@"}`, Want: `{"text":"@N@"}`},
				Refuse:   conformance.Call{Operation: "patchbay.tiny.v1.Tiny/Refuse", Data: `{"text":"no @N@"}`, WantMessage: "no @N@"},
				Exit:     &conformance.Call{Operation: "Exit", Data: `{"code":7}`, WantCode: 7},
				Slow:     conformance.Call{Operation: "Slow", Data: `{"milliseconds":"60000"}`},
				Print:    conformance.Call{Operation: "Print", Data: `{"text":"printed @N@"}`, Want: "printed @N@"},
				Process:  true, Limits: true,
			})
		})
	}
}
