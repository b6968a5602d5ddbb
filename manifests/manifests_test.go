package manifests_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/patchbay-dev/patchbay/adapters"
	"github.com/patchbay-dev/patchbay/core/manifest"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/manifests"
)

const firstLine = "# yaml-language-server: $schema=../../schema/plugin.schema.json\n"

func parser() *manifest.Parser { return manifest.NewParser(adapters.All(adapters.Options{})...) }

func TestSchema_isCurrent(t *testing.T) {
	want, err := parser().Schema()
	if err != nil {
		t.Fatal(err)
	}
	got, err := manifests.Schema()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("schema/plugin.schema.json is not what the Go types say; run: go generate ./manifests")
	}
}

func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := manifests.Schema()
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource(manifest.SchemaID, document); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(manifest.SchemaID)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// asJSON gives a validator what an editor would see of a YAML document.
func asJSON(t *testing.T, text []byte) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	v, err = jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestExamples_areValid(t *testing.T) {
	examples, err := manifests.Examples()
	if err != nil {
		t.Fatal(err)
	}
	seen := allValid(t, "examples", examples)
	for _, a := range adapters.All(adapters.Options{}) {
		if !seen[a.Name()] {
			t.Errorf("adapter %s has no example in manifests/examples/%s", a.Name(), a.Name())
		}
	}
	allValid(t, "upstream", os.DirFS("upstream"))
}

