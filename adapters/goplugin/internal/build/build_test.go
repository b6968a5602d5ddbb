package build

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestMain(m *testing.M) {
	proc.Child()
	out, err := exec.Command("go", "env", "GOCACHE").Output() // warm
	if err == nil {
		err = os.Setenv("GOCACHE", strings.TrimSpace(string(out)))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// web answers by URL, without a network, and counts.
type web struct {
	answers map[string]func() *http.Response
	asked   atomic.Int32
}

func (w *web) RoundTrip(r *http.Request) (*http.Response, error) {
	w.asked.Add(1)
	answer := w.answers[r.URL.String()]
	if answer == nil {
		return gives(http.StatusNotFound, nil)(), nil
	}
	a := answer()
	a.Request = r
	return a, nil
}

func gives(status int, content []byte) func() *http.Response {
	return func() *http.Response {
		return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(content))}
	}
}

func leads(to string) func() *http.Response {
	return func() *http.Response {
		a := gives(http.StatusFound, nil)()
		a.Header.Set("Location", to)
		return a
	}
}

func builder(t *testing.T, w *web) *Builder {
	t.Helper()
	b := New(Options{Dir: filepath.Join(t.TempDir(), "cache"), Allowed: []string{"github.com/jimil749", "https://example.org/plugins/"}, Client: &http.Client{Transport: w}})
	t.Cleanup(func() {
		b.Close()
		if left, _ := os.ReadDir(b.work()); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	return b
}

// module is the source of a program that prints word, by its path in the module.
func module(word string) map[string]string {
	return map[string]string{
		"go.mod":            "module example.org/json\n\ngo 1.24\n",
		"main.go":           "package main\n\nfunc main() { println(\"top\") }\n",
		"cmd/json/main.go":  "package main\n\nimport \"example.org/json/word\"\n\nfunc main() { println(word.Word) }\n",
		"word/word.go":      "package word\n\n// Word is printed.\nconst Word = \"" + word + "\"\n",
		".git/config":       word,
		"testdata/spaced x": "",
	}
}

func write(t *testing.T, files map[string]string) (folder string) {
	t.Helper()
	folder = t.TempDir()
	for name, text := range files {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func tarball(t *testing.T, top string, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	archive := tar.NewWriter(zipped)
	for name, text := range files {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: top + name, Size: int64(len(text)), Mode: 0o644}
		if to, ok := strings.CutPrefix(text, "-> "); ok {
			header.Typeflag, header.Linkname, header.Size, text = tar.TypeSymlink, to, 0, ""
		}
		if err := archive.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(archive, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zipped(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	archive := zip.NewWriter(&out)
	for name, text := range files {
		w, err := archive.Create(name)
		if err == nil {
			_, err = io.WriteString(w, text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func digest(content []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(content)) }

// prints builds s and runs what came out.
func prints(t *testing.T, b *Builder, s Source, want string) (path string) {
	t.Helper()
	var faults plugin.Faults
	b.Check(s, &faults)
	if faults != nil {
		t.Fatalf("%+v: %v", s, faults)
	}
	path, err := b.Executable(t.Context(), s)
	if err != nil {
		t.Fatalf("%+v: %v", s, err)
	}
	if got, err := exec.Command(path).CombinedOutput(); err != nil || strings.TrimSpace(string(got)) != want {
		t.Errorf("%+v: it prints %q, %v; want %q", s, got, err, want)
	}
	if found, err := b.Find(t.Context(), s); err != nil || found != path {
		t.Errorf("%+v: found %s, %v; want %s", s, found, err, path)
	}
	return path
}

// TestExecutable_folder: it is built once for as long as the module is the same, and
// so when only what does not count is another.
func TestExecutable_folder(t *testing.T) {
	b := builder(t, nil)
	one, two := write(t, module("one")), write(t, module("two"))
	if err := os.Symlink("/nonexistent", filepath.Join(one, "link")); err != nil {
		t.Fatal(err)
	}
	first := prints(t, b, Source{Folder: filepath.Join(one, "cmd/json")}, "one")
	before, err := os.Stat(first)
	if err != nil {
		t.Fatal(err)
	}
	if before.Mode().Perm() != 0o700 {
		t.Errorf("got mode %v", before.Mode())
	}
	if err := errors.Join(os.Remove(filepath.Join(one, "link")), os.RemoveAll(filepath.Join(one, ".git"))); err != nil {
		t.Fatal(err)
	}
	again := prints(t, b, Source{Folder: filepath.Join(one, "cmd/json")}, "one")
	if after, err := os.Stat(again); err != nil || !os.SameFile(before, after) {
		t.Errorf("it was built again: %s, %s, %v", first, again, err)
	}
	prints(t, b, Source{Folder: filepath.Join(two, "cmd/json")}, "two")
	prints(t, b, Source{Folder: one}, "top")
	if err := os.WriteFile(filepath.Join(one, "word/word.go"), []byte("package word\n\nconst Word = \"three\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Find(t.Context(), Source{Folder: filepath.Join(one, "cmd/json")}); !errors.Is(err, plugin.ErrNotFound) {
		t.Errorf("find after a change: got %v", err)
	}
	prints(t, b, Source{Folder: filepath.Join(one, "cmd/json")}, "three")
}

// TestExecutable_cannotBeBuilt: the go tool's own words tell why.
func TestExecutable_cannotBeBuilt(t *testing.T) {
	b := builder(t, nil)
	for want, main := range map[string]string{
		"undefined: x":                    "package main\n\nfunc main() { x() }\n",
		"build constraints exclude all":   "package main\n\nimport \"C\"\n\nfunc main() {}\n",
		"it is no package main":           "package other\n",
		"no required module provides pac": "package main\n\nimport _ \"example.net/missing\"\n\nfunc main() {}\n",
	} {
		folder := write(t, map[string]string{"go.mod": "module example.org/json\n\ngo 1.24\n", "main.go": main})
		if _, err := b.Executable(t.Context(), Source{Folder: folder}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestExecutable_url(t *testing.T) {
	commit := strings.Repeat("a1", 20)
	packed, other := tarball(t, "json-"+commit+"/", module("tar")), zipped(t, module("zip"))
	ready, err := os.ReadFile(prints(t, builder(t, nil), Source{Folder: filepath.Join(write(t, module("elf")), "cmd/json")}, "elf"))
	if err != nil {
		t.Fatal(err)
	}
	w := &web{answers: map[string]func() *http.Response{
		"https://codeload.github.com/jimil749/json/tar.gz/" + commit: gives(200, packed),
		"https://example.org/plugins/json.zip":                       gives(200, other),
		"https://example.org/plugins/json":                           leads("https://elsewhere.example.net/x"),
		"https://elsewhere.example.net/x":                            gives(200, ready),
	}}
	b := builder(t, w)
	for url, want := range map[string]string{"github.com/jimil749/json": "tar", "https://GitHub.com/jimil749/json.git": "tar"} {
		prints(t, b, Source{URL: url, Commit: commit, Package: "cmd/json"}, want)
	}
	prints(t, b, Source{URL: "https://github.com/jimil749/json", Commit: commit}, "top")
	prints(t, b, Source{URL: "https://github.com/jimil749/json", Commit: commit, Digest: digest(packed)}, "top")
	prints(t, b, Source{URL: "https://example.org/plugins/json.zip", Digest: digest(other), Package: "cmd/json"}, "zip")
	prints(t, b, Source{URL: "https://example.org/plugins/json", Digest: digest(ready)}, "elf")
	asked := w.asked.Load()
	prints(t, b, Source{URL: "https://example.org/plugins/json", Digest: digest(ready)}, "elf")
	if again := w.asked.Load(); again != asked {
		t.Errorf("what is built already was downloaded again")
	}
}

// TestExecutable_hostileURL: each fails with its reason, and leaves nothing.
func TestExecutable_hostileURL(t *testing.T) {
	mod := map[string]string{"go.mod": "module x\n", "main.go": "package main\n\nfunc main() {}\n"}
	with := func(name, text string) []byte {
		files := map[string]string{name: text}
		for n, t := range mod {
			files[n] = t
		}
		return tarball(t, "", files)
	}
	commit := strings.Repeat("0", 40)
	for _, tt := range []struct {
		name    string
		content []byte
		want    string
	}{
		{"up", with("../evil", "x"), "leads out of it"},
		{"absolute", with("/etc/evil", "x"), "leads out of it"},
		{"a link, left out", with("a", "-> /etc"), ""},
		{"no module", tarball(t, "x/", map[string]string{"main.go": "package main\n"}), "has no go.mod"},
		{"text", []byte("<html>"), "neither a .tar.gz, nor a .zip, nor an executable"},
		{"empty", nil, "neither a .tar.gz"},
		{"cut", with("a", "x")[:40], "archive"},
		{"no zip", []byte("PK\x03\x04xxxxxxxxxxxxxxxxxxxxxxxxx"), "archive"},
		{"many", crowd(t), "more than 50000 entries"},
	} {
		url := "https://example.org/plugins/x"
		b := builder(t, &web{answers: map[string]func() *http.Response{url: gives(200, tt.content)}})
		_, err := b.Executable(t.Context(), Source{URL: url, Digest: digest(tt.content)})
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
	good := tarball(t, "", mod)
	b := builder(t, &web{answers: map[string]func() *http.Response{
		"https://example.org/plugins/x":                              gives(200, good),
		"https://example.org/plugins/http":                           leads("http://example.org/plugins/x"),
		"https://example.org/plugins/loop":                           leads("https://example.org/plugins/loop"),
		"https://codeload.github.com/jimil749/json/tar.gz/" + commit: leads("https://example.org/plugins/x"),
	}})
	for want, s := range map[string]Source{
		"has the digest " + digest(good):          {URL: "https://example.org/plugins/x", Digest: digest(nil)},
		"leads away from https":                   {URL: "https://example.org/plugins/http", Digest: digest(good)},
		"more than 5 redirects":                   {URL: "https://example.org/plugins/loop", Digest: digest(good)},
		"a redirect is followed only with a dige": {URL: "https://github.com/jimil749/json", Commit: commit},
		"answers 404":                             {URL: "https://example.org/plugins/none", Digest: digest(good)},
	} {
		if _, err := b.Executable(t.Context(), s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %s", s, err, want)
		}
	}
}

// crowd has more entries than a module.
func crowd(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	packed := gzip.NewWriter(&out)
	archive := tar.NewWriter(packed)
	for i := range filesMax + 1 {
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), packed.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// slow is a download that has begun, and ends when it is told to, or is cancelled.
type slow struct {
	begun, go_ chan struct{}
	content    []byte
}

func (s *slow) RoundTrip(r *http.Request) (*http.Response, error) {
	close(s.begun)
	select {
	case <-s.go_:
		return gives(200, s.content)(), nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// TestExecutable_goesOn: a launch that gives up does not end the build; the next one
// waits for the same.
func TestExecutable_goesOn(t *testing.T) {
	content := tarball(t, "", module("x"))
	one := &slow{make(chan struct{}), make(chan struct{}), content}
	b := builder(t, nil)
	b.options.Client = &http.Client{Transport: one}
	s := Source{URL: "https://example.org/plugins/x", Digest: digest(content)}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-one.begun; cancel() }() // ends with the build's begin
	if _, err := b.Executable(ctx, s); !errors.Is(err, plugin.ErrUnavailable) || !strings.Contains(err.Error(), "still under way") {
		t.Fatalf("got %v", err)
	}
	close(one.go_)
	prints(t, b, s, "top")
}

// TestClose_endsABuild, and refuses the next.
func TestClose_endsABuild(t *testing.T) {
	one := &slow{begun: make(chan struct{}), go_: make(chan struct{})}
	b := builder(t, nil)
	b.options.Client = &http.Client{Transport: one}
	go func() { <-one.begun; b.Close() }() // ends with the build
	s := Source{URL: "https://example.org/plugins/x", Digest: digest(nil)}
	if _, err := b.Executable(t.Context(), s); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := b.Executable(t.Context(), s); !errors.Is(err, plugin.ErrUnavailable) || !strings.Contains(err.Error(), "closed") {
		t.Errorf("after close: got %v", err)
	}
}

func TestKeep_bounded(t *testing.T) {
	b := builder(t, nil)
	if err := b.prepare(); err != nil {
		t.Fatal(err)
	}
	for i := range builtMax + 3 {
		result := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(result, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := b.keep(result, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	all, err := os.ReadDir(b.all())
	if err != nil || len(all) != builtMax {
		t.Errorf("got %d executables, %v; want %d", len(all), err, builtMax)
	}
}

func TestCheck_faults(t *testing.T) {
	b := builder(t, nil)
	loose := t.TempDir()
	commit, sum := strings.Repeat("a", 40), digest(nil)
	for _, tt := range []struct {
		s    Source
		want string
	}{
		{Source{}, "spec.goplugin.source: has to have either folder or url"},
		{Source{Folder: loose, URL: "x"}, "spec.goplugin.source: has to have either folder or url"},
		{Source{Folder: "x"}, "spec.goplugin.source.folder: \"x\" is relative"},
		{Source{Folder: "/nonexistent"}, "spec.goplugin.source.folder: /nonexistent is not a folder"},
		{Source{Folder: loose}, "spec.goplugin.source.folder: " + loose + " has no go.mod"},
		{Source{Folder: write(t, module("x")), Commit: commit}, "spec.goplugin.source.commit: is for url"},
		{Source{URL: "https://github.com/jimil749/json"}, "spec.goplugin.source.commit: is missing"},
		{Source{URL: "https://github.com/jimil749/json", Commit: "main"}, "spec.goplugin.source.commit: is not all 40"},
		{Source{URL: "https://github.com/jimil7490/json", Commit: commit}, "github.com/jimil7490/json is not allowed on this daemon; start it with --allow-source github.com/jimil7490"},
		{Source{URL: "https://github.com/jimil749/json", Commit: commit, Package: "../x"}, "spec.goplugin.source.package: \"../x\" is not below"},
		{Source{URL: "https://example.org/plugins/x.zip"}, "spec.goplugin.source.digest: is missing"},
		{Source{URL: "https://example.org/plugins/x.zip", Digest: "sha256:1"}, "spec.goplugin.source.digest: is not sha256:"},
		{Source{URL: "https://example.org/plugins/x.zip", Commit: commit, Digest: sum}, "spec.goplugin.source.commit: is for a repository"},
		{Source{URL: "https://example.org.evil.net/plugins/x", Digest: sum}, "is not allowed"},
		{Source{URL: "https://example.org/plugins/../x", Digest: sum}, "spec.goplugin.source.url: has a path with"},
		{Source{URL: "https://example.org/plugins/%2e%2e/x", Digest: sum}, "spec.goplugin.source.url: has a path with"},
		{Source{URL: "http://example.org/plugins/x", Digest: sum}, "spec.goplugin.source.url: is http; only https"},
		{Source{URL: "file:///plugins/x", Digest: sum}, "spec.goplugin.source.url: is not a URL"},
		{Source{URL: "https://u:p@example.org/plugins/x", Digest: sum}, "spec.goplugin.source.url: has a user"},
		{Source{URL: "https://example.org/plugins/x?a=b", Digest: sum}, "spec.goplugin.source.url: has a user"},
	} {
		var faults plugin.Faults
		b.Check(tt.s, &faults)
		if len(faults) != 1 || !strings.Contains(faults[0].String(), tt.want) {
			t.Errorf("%+v: got %v, want %s", tt.s, faults, tt.want)
		}
	}
	var faults plugin.Faults
	New(Options{}).Check(Source{Folder: loose}, &faults)
	if len(faults) != 1 || !strings.Contains(faults[0].String(), "no data folder") {
		t.Errorf("got %v", faults)
	}
}
