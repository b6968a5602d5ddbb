package secret_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/secret"
)

func write(t *testing.T, path, value string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(value), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
}

func TestResolve(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "vendor", "key"), "s3cret\n", 0o600)
	got, err := secret.Folder{Path: dir}.Resolve(map[string]plugin.EnvValue{
		"PLAIN": {Value: "text"}, "KEY": {Secret: "vendor/key"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"PLAIN": "text", "KEY": "s3cret"}, got); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

func TestResolve_refusals(t *testing.T) {
	outside := t.TempDir()
	write(t, filepath.Join(outside, "elsewhere"), "TOPSECRET", 0o600)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "open"), "TOPSECRET", 0o644)
	write(t, filepath.Join(dir, "nul"), "TOP\x00SECRET", 0o600)
	write(t, filepath.Join(dir, "big"), strings.Repeat("TOPSECRET", 10_000), 0o600)
	if err := os.Symlink(filepath.Join(outside, "elsewhere"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, want string
		class      error
	}{
		{"fifo", "not a regular file", plugin.ErrInvalid},
		{"missing", "put its value into the file", plugin.ErrUnavailable},
		{"../elsewhere", "a name is words", plugin.ErrInvalid},
		{"link", "put its value into the file", plugin.ErrUnavailable},
		{"open", "chmod 600", plugin.ErrUnavailable},
		{"nul", "NUL byte", plugin.ErrInvalid},
		{"big", "more than", plugin.ErrInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := secret.Folder{Path: dir}.Resolve(map[string]plugin.EnvValue{"KEY": {Secret: tt.name}})
			if !errors.Is(err, tt.class) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "spec.env.KEY") {
				t.Errorf("got %v, want %q of class %v, with the field's path", err, tt.want, tt.class)
			}
			if err != nil && strings.Contains(err.Error(), "SECRET") {
				t.Errorf("the error shows the value: %v", err)
			}
		})
	}
}