// allValid checks every manifest of a folder, and returns the folders in it that
// have some.
func allValid(t *testing.T, folder string, files fs.FS) map[string]bool {
	t.Helper()
	s, p, seen, names := schema(t), parser(), map[string]bool{}, map[string]string{}
	err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".yaml" {
			return err
		}
		t.Run(path, func(t *testing.T) {
			for _, name := range example(t, s, p, filepath.Join(folder, path)) {
				if names[name] != "" {
					t.Errorf("name %s is also in %s: the examples are applied together", name, names[name])
				}
				names[name] = path
			}
		})
		seen[filepath.Dir(path)] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

// example checks one file and returns the names of its plugins.
func example(t *testing.T, s *jsonschema.Schema, p *manifest.Parser, path string) []string {
	t.Helper()
	file, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(text, []byte(firstLine)) {
		t.Errorf("the first line is not %q: editors do not find the schema", strings.TrimSpace(firstLine))
	}
	var names []string
	for document := range bytes.SplitSeq(text, []byte("\n---\n")) {
		if err := s.Validate(asJSON(t, document)); err != nil {
			t.Errorf("schema: %v", err)
		}
		var m struct{ Metadata struct{ Name string } }
		if err := yaml.Unmarshal(document, &m); err != nil {
			t.Error(err)
		}
		names = append(names, m.Metadata.Name)
	}
	if _, err := p.ParseFrom(path, filepath.Dir(file), text); unbuilt(err) != nil {
		t.Errorf("parser: %v", err)
	}
	return names
}

// unbuilt leaves out the faults that are only about what `make plugins` and
// `make upstream` build.
func unbuilt(err error) error {
	var faults, left plugin.Faults
	if !errors.As(err, &faults) {
		return err
	}
	for _, f := range faults {
		if !strings.Contains(f.Detail, "bin/plugins/") && !strings.Contains(f.Detail, "bin/upstream/") {
			left = append(left, f)
		}
	}
	return left.Err()
}

func TestFaulty_areRefusedByBoth(t *testing.T) {
	const head = "apiVersion: patchbay/v1\nkind: Plugin\nmetadata: {name: a}\n"
	const block = "spec:\n  starlark: {source: 'def f(): pass'}\n"
	if _, err := parser().Parse("", []byte(head+block)); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	s, p := schema(t), parser()
	if err := s.Validate(asJSON(t, []byte(head+block))); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	for name, text := range map[string]string{
		"no apiVersion":      strings.TrimPrefix(head, "apiVersion: patchbay/v1\n") + block,
		"other apiVersion":   strings.Replace(head, "v1", "v2", 1) + block,
		"other kind":         strings.Replace(head, "Plugin", "Pod", 1) + block,
		"no name":            strings.Replace(head, "name: a", "labels: {a: b}", 1) + block,
		"bad name":           strings.Replace(head, "name: a", "name: A_", 1) + block,
		"no spec":            head,
		"no adapter":         head + "spec: {mode: service}\n",
		"two adapters":       head + block + "  provider: {command: [a]}\n",
		"unknown in spec":    head + block + "  restarts: {}\n",
		"unknown in block":   head + "spec:\n  starlark: {source: 'x = 1', modul: x}\n",
		"wrong type":         head + block + "  limits: {inFlight: many}\n",
		"out of range":       head + block + "  probe: {failures: 5000}\n",
		"unknown word":       head + block + "  mode: jobs\n",
		"bad duration":       head + block + "  timeouts: {start: soon}\n",
		"duration as number": head + block + "  timeouts: {start: 5}\n",
		"bad size":           head + block + "  limits: {payload: lots}\n",
		"bad digest":         head + block + "  digest: md5:abc\n",
		"env list":           head + block + "  env: {A: [b]}\n",
		"env two keys":       head + block + "  env: {A: {secret: a, value: b}}\n",
		"stream of both":     head + block + "  streams: [{source: a, sink: b, publish: c, subscribe: d}]\n",
		"stream of neither":  head + block + "  streams: [{publish: c}]\n",
		"null":               head + block + "  limits:\n",
		"label number":       strings.Replace(head, "name: a", "name: a, labels: {v: 1}", 1) + block,
	} {
		t.Run(name, func(t *testing.T) {
			if err := s.Validate(asJSON(t, []byte(text))); err == nil {
				t.Errorf("the schema takes:\n%s", text)
			}
			if _, err := p.Parse("", []byte(text)); !errors.Is(err, plugin.ErrInvalid) {
				t.Errorf("the parser says %v to:\n%s", err, text)
			}
		})
	}
}

func TestFaulty_decodeHidesNoOthers(t *testing.T) {
	const head = "apiVersion: patchbay/v1\nkind: Plugin\nmetadata: {name: a}\nspec:\n"
	for name, tt := range map[string]struct {
		spec string
		want []string
	}{
		"portable": {"  portable: {language: cobol, functions: [a, a, 'b c']}\n  limits: {memory: 64KiB}\n  streams:\n    - {source: s, publish: p}\n    - {sink: k, subscribe: p}\n", []string{
			"spec.portable.language", "spec.portable.executable", "spec.portable.functions[1]", "spec.portable.functions[2]",
			"spec.limits.memory", "spec.streams[0].source", "spec.streams[1].sink"}},
		"container": {"  container: {image: 'A B', port: 99999, network: 'a b'}\n  limits: {memory: 1MiB}\n", []string{
			"spec.container.image", "spec.container.port", "spec.container.network", "spec.limits.memory"}},
		"container without image": {"  container: {prot: 80, network: 'a b'}\n", []string{
			"spec.container.image", "spec.container.prot", "spec.container.network"}},
		"starlark": {"  starlark: {source: 5}\n  limits: {memory: 1MiB}\n", []string{"spec.starlark.source", "spec.limits.memory"}},
		"goplugin": {"  goplugin: {command: 5}\n  mode: job\n", []string{"spec.goplugin.handshake", "spec.goplugin.command", "spec.mode"}},
		"provider": {"  provider: {command: [a, 5]}\n  mode: job\n", []string{"spec.provider.command[0]", "spec.provider.command[1]", "spec.mode"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parser().Parse("", []byte(head+tt.spec))
			var faults plugin.Faults
			if !errors.As(err, &faults) {
				t.Fatalf("got %v, want faults", err)
			}
			for _, want := range tt.want {
				if !slices.ContainsFunc(faults, func(f plugin.Fault) bool { return f.Path == want && f.Line > 0 }) {
					t.Errorf("no fault at %s in:\n%v", want, err)
				}
			}
			if len(faults) != len(tt.want) {
				t.Errorf("got %d faults, want %d:\n%v", len(faults), len(tt.want), err)
			}
		})
	}
}
