package debuginfo

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/describe"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// binary builds a plugin, stripped or not.
func binary(t testing.TB, flags string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "plugin")
	build := exec.Command("go", "build", "-ldflags", flags, "-o", to, "../../../../test/plugins/goplugin/shapes")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return to
}

// TestRead: the binary tells what its source says.
func TestRead(t *testing.T) {
	path := binary(t, "")
	c := NewCache()
	found, err := c.Read(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, []string{"main.Other", "main.Service"}) {
		t.Errorf("types: got %v", got)
	}
	if d := cmp.Diff(map[string]describe.Method{"Hello": {Args: "string", Reply: "string"}}, found["main.Other"].Methods); d != "" {
		t.Errorf("Other: -want +got:\n%s", d)
	}
	service := found["main.Service"]
	want := map[string]describe.Method{
		"Echo": {Args: "All", Reply: "All"}, "EchoMap": {Args: "map:string,[]int", Reply: "map:string,[]int"}, "Area": {Args: "AreaArgs", Reply: "AreaReply"},
		"Find": {Args: "*FindArgs", Reply: "FindReply"}, "Fail": {Args: "FailArgs", Reply: "FailReply"}, "Flaky": {Args: "Number", Reply: "FailReply"},
		"Calls": {Args: "Anonymous", Reply: "Number"}, "LogHere": {Args: "Anonymous", Reply: "Number"}, "Hole": {Args: "Anonymous", Reply: "HolesReply"},
		"Die": {Args: "Number", Reply: "Number"}, "Sleep": {Args: "Number", Reply: "Number"},
	}
	if d := cmp.Diff(want, service.Methods); d != "" {
		t.Errorf("methods: -want +got:\n%s", d)
	}
	all := map[string]string{
		"Bool": "bool", "Int8": "int8", "Int64": "int64", "Uint16": "uint16", "Float32": "float32", "Complex": "complex128", "Text": "string", "Bytes": "bytes",
		"Array": "[3]int", "Names": "[]string", "Pointer": "*All", "Many": "[]*All", "Map": "map:string,int", "Deep": "map:int,map:string,[]bool", "At": "time",
		"Big": "*bigint", "Address": "binary", "Own": "gob", "Any": "any", "Level": "int32", "Inner": "Inner",
	}
	if d := cmp.Diff(all, service.Types["All"].Fields); d != "" {
		t.Errorf("All: -want +got:\n%s", d)
	}
	if d := cmp.Diff(map[string]string{"Users": "[]*User", "Err": "error"}, service.Types["FindReply"].Fields); d != "" {
		t.Errorf("FindReply: -want +got:\n%s", d)
	}
	var faults plugin.Faults
	if describe.Compile(service, "p", &faults); faults.Err() != nil {
		t.Errorf("it does not compile: %v", faults)
	}
	// The same content elsewhere is not read again.
	link := path + "2"
	if err := os.Link(path, link); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if again, err := c.Read(over, link); err != nil || len(again) != len(found) {
		t.Errorf("known already: got %v, %v", again, err)
	}
	if _, err := NewCache().Read(over, path); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: got %v", err)
	}
}

func TestChoose(t *testing.T) {
	one := Found{"main.A": {Service: "a"}}
	two := Found{"main.A": {Service: "a"}, "main.B": {Service: "b"}}
	for _, tt := range []struct {
		found    Found
		typ      string
		service  string
		complain string
	}{
		{one, "", "a", ""}, {two, "main.B", "b", ""}, {one, "main.B", "", `no type "main.B"`}, {two, "", "", "write one of them as type: main.A, main.B"}, {nil, "", "", "no type of the binary"},
	} {
		d, err := tt.found.Choose(tt.typ)
		if d.Service != tt.service || (err == nil) != (tt.complain == "") || err != nil && !strings.Contains(err.Error(), tt.complain) {
			t.Errorf("%q of %v: got %v, %v", tt.typ, tt.found, d, err)
		}
	}
}

func TestStripped(t *testing.T) {
	path := binary(t, "-s -w")
	if err := Has(path); err == nil || !strings.Contains(err.Error(), "-ldflags=-s or -w") {
		t.Errorf("Has: got %v", err)
	}
	if _, err := NewCache().Read(t.Context(), path); err == nil || !strings.Contains(err.Error(), "-ldflags=-s or -w") {
		t.Errorf("Read: got %v", err)
	}
	if err := Has("/etc/hostname"); err == nil || !strings.Contains(err.Error(), "no ELF binary") {
		t.Errorf("a text: got %v", err)
	}
	if _, err := NewCache().Read(t.Context(), "/dev/zero"); err == nil || !strings.Contains(err.Error(), "no file") {
		t.Errorf("a device: got %v", err)
	}
}

// TestRead_damaged: a binary whose debugging information is not what it should be
// does no harm. It is no fuzz target, because one try takes a tenth of a second.
func TestRead_damaged(t *testing.T) {
	whole, err := os.ReadFile(binary(t, "-compressdwarf=false"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{".debug_abbrev", ".debug_info"} {
		s := f.Section(name)
		for range 15 {
			file := bytes.Clone(whole)
			for range 1 + r.IntN(20) {
				file[s.Offset+r.Uint64N(s.FileSize)] = byte(r.Uint32())
			}
			_, _ = read(t.Context(), bytes.NewReader(file))
		}
	}
}

func BenchmarkRead(b *testing.B) {
	f, err := os.Open(binary(b, ""))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for b.Loop() {
		if _, err := read(b.Context(), f); err != nil {
			b.Fatal(err)
		}
	}
}
