package manifest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/patchbay-dev/patchbay/core/manifest"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// toy is an adapter that launches nothing and has a field of every kind.
type toy struct{ name string }

type toyBlock struct {
	Command  []string          `json:"command,omitempty" doc:"Program and arguments." required:"true"`
	Kind     string            `json:"kind,omitempty" enum:"small,large"`
	Kinds    []string          `json:"kinds,omitempty" enum:"small,large"`
	Count    int               `json:"count,omitempty" min:"1" max:"9"`
	Small    uint8             `json:"small,omitempty"`
	Ratio    float64           `json:"ratio,omitempty"`
	On       *bool             `json:"on,omitempty"`
	Every    plugin.Duration   `json:"every,omitempty"`
	Size     plugin.Bytes      `json:"size,omitempty"`
	Params   map[string]any    `json:"params,omitempty"`
	Raw      plugin.RawJSON    `json:"raw,omitempty"`
	Words    map[string]string `json:"words,omitempty"`
	Nested   []toyNested       `json:"nested,omitempty"`
	Env      plugin.EnvValue   `json:"env,omitzero"`
	Embedded `json:",omitempty"`
}

type toyNested struct {
	Path string `json:"path"`
}

// Embedded is in the block without a key of its own.
type Embedded struct {
	Extra string `json:"extra,omitempty"`
}

func (t toy) Name() string { return t.name }
func (t toy) Spec() any    { return &toyBlock{} }
func (t toy) Check(m plugin.Manifest) error {
	var b toyBlock
	if err := manifest.Decode(m, &b); err != nil {
		return err
	}
	var faults plugin.Faults
	if len(b.Command) > 0 && strings.HasPrefix(b.Command[0], "missing") {
		faults.Add("spec.toy.command[0]", "%s: no such file", b.Command[0])
	}
	return faults.Err()
}
func (t toy) Launch(context.Context, plugin.Launch) (plugin.Instance, error) {
	return nil, errors.New("a toy")
}

func parser() *manifest.Parser { return manifest.NewParser(toy{"toy"}, toy{"other"}) }

const good = `apiVersion: patchbay/v1
kind: Plugin
metadata:
  name: incrementer
  labels: {team: edge, example.org/tier: "1"}
spec:
  toy:
    command: [bin/incrementer]
    params: {incrementer/step: 2, big: 123456789012345678901234567890}
  env:
    API_KEY: {secret: vendor/key}
    PORT: 0x1F
    VERSION: 1.10
    ON: True
  restart: {policy: always, backoff: {min: 250ms, max: 60s}, budget: {failures: 5, window: 10m}}
  limits: {inFlight: 64, payload: 16MiB}
  timeouts: {start: 15s}
  streams:
    - {source: random, config: {interval: 100}, publish: sensors.random}
    - {sink: file, subscribe: sensors.>}
`

