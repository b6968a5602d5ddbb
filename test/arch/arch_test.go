package arch

import (
	"path"
	"strings"
	"testing"
)

func TestHouse(t *testing.T) {
	h, err := Load("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range Rules() {
		t.Run(rule.Name, func(t *testing.T) {
			for _, place := range rule.Check(h) {
				t.Errorf("%s\n\tbecause: %s", place, rule.Reason)
			}
		})
	}
}

// samples has for every rule some that break it and some that look like it and do
// not. A file's first line, "// PATH", is where it lies.
var samples = map[string]struct{ breaks, keeps []string }{
	"imports": {
		breaks: []string{
			"// core/plugin/a.go\npackage plugin\nimport _ \"" + Module + "/core/bus\"",
			"// core/bus/a.go\npackage bus\nimport _ \"" + Module + "/core/api\"",
			"// core/bus/a.go\npackage bus\nimport _ \"" + Module + "/core/logs\"",
			"// core/supervise/a.go\npackage supervise\nimport _ \"" + Module + "/adapters/starlark\"",
			"// adapters/portable/a.go\npackage portable\nimport _ \"" + Module + "/adapters/provider\"",
			"// adapters/portable/a.go\npackage portable\nimport _ \"" + Module + "/core/logs\"",
			"// sdk/go/client/a.go\npackage client\nimport _ \"" + Module + "/core/api\"",
			"// cmd/patchbay/internal/cli/a.go\npackage cli\nimport _ \"" + Module + "/core/store\"",
			"// core/bus/a.go\npackage bus\nimport _ \"" + Module + "/test/conformance\"",
			"// core/newroom/a.go\npackage newroom\nimport _ \"" + Module + "/core/plugin\"",
			"// tools/a.go\npackage tools\nimport _ \"" + Module + "/core/plugin\"",
		},
		keeps: []string{
			"// adapters/portable/a.go\npackage portable\nimport _ \"" + Module + "/adapters/portable/sp\"\nimport _ \"" + Module + "/adapters/internal/proc\"",
			"// core/bus/a_test.go\npackage bus\nimport _ \"" + Module + "/core/api\"",
			"// core/api/a.go\npackage api\nimport _ \"" + Module + "/core/api/wire\"",
			"// cmd/patchbay/internal/serve/a.go\npackage serve\nimport _ \"" + Module + "/core/store\"\nimport _ \"" + Module + "/adapters\"",
		},
	},
	"libraries": {
		breaks: []string{
			"// core/dispatch/a.go\npackage dispatch\nimport \"github.com/labstack/echo/v4\"",
			"// core/api/a.go\npackage api\nimport \"github.com/nats-io/nats.go/jetstream\"",
			"// core/bus/a.go\npackage bus\nimport \"github.com/somebody/new\"",
			"// core/bus/a_test.go\npackage bus\nimport \"github.com/stretchr/testify/assert\"",
			"// core/bus/a.go\npackage bus\nimport \"log\"",
		},
		keeps: []string{
			"// core/bus/a.go\npackage bus\nimport \"github.com/nats-io/nats.go/jetstream\"\nimport \"log/slog\"\nimport \"net/http\"",
			"// test/e2e/a_test.go\npackage e2e\nimport \"github.com/nats-io/nats.go\"\nimport \"os/exec\"",
			"// test/upstream/provider/a_test.go\npackage provider\nimport \"github.com/digitalrebar/provision/v4/plugin\"",
		},
	},
	"one launcher": {
		breaks: []string{"// adapters/container/a.go\npackage container\nfunc f() { exec.Command(\"docker\") }"},
		keeps: []string{
			"// adapters/internal/proc/a.go\npackage proc\nfunc f() { exec.Command(\"x\") }",
			"// adapters/portable/a.go\npackage portable\nfunc f() { exec.LookPath(\"python3\") }",
		},
	},
	"core knows no adapter": {
		breaks: []string{"// core/api/a.go\npackage api\nconst a = \"fake\""},
		keeps: []string{
			"// core/api/a.go\npackage api\nconst a = \"fake news\"",
			"// core/api/a_test.go\npackage api\nconst a = \"fake\"",
		},
	},
	"adapters are whole": {
		breaks: []string{"// adapters/starlark/a.go\npackage starlark"},
	},
	"package comments": {
		breaks: []string{
			"// core/bus/a.go\npackage bus",
			"// core/bus/a.go\n\n// The bus.\npackage bus",
			"// cmd/x/main.go\n\npackage main",
		},
		keeps: []string{
			"// core/bus/a.go\n\n// Package bus carries.\npackage bus",
			"// cmd/x/main.go\n\n// Command x does.\npackage main",
			"// core/bus/a_test.go\npackage bus_test",
		},
	},
	"telling names": {
		breaks: []string{"// core/util/a.go\npackage util", "// adapters/internal/common/a.go\npackage common"},
	},
	"top folders":    {breaks: []string{"// pkg/a.go\npackage pkg"}},
	"serve is short": {breaks: []string{"// cmd/patchbay/internal/serve/a.go\npackage serve" + strings.Repeat("\nvar _ = 1", serveLinesMost+1)}},
	"no init":        {breaks: []string{"// core/bus/a.go\npackage bus\nfunc init() {}"}, keeps: []string{"// core/bus/a.go\npackage bus\ntype t int\nfunc (t) init() {}"}},
	"no blank imports": {
		breaks: []string{"// core/bus/a.go\npackage bus\nimport _ \"net/http/pprof\""},
		keeps:  []string{"// manifests/a.go\npackage manifests\nimport _ \"embed\""},
	},
	"no package state": {
		breaks: []string{
			"// core/bus/a.go\npackage bus\nvar n int\nfunc f() { n++ }",
			"// core/bus/a.go\npackage bus\nvar m = map[string]int{}\nfunc f() { m[\"a\"] = 1 }",
			"// core/bus/a.go\npackage bus\nvar mu sync.Mutex",
			"// core/bus/a.go\npackage bus\nvar n atomic.Int64",
			"// core/bus/a.go\npackage bus\nvar c chan int",
		},
		keeps: []string{
			"// core/bus/a.go\npackage bus\nvar n = 1\nfunc f() { n := 2; n = 3 }",
			"// core/bus/a.go\npackage bus\nvar n = 1\nfunc f(n int) { n = 3 }",
			"// core/bus/a.go\npackage bus\nvar pool = sync.Pool{}\nvar _ I = (*T)(nil)",
		},
	},
	"no sleep in tests": {
		breaks: []string{"// core/bus/a_test.go\npackage bus\nfunc f() { time.Sleep(1) }", "// test/e2e/a.go\npackage e2e\nfunc f() { time.Sleep(1) }"},
		keeps:  []string{"// core/bus/a.go\npackage bus\nfunc f() { time.Sleep(1) }", "// test/plugins/a/main.go\npackage main\nfunc f() { time.Sleep(1) }"},
	},
	"no skip": {
		breaks: []string{"// core/bus/a_test.go\npackage bus\nfunc f(t T) { t.Skip() }", "// core/bus/a_test.go\npackage bus\nfunc f(t T) { t.Skipf(\"a\") }"},
		keeps:  []string{"// core/bus/a.go\npackage bus\nfunc f(d D) { d.Skip() }"},
	},
	"no bare todo": {
		breaks: []string{"// core/bus/a.go\npackage bus\n// TODO: later", "// core/bus/a.go\npackage bus\n/* FIXME */"},
		keeps:  []string{"// core/bus/a.go\npackage bus\n// TODO(#12): later"},
	},
}

