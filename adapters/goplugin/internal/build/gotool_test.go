package build

import (
	"archive/zip"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// TestGoTool_fence has a shell in the go tool's place.
func TestGoTool_fence(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"work", "root", "state"} {
		if err := os.Mkdir(at(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(at("state/token"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := os.Create(at("said"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	shell := goTool{
		path: "/usr/bin/env", folder: at("work"), work: at("work"), root: at("root"), said: said,
		env: []string{"PATH=/usr/bin:/bin", "GOMODCACHE=" + at("mod"), "GOCACHE=" + at("cache"), "GOPROXY=https://example.org"},
	}
	tests := []struct {
		name, script string
		fetches      string // what the shell says as it fails; "" when it does not
		compiles     string
	}{
		{"its work", "echo x > " + at("work/x"), "", ""},
		{"the cache of builds", "echo x > " + at("cache/x"), "", ""},
		{"the modules", "echo x > " + at("mod/x"), "", "Read-only file system"},
		{"the daemon's folder", "cat " + at("state/token"), "No such file", "No such file"},
		{"the network", `test "$(wc -l < /proc/net/dev)" -gt 3`, "", "exit code 1"}, // two lines of headings, and lo
		{"the proxy", `test "$GOPROXY" = https://example.org`, "", "exit code 1"},
		{"no proxy", `test "$GOPROXY" = off`, "exit code 1", ""},
	}
	for _, tt := range tests {
		for s, want := range map[step]string{fetching: tt.fetches, compiling: tt.compiles} {
			err := shell.do(t.Context(), s, "sh", "-c", tt.script)
			if want == "" && err != nil || want != "" && (!errors.Is(err, plugin.ErrUnavailable) || !strings.Contains(err.Error(), want)) {
				t.Errorf("%s, fetching %v: got %v, want %q", tt.name, s, err, want)
			}
		}
	}
}

// fileProxy is a module proxy in a folder, with one module that has a constant Word.
func fileProxy(t *testing.T, module, word string) (url string) {
	t.Helper()
	dir := t.TempDir()
	versions := filepath.Join(dir, module, "@v")
	goMod := "module " + module + "\n\ngo 1.24\n"
	var archive bytes.Buffer
	w := zip.NewWriter(&archive)
	for name, text := range map[string]string{"go.mod": goMod, "dep.go": "package dep\n\n// Word is printed.\nconst Word = \"" + word + "\"\n"} {
		f, err := w.Create(module + "@v1.0.0/" + name)
		if err == nil {
			_, err = f.Write([]byte(text))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), os.MkdirAll(versions, 0o700)); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"list": []byte("v1.0.0\n"), "v1.0.0.info": []byte(`{"Version":"v1.0.0"}`), "v1.0.0.mod": []byte(goMod), "v1.0.0.zip": archive.Bytes(),
	} {
		if err := os.WriteFile(filepath.Join(versions, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return "file://" + dir
}

// TestExecutable_modules: what the source requires is downloaded before it is compiled.
func TestExecutable_modules(t *testing.T) {
	proxy := fileProxy(t, "example.org/dep", "from a module")
	t.Setenv("GOPROXY", proxy)
	t.Setenv("GOSUMDB", "off")
	folder := write(t, map[string]string{
		"go.mod":  "module example.org/json\n\ngo 1.24\n\nrequire example.org/dep v1.0.0\n",
		"main.go": "package main\n\nimport \"example.org/dep\"\n\nfunc main() { println(dep.Word) }\n",
	})
	tidy := exec.Command("go", "mod", "tidy") // for go.sum
	tidy.Dir, tidy.Env = folder, append(os.Environ(), "GOMODCACHE="+t.TempDir(), "GOFLAGS=-modcacherw -mod=mod")
	if out, err := tidy.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b := builder(t, &web{})
	path, err := b.Executable(t.Context(), Source{Folder: folder})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(path).CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "from a module" {
		t.Errorf("got %s, %v", out, err)
	}

	t.Setenv("GOPROXY", "off")
	if _, err := builder(t, &web{}).Executable(t.Context(), Source{Folder: folder}); err == nil || !strings.Contains(err.Error(), "go list") || !strings.Contains(err.Error(), "GOPROXY=off") {
		t.Errorf("without a proxy: got %v", err)
	}
}