func TestParse_readsAManifest(t *testing.T) {
	ms, err := parser().Parse("a.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	m := ms[0]
	if m.Metadata.Name != "incrementer" || m.Spec.Adapter != "toy" || m.Spec.Limits.Payload != 16<<20 {
		t.Errorf("got %+v", m)
	}
	if got, want := string(m.Spec.Block), `{"command":["bin/incrementer"],"params":{"incrementer/step":2,"big":123456789012345678901234567890}}`; got != want {
		t.Errorf("block: got %s, want %s", got, want)
	}
	want := map[string]plugin.EnvValue{"API_KEY": {Secret: "vendor/key"}, "PORT": {Value: "0x1F"}, "VERSION": {Value: "1.10"}, "ON": {Value: "True"}}
	if diff := cmp.Diff(want, m.Spec.Env); diff != "" {
		t.Errorf("env (-want +got):\n%s", diff)
	}
	if m.Spec.Restart.Backoff.Max.Std() != time.Minute || string(m.Spec.Streams[0].Config) != `{"interval":100}` {
		t.Errorf("got %+v", m.Spec)
	}
	var b toyBlock
	if err := manifest.Decode(m, &b); err != nil || b.Params["big"] != json.Number("123456789012345678901234567890") {
		t.Errorf("got %v, %v", b.Params, err)
	}
}

func TestParse_takesJSONWithTabs(t *testing.T) {
	ms, err := parser().Parse("", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.MarshalIndent(ms[0], "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	again, err := parser().Parse("a.json", append(text, text2(t, ms[0], "second")...))
	if err != nil {
		t.Fatal(err)
	}
	if len(again) != 2 || again[1].Metadata.Name != "second" {
		t.Fatalf("got %d documents", len(again))
	}
	if diff := manifest.Diff(ms[0], again[0]); len(diff) > 0 {
		t.Errorf("got changes %v, want none", diff)
	}
}

func text2(t *testing.T, m plugin.Manifest, name string) []byte {
	t.Helper()
	m.Metadata.Name = name
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestParse_severalDocuments(t *testing.T) {
	second := strings.Replace(good, "name: incrementer", "name: second", 1)
	ms, err := parser().Parse("a.yaml", []byte("# a comment\n---\n"+good+"---\n---\n"+second+"---\n# the end\n"))
	if err != nil || len(ms) != 2 {
		t.Fatalf("got %d manifests, %v", len(ms), err)
	}
	_, err = parser().Parse("a.yaml", []byte(good+"---\n"+good))
	if err == nil || !strings.Contains(err.Error(), `a.yaml:25:9: metadata.name: "incrementer" is also the name of document 1`) {
		t.Errorf("got %v", err)
	}
}

func TestParse_anchorsAndMerge(t *testing.T) {
	ms, err := parser().Parse("", []byte(`{apiVersion: patchbay/v1, kind: Plugin, metadata: {name: a, annotations: {x: &x bin/a}},
 spec: {toy: {command: [*x], params: {base: &b {k: 1, l: 2}, more: {<<: *b, l: 3}}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(ms[0].Spec.Block), `{"command":["bin/a"],"params":{"base":{"k":1,"l":2},"more":{"l":3,"k":1}}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// with returns a good manifest with spec lines of its own.
func with(spec string) string {
	return "apiVersion: patchbay/v1\nkind: Plugin\nmetadata: {name: a}\nspec:\n" + spec
}

const cmdLine = "  toy: {command: [x]}\n"

func TestParse_faults(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     []string
	}{
		{"unknown field", with("  toy: {comand: [x]}\n"), []string{
			`m:5:9: spec.toy.comand: unknown field; did you mean "command"?`,
			`m:5:3: spec.toy.command: is missing; it is: Program and arguments`}},
		{"unknown in core", with(cmdLine + "  limits: {memroy: 1}\n"), []string{`m:6:12: spec.limits.memroy: unknown field; did you mean "memory"?`}},
		{"unknown and far", with(cmdLine + "  zzzzzzzz: 1\n"), []string{`m:6:3: spec.zzzzzzzz: unknown field; known here: mode, lifetime, env, `}},
		{"misspelt adapter", with("  tooy: {command: [x]}\n"), []string{`m:5:3: spec.tooy: unknown field; did you mean "toy"?`}},
		{"no adapter", with("  mode: service\n"), []string{`m:4:1: spec: names no adapter; give exactly one of other, toy`}},
		{"two adapters", with("  toy: {command: [x]}\n  other: {command: [x]}\n"), []string{`m:6:3: spec.other: is a second adapter beside toy; keep one`}},
		{"same adapter twice", with("  toy: {command: [x]}\n  toy: {command: [x]}\n"), []string{`m:6:3: spec.toy: stands here a second time`}},
		{"from the adapter's check", with("  toy:\n    command: [missing/x]\n"), []string{`m:6:15: spec.toy.command[0]: missing/x: no such file`}},
		{"empty block", with("  toy:\n"), []string{`m:5:`, `spec.toy: is empty; want an object`}},
		{"bad duration", with(cmdLine + "  timeouts: {start: 5}\n"), []string{`m:6:21: spec.timeouts.start: "5" is not a duration; write a number and a unit`}},
		{"bad size", with(cmdLine + "  limits: {payload: lots}\n"), []string{`m:6:21: spec.limits.payload: "lots" is not a size`}},
		{"too large payload", with(cmdLine + "  limits: {payload: 65MiB}\n"), []string{`m:6:21: spec.limits.payload: 68157440 bytes is too large; the most is 64MiB`}},
		{"logs age", with(cmdLine + "  logs: {maxAge: 100ms}\n"), []string{`spec.logs.maxAge: 100ms is out of range; write 1s to 168h`}},
		{"logs size", with(cmdLine + "  logs: {maxSize: 64KiB}\n"), []string{`spec.logs.maxSize: 65536 bytes is out of range; write 1MiB to 2GiB`}},
		{"log rate", with(cmdLine + "  limits: {logRate: -1}\n"), []string{`spec.limits.logRate: -1 is too small; the least is 0`}},
		{"number for text", with("  toy: {command: [1.50]}\n"), []string{`m:5:19: spec.toy.command[0]: want a text, not a number; quote it: "1.50"`}},
		{"text for list", with("  toy: {command: x}\n"), []string{`m:5:18: spec.toy.command: want a list, not a text; write [x]`}},
		{"number for list", with("  toy: {command: 5}\n"), []string{`m:5:18: spec.toy.command: want a list, not a number; write [5]`}},
		{"enum", with("  toy: {command: [x], kind: larg}\n"), []string{`m:5:29: spec.toy.kind: "larg" is unknown; did you mean "large"?; want one of small, large`}},
		{"enum in list", with("  toy: {command: [x], kinds: [small, tiny]}\n"), []string{`spec.toy.kinds[1]: "tiny" is unknown`}},
		{"min", with("  toy: {command: [x], count: 0}\n"), []string{`spec.toy.count: 0 is too small; the least is 1`}},
		{"max", with("  toy: {command: [x], count: 10}\n"), []string{`spec.toy.count: 10 is too large; the most is 9`}},
		{"not whole", with("  toy: {command: [x], count: 1.5}\n"), []string{`spec.toy.count: 1.5 does not fit; want a whole number`}},
		{"does not fit", with("  toy: {command: [x], small: 256}\n"), []string{`spec.toy.small: 256 does not fit; want a whole number, zero or more`}},
		{"not a boolean", with("  toy: {command: [x], on: yes}\n"), []string{`spec.toy.on: want a boolean, not a text`}},
		{"null", with("  toy: {command: [x], every: }\n"), []string{`spec.toy.every: is empty; want a text, or leave the key out`}},
		{"infinite", with("  toy: {command: [x], params: {a: .inf}}\n"), []string{`m:5:35: ".inf" is not a number that JSON has`}},
		{"duplicate", with("  toy: {command: [x], ratio: 1, ratio: 2}\n"), []string{`m:5:40: spec.toy.ratio: stands here a second time; keep one of them`}},
		{"duplicate in free", with("  toy: {command: [x], params: {k: {a: 1, a: 2}}}\n"), []string{`m:5:`, `spec.toy.params.k.a: stands here a second time`}},
		{"env name", with(cmdLine + "  env: {A-B: x, \"\": y}\n"), []string{`spec.env.A-B: is no name of a variable`, `spec.env[""]: is no name of a variable`}},
		{"env NUL", with(cmdLine + "  env: {A: \"a\\0b\"}\n"), []string{`spec.env.A: holds a NUL`}},
		{"env size", with(cmdLine + "  env: {A: " + strings.Repeat("x", 128<<10) + "}\n"), []string{`spec.env.A: has 131072 bytes, the most is 131072`}},
		{"env object", with(cmdLine + "  env: {A: {secret: x, other: y}}\n"), []string{`m:6:12: spec.env.A: want a text or {secret: NAME}, and nothing beside secret`}},
		{"secret climbs", with(cmdLine + "  env: {A: {secret: a/../b}}\n"), []string{`spec.env.A: secret "a/../b" is no name of a secret`}},
		{"secret case", with(cmdLine + "  env: {A: {secret: Upper}}\n"), []string{`spec.env.A: secret "Upper" is no name of a secret`}},
		{"backoff", with(cmdLine + "  restart: {backoff: {min: 2m}}\n"), []string{`m:6:13: spec.restart.backoff: min 2m0s is more than max 1m0s`}},
		{"budget", with(cmdLine + "  restart: {budget: {failures: -2}}\n"), []string{`spec.restart.budget.failures: -2 is too small; the least is -1`}},
		{"digest", with(cmdLine + "  digest: sha256:abc\n"), []string{`m:6:11: spec.digest: "sha256:abc" is no digest; write sha256: and 64 hex digits`}},
		{"stream both", with(cmdLine + "  streams: [{source: a, sink: b}]\n"), []string{`m:6:13: spec.streams[0]: has both source and sink`}},
		{"stream neither", with(cmdLine + "  streams: [{publish: b}]\n"), []string{`spec.streams[0]: has neither source nor sink`}},
		{"stream other's", with(cmdLine + "  streams: [{source: a, publish: b, subscribe: c}]\n"), []string{`spec.streams[0].subscribe: belongs to a sink`}},
		{"stream unnamed", with(cmdLine + "  streams: [{source: a}]\n"), []string{`spec.streams[0].publish: is missing`}},
		{"stream wildcard", with(cmdLine + "  streams: [{source: a, publish: b.*}]\n"), []string{`m:6:34: spec.streams[0].publish: "b.*" has a wildcard`}},
		{"stream name", with(cmdLine + "  streams: [{sink: a, subscribe: b.>.c}, {sink: b, subscribe: a b}]\n"), []string{`spec.streams[0].subscribe: "b.>.c" is no data name`, `spec.streams[1].subscribe: "a b" is no data name`}},
		{"stream config", with(cmdLine + "  streams: [{sink: a, subscribe: b, config: [1]}]\n"), []string{`m:6:37: spec.streams[0].config: want an object`}},
		{"job", with(cmdLine + "  mode: job\n  restart: {policy: never}\n  probe: {failures: 2}\n  streams: [{sink: a, subscribe: b}]\n"), []string{
			`m:7:3: spec.restart: is for services`, `m:8:3: spec.probe: is for services`, `m:9:3: spec.streams: is for services`}},
		{"update", with(cmdLine + "  update: overlap\n"), []string{`m:6:11: spec.update: cannot be overlap: two instances of a toy plugin cannot be there at the same time; leave it out`}},
		{"mode", with(cmdLine + "  mode: jop\n"), []string{`spec.mode: "jop" is unknown; did you mean "job"?; want one of service, job`}},
		{"metadata", "apiVersion: v1\nkind: Pod\nmetadata: {name: A_b, labels: {'a b': c, d: 'e f', /x: y}, source: rel}\nspec: {toy: {command: [x]}}\n", []string{
			`m:1:13: apiVersion: is "v1"; write patchbay/v1`, `m:2:7: kind: is "Pod"; write Plugin`,
			`m:3:18: metadata.name: "A_b" is no name`, `metadata.labels["a b"]: is no key`, `metadata.labels.d: "e f" is no label value`,
			`metadata.labels["/x"]: the part before the slash`, `metadata.source: "rel" is relative`}},
		{"label value number", "apiVersion: patchbay/v1\nkind: Plugin\nmetadata: {name: a, labels: {v: 1}}\nspec: {toy: {command: [x]}}\n", []string{
			`m:3:33: metadata.labels.v: want a text, not a number; quote it: "1"`}},
		{"tab", with("\ttoy: {command: [x]}\n"), []string{`m:5:1: is not YAML: a tab stands in the indentation; use spaces`}},
		{"yaml syntax", with("  toy: {command: [x\n"), []string{`is not YAML: `}},
		{"json syntax", "{\n\t\"apiVersion\": \"patchbay/v1\",\n\t\"kind\" \"Plugin\"\n}", []string{`m:3:9: is not JSON: found '"' after a key; write a colon`}},
		{"unknown anchor", with("  toy: *nobody\n"), []string{`unknown anchor 'nobody' referenced`}},
		{"cycle", with("  toy: &t {command: [x], params: {a: *t}}\n"), []string{`m:5:38: alias *t leads back to itself; write the value out`}},
		{"cycle by merge", with("  toy: &t {command: [x], <<: *t}\n"), []string{`alias *t leads back to itself`}},
		{"bomb", bomb(), []string{`has more than 100000 nodes with its aliases expanded`}},
		{"merge bomb", mergeBomb(), []string{`merges too much; write the fields out`}},
		{"deep", with("  toy: {command: [x], params: {a: " + strings.Repeat("[", 200) + strings.Repeat("]", 200) + "}}\n"), []string{`is nested more than 100 levels deep; flatten it`}},
		{"deep by aliases", deep(), []string{`levels deep with its aliases expanded`}},
		{"deep for the library", strings.Repeat("[", 20_000), []string{`m:1:1: is nested more than 100 levels deep; flatten it`}},
		{"deep later", with("  toy: " + strings.Repeat("{a: ", 20_000)), []string{`is nested more than 100 levels deep; flatten it`}},
		{"deep JSON", "{\n\"a\": " + strings.Repeat("[", 200) + strings.Repeat("]", 200) + "}", []string{`m:2:105: is nested more than 100 levels deep; flatten it`}},
		{"UTF-16 with a mark", "\xff\xfea\x00:\x00", []string{`m:1:1: looks like UTF-16; write UTF-8`}},
		{"UTF-16 without", "\x00a\x00:\x00 \x00b", []string{`m:1:1: looks like UTF-16; write UTF-8`}},
		{"binary", "\x7fELF\x02\x01\x01\x00\x00\x00", []string{`m:1:1: looks like a binary file, not a manifest; write UTF-8`}},
		{"binary without NUL", "\x1f\x8b\x08\xff\xe9", []string{`m:1:1: looks like a binary file, not a manifest; write UTF-8`}},
		{"Latin-1", with("  toy: {command: [caf\xe9]}\n"), []string{`m:5:22: is not UTF-8: byte 0xE9 looks like an older encoding such as Latin-1; write UTF-8`}},
		{"control", with("  toy: {command: [a\x01]}\n"), []string{`m:5:20: is not YAML: a control character stands here; take it out`}},
		{"syntax in the first line", "kind: [", []string{`m:1:1: is not YAML: `}},
		{"tag", with("  toy: !!binary aGVsbG8=\n"), []string{`m:5:8: tag "!!binary" is not known here; leave it out`}},
		{"too large", strings.Repeat("# a comment line\n", 1<<17), []string{`m: has 2228224 bytes, the most is 1048576; split it into several files`}},
		{"empty", "# nothing\n", []string{`m: holds no manifest; write apiVersion: patchbay/v1`}},
		{"a list", "- a\n", []string{`m:1:1: want an object, not a list`}},
		{"a text", "hello\n", []string{`m:1:1: want an object, not a text`}},
		{"key is a list", "? [a]\n: b\n", []string{`a key must be a text`}},
		{"too many documents", strings.Repeat("--- 1\n", 1001), []string{`more than 100 faults`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Now()
			ms, err := parser().Parse("m", []byte(tt.in))
			var faults plugin.Faults
			if !errors.As(err, &faults) || !errors.Is(err, plugin.ErrInvalid) || ms != nil {
				t.Fatalf("got %v, %v, want faults", ms, err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got:\n%v\nwant: %s", err, want)
				}
			}
			if strings.HasPrefix(tt.want[0], "m:") && len(faults) > len(tt.want) {
				t.Errorf("got %d faults, want %d:\n%v", len(faults), len(tt.want), err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// strict is an adapter whose Check says nothing more when its block cannot be
// decoded, as most do.
type strict struct{}

type strictBlock struct {
	Language string         `json:"language" required:"true" enum:"go,python"`
	Image    string         `json:"image" required:"true"`
	Port     int            `json:"port,omitempty" min:"1" max:"65535"`
	Python   string         `json:"python,omitempty"`
	Names    []string       `json:"names,omitempty"`
	Source   string         `json:"source,omitempty"`
	Module   string         `json:"module,omitempty"`
	Parts    []strictNested `json:"parts,omitempty"`
	Raw      plugin.RawJSON `json:"raw,omitempty"`
}

type strictNested struct {
	Name  string          `json:"name" required:"true"`
	Every plugin.Duration `json:"every" required:"true"`
}

func (strict) Name() string { return "strict" }
func (strict) Spec() any    { return &strictBlock{} }
func (strict) Check(m plugin.Manifest) error {
	var b strictBlock
	if err := manifest.Decode(m, &b); err != nil {
		return err
	}
	var faults plugin.Faults
	if !strings.HasPrefix(b.Image, "img") {
		faults.Add("spec.strict.image", "%q is no image", b.Image)
	}
	if b.Port == 0 {
		faults.Add("spec.strict.port", "is missing")
	}
	if b.Language == "go" && b.Python != "" {
		faults.Add("spec.strict.python", "only goes with python")
	}
	if len(b.Names) == 0 {
		faults.Add("spec.strict", "declares nothing")
	}
	for i, name := range b.Names {
		if len(name) != 1 {
			faults.Add(fmt.Sprintf("spec.strict.names[%d]", i), "%q is no name", name)
		}
	}
	for i, part := range b.Parts {
		if len(part.Name) != 1 {
			faults.Add(fmt.Sprintf("spec.strict.parts[%d].name", i), "%q is no name", part.Name)
		}
	}
	if b.Module == "" && b.Source == "" {
		faults.Add("spec.strict.module", "is missing; give it, or source")
	}
	for i, s := range m.Spec.Streams {
		if b.Names == nil || s.Source != b.Names[0] {
			faults.Add(fmt.Sprintf("spec.streams[%d].source", i), "%q is not declared; add it to spec.strict.names", s.Source)
		}
	}
	if m.Spec.Limits.Memory != 0 {
		faults.Add("spec.limits.memory", "is not enforced")
	}
	return faults.Err()
}
func (strict) Launch(context.Context, plugin.Launch) (plugin.Instance, error) {
	return nil, errors.New("strict")
}

func TestParse_decodeFaultsHideNoOthers(t *testing.T) {
	const streams = "  streams: [{source: z, publish: p}]\n"
	for _, tt := range []struct {
		name, block, rest string
		want              []string
	}{
		{"enum", "language: cobol, image: no, port: 1, python: p, names: [aa, bb], module: m", streams + "  limits: {memory: 1MiB}\n", []string{
			"strict.language", "strict.image", "strict.names[0]", "strict.names[1]", "streams[0].source", "limits.memory"}},
		{"required and missing", "image: no, names: [aa], module: m", "", []string{"strict.language", "strict.image", "strict.port", "strict.names[0]"}},
		{"out of range", "language: go, image: no, port: 99999, names: [aa], module: m", "", []string{"strict.image", "strict.port", "strict.names[0]"}},
		{"unknown", "language: go, imag: no, image: no, port: 1, names: [a]", "", []string{"strict.imag", "strict.image", "strict.module"}},
		{"lack of what was meant", "language: go, image: img, prt: 1, nmes: [a], sorce: s", "", []string{"strict.prt", "strict.nmes", "strict.sorce"}},
		{"lack of what was dropped", "language: go, image: img, port: 1, names: x, source: 5", streams, []string{"strict.names", "strict.source"}},
		{"item of a list", "language: go, image: img, port: 1, names: [aa, 5, bb], module: m", "", []string{"strict.names[0]", "strict.names[1]", "strict.names[2]"}},
		{"object in a list", "language: go, image: img, port: 1, names: [a], module: m, parts: [{name: aa, every: 5}, 7, {name: bb, every: 1s}]", "", []string{
			"strict.parts[0].name", "strict.parts[0].every", "strict.parts[1]", "strict.parts[2].name"}},
		{"duplicate", "language: go, image: no, image: img, port: 1, names: [a], module: m", "", []string{"strict.image", "strict.image"}},
		{"duplicate in raw", "language: go, image: no, port: 1, names: [a], module: m, raw: {a: 1, a: 2}", "", []string{"strict.image", "strict.raw.a"}},
		{"second adapter", "image: no, port: 1, names: [a], module: m", "  toy: {command: [x]}\n", []string{"strict.language", "strict.image", "toy"}},
		{"no object", "", "", []string{"strict"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := with("  strict: {" + tt.block + "}\n" + tt.rest)
			if tt.block == "" {
				in = with("  strict: 5\n")
			}
			_, err := manifest.NewParser(strict{}, toy{"toy"}).Parse("m", []byte(in))
			var faults plugin.Faults
			errors.As(err, &faults)
			var got []string
			for i, f := range faults {
				got = append(got, strings.TrimPrefix(f.Path, "spec."))
				if f.Line == 0 || i > 0 && f.Line < faults[i-1].Line {
					t.Errorf("%v: no line, or not in order", f)
				}
			}
			less := func(a, b string) bool { return a < b }
			if diff := cmp.Diff(tt.want, got, cmpopts.SortSlices(less)); diff != "" {
				t.Errorf("(-want +got):\n%s\n%v", diff, err)
			}
		})
	}
}

func TestCheck_decodeFaultsHideNoOthers(t *testing.T) {
	m := plugin.Manifest{APIVersion: plugin.APIVersion, Kind: plugin.Kind, Metadata: plugin.Metadata{Name: "a"},
		Spec: plugin.Spec{Adapter: "strict", Block: plugin.RawJSON(`{"language":"c","image":"no","port":1,"names":["a"],"module":"m"}`)}}
	err := manifest.NewParser(strict{}).Check(m)
	var faults plugin.Faults
	if !errors.As(err, &faults) || len(faults) != 2 || faults[1].Path != "spec.strict.image" {
		t.Errorf("got %v, want faults of language and image", err)
	}
}

func bomb() string {
	var b strings.Builder
	b.WriteString(with("  toy: {command: [x], params: {a: &a0 [x, x, x, x, x, x, x, x, x, x]"))
	for i := 1; i < 30; i++ {
		fmt.Fprintf(&b, ", a%d: &a%d [%s*a%d]", i, i, strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 9), i-1)
	}
	return b.String() + "}}\n"
}

func mergeBomb() string {
	var b strings.Builder
	b.WriteString(with("  toy: {command: [x], params: {a: &a {"))
	for i := range 1000 {
		fmt.Fprintf(&b, "k%d: 1, ", i)
	}
	b.WriteString("}, l: [")
	b.WriteString(strings.Repeat("{<<: *a}, ", 20_000))
	return b.String() + "]}}\n"
}

func deep() string {
	var b strings.Builder
	b.WriteString(with("  toy: {command: [x], params: {a0: &a0 [x]"))
	for i := 1; i < 200; i++ {
		fmt.Fprintf(&b, ", a%d: &a%d [*a%d]", i, i, i-1)
	}
	return b.String() + "}}\n"
}

func TestParse_tooManyDocuments(t *testing.T) {
	var b strings.Builder
	for i := range 1001 {
		fmt.Fprintf(&b, "---\n{apiVersion: patchbay/v1, kind: Plugin, metadata: {name: p%d}, spec: {toy: {command: [x]}}}\n", i)
	}
	_, err := parser().Parse("m", []byte(b.String()))
	if err == nil || !strings.Contains(err.Error(), "has more than 1000 documents; split it into several files") {
		t.Errorf("got %v", err)
	}
}

func TestJob_storedByAnEarlierDaemonIsTaken(t *testing.T) {
	_, err := parser().Parse("m", []byte(with(cmdLine+`  mode: job
  restart: {policy: always, backoff: {min: 250ms, max: 1m}, budget: {failures: 5, window: 10m}}
  probe: {interval: 10s, timeout: 1s, failures: 3}
`)))
	if err != nil {
		t.Errorf("the defaults of before: got %v", err)
	}
}

func TestCheck_decodedManifests(t *testing.T) {
	m := plugin.Manifest{APIVersion: plugin.APIVersion, Kind: plugin.Kind, Metadata: plugin.Metadata{Name: "a"},
		Spec: plugin.Spec{Mode: "jop", Adapter: "toy", Block: plugin.RawJSON(`{"command":["x"],"extra":1}`), Probe: plugin.Probe{Failures: 5000}}}
	want := []string{`spec.toy.extra: want a text, not a number`, `spec.mode: "jop" is unknown`, `spec.probe.failures: 5000 is too large`}
	err := parser().Check(m)
	for _, w := range want {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("got %v, want %s", err, w)
		}
	}
	m.Spec = plugin.Spec{Adapter: "tos", Block: plugin.RawJSON(`{}`)}
	if err := parser().Check(m); err == nil || err.Error() != `spec.tos: is no adapter; did you mean "toy"?; known: other, toy` {
		t.Errorf("got %v", err)
	}
	m.Spec = plugin.Spec{Adapter: "toy", Block: plugin.RawJSON(`{"command":["x"]}`)}
	if err := parser().Check(m.WithDefaults()); err != nil {
		t.Errorf("with defaults: got %v", err)
	}
}

// What is stored is what was parsed, with its defaults; what another version wrote, or
// somebody else, is a fault, and the machine is not asked.
func TestCheckStored(t *testing.T) {
	ms, err := parser().Parse("", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	stored, err := json.Marshal(ms[0].WithDefaults())
	if err != nil {
		t.Fatal(err)
	}
	if err := parser().CheckStored(stored); err != nil {
		t.Errorf("got %v of our own", err)
	}
	for _, tt := range []struct{ old, new, want string }{
		{`"patchbay/v1"`, `"patchbay/v2"`, "apiVersion: is \"patchbay/v2\""},
		{`"spec":{`, `"spec":{"quantum":true,`, "spec.quantum"},
		{`"restart":{`, `"restart":{"jitter":"none",`, "spec.restart.jitter"},
		{`"toy":`, `"tos":`, "spec.tos"},
		{`"inFlight":64`, `"inFlight":-64`, "spec.limits.inFlight"},
		{`"start":"15s"`, `"start":"-15s"`, "spec.timeouts.start"},
		{`"name":"incrementer"`, `"name":"../x"`, "metadata.name"},
		{`["bin/incrementer"]`, `["missing"]`, ""},
		{string(stored), `[]`, "want"},
		{string(stored), ``, "holds 0 manifests"},
		{string(stored), `{`, "is not JSON"},
		{string(stored), string(stored) + string(stored), "holds 2 manifests"},
	} {
		text := strings.Replace(string(stored), tt.old, tt.new, 1)
		if text == string(stored) {
			t.Fatalf("%s is not in %s", tt.old, stored)
		}
		err := parser().CheckStored([]byte(text))
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", tt.new, err, tt.want)
		}
	}
}

func TestDiff(t *testing.T) {
	ms, err := parser().Parse("", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.NewReplacer("start: 15s", "start: 20s", "[bin/incrementer]", "[bin/inc, -v]", "team: edge, ", "", "VERSION: 1.10", "NEW: x").Replace(good)
	others, err := parser().Parse("", []byte(changed))
	if err != nil {
		t.Fatal(err)
	}
	want := []manifest.Change{
		{Path: "metadata.labels.team", Old: `"edge"`},
		{Path: "spec.env.NEW", New: `"x"`, Restarts: true},
		{Path: "spec.env.VERSION", Old: `"1.10"`, Restarts: true},
		{Path: "spec.timeouts.start", Old: `"15s"`, New: `"20s"`},
		{Path: "spec.toy.command", Old: `["bin/incrementer"]`, New: `["bin/inc","-v"]`, Restarts: true},
	}
	if diff := cmp.Diff(want, manifest.Diff(ms[0], others[0])); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := manifest.Diff(ms[0], ms[0].WithDefaults()); len(got) > 0 {
		t.Errorf("defaults written out: got %v, want no change", got)
	}
	logs := ms[0]
	logs.Spec.Logs = plugin.Logs{MaxAge: plugin.Duration(time.Hour), MaxSize: 1 << 20}
	logs.Spec.Limits.LogRate, logs.Spec.Update = 100, plugin.Replace
	for _, c := range manifest.Diff(ms[0], logs) {
		if c.Restarts {
			t.Errorf("%s: restarts a plugin, want that it holds at once", c.Path)
		}
	}
	if got := manifest.Diff(plugin.Manifest{}, ms[0]); len(got) == 0 || got[0].Old != "" {
		t.Errorf("new manifest: got %v", got)
	}
}

func TestSchema_isStable(t *testing.T) {
	one, err := parser().Schema()
	if err != nil {
		t.Fatal(err)
	}
	two, _ := parser().Schema()
	if string(one) != string(two) || !json.Valid(one) {
		t.Error("differs from call to call, or is not JSON")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(`{"apiVersion":"patchbay/v1","kind":"Plugin","metadata":{"name":"a"},"spec":{"toy":{"command":["x"]}}}`))
	f.Add([]byte(deep()))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("- - - -\n# x\n  # y\n"))
	f.Add([]byte("--- !!map\n<<: {a: b}\n"))
	p := parser()
	f.Fuzz(func(t *testing.T, data []byte) {
		ms, err := p.Parse("f", data)
		if (err == nil) == (ms == nil) {
			t.Fatalf("got %v and %v", ms, err)
		}
		for _, m := range ms {
			text, err := json.Marshal(m)
			if err != nil {
				t.Fatalf("marshal: %v", err)
			}
			again, err := p.Parse("f", text)
			if err != nil {
				t.Fatalf("own JSON: %v\n%s", err, text)
			}
			if d := manifest.Diff(m, again[0]); len(d) > 0 {
				t.Fatalf("changed: %v", d)
			}
		}
	})
}

func BenchmarkParse_small(b *testing.B) {
	data := []byte("apiVersion: patchbay/v1\nkind: Plugin\nmetadata:\n  name: greeter\nspec:\n  toy:\n    command: [bin/greeter, -v]\n    count: 3\n  timeouts: {invoke: 5s}\n")
	p := parser()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Parse("a", data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	m := plugin.Manifest{Spec: plugin.Spec{Adapter: "toy", Block: plugin.RawJSON(`{"command":["bin/greeter","-v"],"count":3}`)}}
	b.ReportAllocs()
	for b.Loop() {
		var into toyBlock
		if err := manifest.Decode(m, &into); err != nil {
			b.Fatal(err)
		}
	}
}
