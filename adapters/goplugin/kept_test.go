package goplugin_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/adapters/goplugin"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// TestKept: what is pinned is launched from its copy once another file is in its place,
// or none, by whatever daemon has the folder; from nothing else.
func TestKept(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "tiny")
	program, err := os.ReadFile(built(t, "grpc"))
	if err == nil {
		err = os.WriteFile(path, program, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	m := manifest(t, goplugin.Spec{Command: []string{path}, Handshake: cookie()})
	launch := func(dir string) (string, error) {
		t.Helper()
		adapter := goplugin.New(goplugin.Options{Dir: dir})
		defer adapter.Close()
		if err := adapter.Check(m); err != nil {
			return "", err
		}
		l := conformance.NewLaunch(t, m)
		i, err := adapter.Launch(ctx, l)
		if err != nil {
			return "", err
		}
		if got, err := i.Invoke(ctx, plugin.Invocation{Operation: "Echo", Data: plugin.RawJSON(`{"text":"x"}`)}); err != nil || string(got.Data) != `{"text":"x"}` {
			t.Errorf("got %s, %v", got.Data, err)
		}
		digest, err := i.(plugin.Digester).Digest(ctx) // as `patchbay pin` asks
		if err := i.Stop(ctx); err != nil {
			t.Error(err)
		}
		if said := l.Output.(*conformance.Output).Text(plugin.PluginLog); strings.Contains(said, "the copy that was kept is launched") != (dir != "" && changed(t, path, program)) {
			t.Errorf("it said %q", said)
		}
		return digest, err
	}
	digest, err := launch(dir)
	if err != nil {
		t.Fatal(err)
	}
	m.Spec.Digest = digest
	for _, change := range []func() error{
		func() error { return nil },
		func() error { return errors.Join(os.Remove(path), os.WriteFile(path, []byte("#!/bin/sh\n"), 0o700)) },
		func() error { return os.Remove(path) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if got, err := launch(dir); err != nil || got != digest {
			t.Errorf("got %s, %v", got, err)
		}
	}
	for _, without := range []string{"", t.TempDir()} {
		if _, err := launch(without); !errors.Is(err, plugin.ErrInvalid) && !strings.Contains(err.Error(), "does not exist") {
			t.Errorf("without a copy: got %v", err)
		}
	}
	// A copy that somebody has written into is not launched.
	copied := filepath.Join(dir, "kept", strings.TrimPrefix(digest, "sha256:"))
	if err := errors.Join(os.Chmod(copied, 0o700), os.WriteFile(copied, append(program, 'x'), 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := launch(dir); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "digest") {
		t.Errorf("got %v", err)
	}
}

// changed reports that another file, or none, is at path.
func changed(t *testing.T, path string, was []byte) bool {
	t.Helper()
	is, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	return string(is) != string(was)
}
