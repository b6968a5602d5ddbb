package goplugin_test

import (
	"bytes"
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
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/goplugin"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// buildTime is for a build with no cache, on a machine that does other things.
const buildTime = 10 * time.Minute

// revaSource is a module of its own that has the tiny Reva plugins' source, and the
// folder of one in it.
func revaSource(t *testing.T, dialect string) (module, folder string) {
	t.Helper()
	module = t.TempDir()
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join("../..", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(module, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"test/plugins/habit", "test/plugins/goplugin/reva"} {
		if err := os.CopyFS(filepath.Join(module, name), os.DirFS(filepath.Join("../..", name))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"GOCACHE", "GOMODCACHE"} { // what this test was built with, so that nothing is downloaded
		out, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv(name, strings.TrimSpace(string(out)))
	}
	return module, filepath.Join(module, "test/plugins/goplugin/reva", dialect)
}

// building is an adapter that may build.
func building(t *testing.T, dir string, client *http.Client) *goplugin.Adapter {
	t.Helper()
	a := goplugin.New(goplugin.Options{Dir: dir, AllowSource: []string{"example.org/plugins"}, HTTP: client})
	t.Cleanup(a.Close)
	return a
}

// TestSource_folder: it is built, called, pinned, and adopted.
func TestSource_folder(t *testing.T) {
	module, folder := revaSource(t, "c")
	spec := revaSpec(t, "c", "userprovider")
	spec.Command, spec.Source = nil, goplugin.Source{Folder: "c"}
	m := manifest(t, spec)
	m.Metadata.Source = filepath.Dir(folder)
	dir := t.TempDir()
	a := building(t, dir, nil)
	if err := a.Check(m); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), buildTime)
	defer cancel()
	l := conformance.NewLaunch(t, m)
	i, err := a.Launch(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	works := func(i plugin.Instance) {
		t.Helper()
		if got, err := invoke(t, i, "FindUsers", `{"Query": "ein"}`); err != nil || !strings.Contains(got, "einstein") {
			t.Errorf("got %s, %v", got, err)
		}
		facts(t, i, "userprovider", "C")
	}
	works(i)
	digest, err := i.(plugin.Digester).Digest(t.Context())
	if err != nil || !strings.HasPrefix(digest, "sha256:") {
		t.Errorf("digest: got %s, %v", digest, err)
	}
	handle, err := i.(plugin.Survivor).Handle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i.(plugin.Survivor).Leave()
	i, err = building(t, dir, nil).Adopt(ctx, l, handle)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Stop(context.Background()) })
	works(i)
	if again, err := i.(plugin.Digester).Digest(t.Context()); err != nil || again != digest {
		t.Errorf("digest of the adopted one: got %s, %v; want %s", again, err, digest)
	}
	if err := os.WriteFile(filepath.Join(module, "test/plugins/habit/more.go"), []byte("package habit\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := i.(plugin.Digester).Digest(t.Context()); !errors.Is(err, plugin.ErrConflict) {
		t.Errorf("digest of another source: got %v, want plugin.ErrConflict", err)
	}
}

// gives answers every request with the same.
type gives []byte

func (g gives) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Request: r, Body: io.NopCloser(bytes.NewReader(g))}, nil
}

// TestSource_url: an executable that is downloaded.
func TestSource_url(t *testing.T) {
	program, err := os.ReadFile(built(t, "b"))
	if err != nil {
		t.Fatal(err)
	}
	spec := revaSpec(t, "b", "")
	spec.Command, spec.Source = nil, goplugin.Source{URL: "https://example.org/plugins/json", Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(program))}
	m := manifest(t, spec)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	i, err := building(t, t.TempDir(), &http.Client{Transport: gives(program)}).Launch(ctx, conformance.NewLaunch(t, m))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Stop(context.Background()) })
	facts(t, i, "userprovider", "B")
	if digest, err := i.(plugin.Digester).Digest(t.Context()); err != nil || digest != spec.Source.Digest {
		t.Errorf("got %s, %v; want %s", digest, err, spec.Source.Digest)
	}
	if _, err := building(t, t.TempDir(), &http.Client{Transport: gives("other")}).Launch(ctx, conformance.NewLaunch(t, m)); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "has the digest") {
		t.Errorf("another content: got %v", err)
	}
}

func TestSource_faults(t *testing.T) {
	for want, change := range map[string]func(*goplugin.Spec){
		"spec.goplugin.source: stands beside command":                    func(s *goplugin.Spec) { s.Source.Folder = "/tmp" },
		"spec.goplugin.command: is empty":                                func(s *goplugin.Spec) { s.Command = nil },
		"spec.goplugin.source.folder: \"json\" is relative":              func(s *goplugin.Spec) { s.Command, s.Source.Folder = nil, "json" },
		"spec.goplugin.source.url: github.com/jimil749/json is not allo": func(s *goplugin.Spec) { s.Command, s.Source.URL = nil, "https://github.com/jimil749/json" },
	} {
		spec := revaSpec(t, "b", "")
		change(&spec)
		if err := building(t, t.TempDir(), nil).Check(manifest(t, spec)); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
