package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/adapters"
)

// binName is the variable that holds the folder of what was built for the test.
const binName = "BENCH_BIN"

func TestMain(m *testing.M) {
	adapters.Child()
	child()
	dir, err := os.MkdirTemp("", "pbb")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := 1
	if err := build(dir); err != nil {
		fmt.Fprintln(os.Stderr, "bench: build:", err)
	} else {
		_ = os.Setenv(binName, dir)
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// build builds as the Makefile does, so that most of it is in the cache.
func build(dir string) error {
	for to, from := range map[string]string{
		"patchbay": "cmd/patchbay", "plugins/goplugin-netrpc": "test/plugins/goplugin/netrpc", "plugins/goplugin-grpc": "test/plugins/goplugin/grpc",
		"plugins/goplugin-shapes": "test/plugins/goplugin/shapes",
		"plugins/portable":        "test/plugins/portable", "plugins/provider": "test/plugins/provider",
	} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, to), "../../"+from)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
		}
	}
	return nil
}

// TestSmoke runs the path of every row once, so that none rots; its figures mean
// nothing.
func TestSmoke(t *testing.T) {
	file := filepath.Join(t.TempDir(), "latest.json")
	for _, b := range benchmarks() {
		t.Run(b.name, func(t *testing.T) {
			var out strings.Builder
			args := []string{"-smoke", "-bin", os.Getenv(binName), "-json", file, "-only", "^" + b.name + "$"}
			if err := command(t.Context(), args, &out); err != nil {
				t.Fatalf("%v\n%s", err, &out)
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got report
			if err := json.Unmarshal(data, &got); err != nil || len(got.Rows) == 0 {
				t.Fatalf("latest.json: %v, %d rows\n%s", err, len(got.Rows), data)
			}
			for _, r := range got.Rows {
				if r.Ours == nil && r.Note == "" || r.Ours != nil && *r.Ours == 0 && r.Bar != "<= 0" {
					t.Errorf("row without a figure: %s", r)
				}
			}
		})
	}
}

func TestJudge(t *testing.T) {
	tests := []struct {
		value float64
		bar   bar
		noisy bool
		want  string
	}{
		{0.75, atLeast(0.75), false, "yes"},
		{0.74, atLeast(0.75), false, "NO"},
		{0.74, atLeast(0.75), true, "NO (noisy)"},
		{25, atMost(25), true, "yes (noisy)"},
		{26, atMost(25), false, "NO"},
		{26, bar{}, false, "-"},
	}
	for _, tt := range tests {
		r := absolute("x", "ms", tt.value, tt.bar)
		if tt.noisy {
			r.mark("loud")
		}
		if got := r.verdict(); got != tt.want {
			t.Errorf("%v against %q: got %q, want %q", tt.value, tt.bar, got, tt.want)
		}
	}
}

func TestComparison_takesTheMedianOfRatios(t *testing.T) {
	of := func(ops ...int) (out []sample) {
		for _, n := range ops {
			out = append(out, sample{ops: n, wall: 1e9})
		}
		return out
	}
	c := comparison{ours: of(80, 10, 90), bare: of(100, 100, 100), aa: [][2]sample{{of(100)[0], of(120)[0]}}}
	r := c.row("x", "calls/s", rate, atLeast(0.75))
	if *r.Ratio != 0.8 || !*r.Holds || !r.Noisy {
		t.Errorf("got ratio %v, holds %t, noisy %t; want 0.8, true, true", *r.Ratio, *r.Holds, r.Noisy)
	}
}
