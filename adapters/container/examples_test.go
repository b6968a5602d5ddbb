package container_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/patchbay-dev/patchbay/core/manifest"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// example reads an example manifest, with the image that this run has built.
func example(t *testing.T, name string) plugin.Manifest {
	t.Helper()
	file := filepath.Join("../../manifests/examples/container", name)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.ReplaceAll(data, []byte("patchbay-test/echo:latest"), []byte(tag))
	list, err := manifest.NewParser(newAdapter(t)).Parse(file, data)
	if err != nil || len(list) != 1 {
		t.Fatalf("%s: got %d manifests, %v", name, len(list), err)
	}
	return list[0]
}

func TestExample_parrot(t *testing.T) {
	i, err := newAdapter(t).Launch(within(t), conformance.NewLaunch(t, example(t, "parrot.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = i.Stop(within(t)) }()
	res, err := i.Invoke(within(t), plugin.Invocation{Operation: "echo", Data: []byte(`{"hello": "box"}`)})
	if err != nil || string(res.Data) != `{"hello": "box"}` {
		t.Errorf("echo: got %s, %v", res.Data, err)
	}
}

func TestExample_adder(t *testing.T) {
	exit, out := run(t, example(t, "adder.yaml"), `{"numbers": [1, 2, 3.5]}`)
	if got := out.Text(plugin.Stdout); !exit.Success() || got != `{"sum":6.5}` {
		t.Errorf("got %q, %s", got, exit)
	}
}