// TestRules_findWhatBreaksThem: a rule that cannot fail is a defect.
func TestRules_findWhatBreaksThem(t *testing.T) {
	for _, rule := range Rules() {
		t.Run(rule.Name, func(t *testing.T) {
			sample, ok := samples[rule.Name]
			if !ok || len(sample.breaks) == 0 {
				t.Fatal("has no sample that breaks it")
			}
			for _, text := range sample.breaks {
				if got := rule.Check(houseOf(t, text)); len(got) == 0 {
					t.Errorf("sample that breaks the rule: got nothing, want it found\n%.200s", text)
				}
			}
			for _, text := range sample.keeps {
				if got := rule.Check(houseOf(t, text)); len(got) != 0 {
					t.Errorf("sample that keeps the rule: got %q, want nothing\n%.200s", got, text)
				}
			}
		})
	}
}

// houseOf is a house of one file, and of an adapter "fake" that is whole.
func houseOf(t *testing.T, text string) House {
	t.Helper()
	h := House{Folders: map[string]bool{"test/plugins/fake": true, "manifests/examples/fake": true}}
	first, _, _ := strings.Cut(text, "\n")
	file := strings.TrimPrefix(first, "// ")
	h.Top = []string{strings.Split(path.Dir(file), "/")[0]}
	for file, text := range map[string]string{
		file:                                text,
		"adapters/fake/fake.go":             "// Package fake is.\npackage fake\n\nvar _ plugin.Adapter = (*Adapter)(nil)\n",
		"adapters/fake/conformance_test.go": "package fake_test\n\nfunc f() { conformance.Run(nil) }\n",
	} {
		if err := h.Add(file, text); err != nil {
			t.Fatal(err)
		}
	}
	return h
}
