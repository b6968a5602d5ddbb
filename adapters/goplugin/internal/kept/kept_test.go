package kept_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/kept"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// write makes a file and returns its path and digest.
func write(t *testing.T, dir, content string) (path, digest string) {
	t.Helper()
	path = filepath.Join(dir, "executable")
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(path, []byte(content), 0o700)); err != nil {
		t.Fatal(err)
	}
	return path, fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(content)))
}

func content(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

func TestStore(t *testing.T) {
	dir, here := filepath.Join(t.TempDir(), "kept"), t.TempDir()
	s := kept.New(dir)
	path, one := write(t, here, "one")
	if got := s.Choose(path, one); got != path {
		t.Errorf("got %s, want the file itself", got)
	}
	if err := s.Keep(path, one); err != nil {
		t.Fatal(err)
	}
	if got := s.Choose(path, one); got != path {
		t.Errorf("got %s, want the file itself as long as it is the same", got)
	}
	_, two := write(t, here, "two")
	copied := s.Choose(path, one)
	if copied == path || content(t, copied) != "one" {
		t.Errorf("got %s, want a copy", copied)
	}
	if info, err := os.Stat(copied); err != nil || info.Mode().Perm() != 0o500 {
		t.Errorf("got %v, %v", info.Mode(), err)
	}
	if got := s.Choose(path, two); got != path {
		t.Errorf("got %s, want the file itself", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := s.Choose(path, one); got != copied {
		t.Errorf("got %s, want the copy of a file that is gone", got)
	}
	if got := s.Choose(path, two); got != path {
		t.Errorf("got %s, want the path of what nobody has kept", got)
	}
	if err := s.Keep(copied, one); err != nil { // what runs is a copy already
		t.Error(err)
	}
}

// TestStore_replaced: a file that is another one by now is not kept under the digest.
func TestStore_replaced(t *testing.T) {
	dir, here := filepath.Join(t.TempDir(), "kept"), t.TempDir()
	s := kept.New(dir)
	_, one := write(t, here, "one")
	path, _ := write(t, here, "two")
	if err := s.Keep(path, one); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// TestStore_none: without a folder, and without a digest, nothing is kept.
func TestStore_none(t *testing.T) {
	path, digest := write(t, t.TempDir(), "one")
	dir := filepath.Join(t.TempDir(), "kept")
	for _, s := range []*kept.Store{nil, kept.New(""), kept.New(dir)} {
		for _, d := range []string{"", "sha256:", "sha256:../../x", "md5:00", digest} {
			if s != nil && d == digest {
				continue
			}
			if err := s.Keep(path, d); err != nil {
				t.Error(err)
			}
			if got := s.Choose("elsewhere", d); got != "elsewhere" {
				t.Errorf("got %s", got)
			}
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a folder was made")
	}
}

// TestStore_bound: the copies that were used last stay, and half a copy goes.
func TestStore_bound(t *testing.T) {
	dir, here := filepath.Join(t.TempDir(), "kept"), t.TempDir()
	s := kept.New(dir)
	var digests []string
	for i := range kept.Most + 3 {
		path, digest := write(t, here, fmt.Sprint(i))
		if err := s.Keep(path, digest); err != nil {
			t.Fatal(err)
		}
		past := time.Now().Add(time.Duration(i-1000) * time.Minute)
		if err := os.Chtimes(filepath.Join(dir, digest[len("sha256:"):]), past, past); err != nil {
			t.Fatal(err)
		}
		digests = append(digests, digest)
		s.Choose(filepath.Join(here, "none"), digests[0]) // used again and again
	}
	if err := os.WriteFile(filepath.Join(dir, ".new-1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path, last := write(t, here, "last")
	if err := s.Keep(path, last); err != nil {
		t.Fatal(err)
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != kept.Most {
		t.Errorf("%d are kept, %v, want %d", len(all), err, kept.Most)
	}
	for i, digest := range append(digests, last) {
		_, err := os.Stat(filepath.Join(dir, digest[len("sha256:"):]))
		if gone := i >= 1 && i <= 4; gone != errors.Is(err, os.ErrNotExist) {
			t.Errorf("%d: %v", i, err)
		}
	}
}
