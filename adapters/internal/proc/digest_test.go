package proc

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func digestOf(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(data))
}

func TestDigest_rightOneRuns(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho ready $1\nexit 4\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tmp := range []string{"", t.TempDir()} {
		p, out := start(t, "", func(s *Spec) {
			s.Path, s.Args, s.Digest, s.PrivateTmp = script, []string{"now"}, digestOf(t, script), tmp
		})
		if got := lines(t, p, out, 1)[0]; got != "ready now" {
			t.Errorf("script, tmp %q: got %q", tmp, got)
		}
		if got := p.Wait(); got.Code != 4 {
			t.Errorf("script, tmp %q: got %+v", tmp, got)
		}
		p, out = start(t, "look", func(s *Spec) { s.Digest, s.PrivateTmp = digestOf(t, self(t)), tmp })
		got := lines(t, p, out, 7)
		if strings.Contains(got[0], self(t)) {
			t.Errorf("tmp %q: the program keeps its own file open: %s", tmp, got[0])
		}
		if got[6] != "exe "+self(t) {
			t.Errorf("tmp %q: got %q, want %q", tmp, got[6], self(t))
		}
	}
}

// The file is replaced after it was hashed: what runs is what was hashed.
func TestDigest_swap(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "program")
	data, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := Spec{Path: path, Digest: digestOf(t, path)}.prepare()
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	other := filepath.Join(dir, "other")
	if err := errors.Join(os.WriteFile(other, []byte("#!/bin/sh\nexit 9\n"), 0o700), os.Rename(other, path)); err != nil {
		t.Fatal(err)
	}
	pid, pidfd, err := l.fork()
	if err != nil {
		t.Fatal(err)
	}
	if got := watch(pid, pidfd, "", holding{}).Wait(); got.Code != 0 {
		t.Errorf("got %+v, want the hashed program's 0", got)
	}
	if _, err := Start(Spec{Path: path, Digest: digestOf(t, "/bin/true")}); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("start of the other one: got %v, want invalid", err)
	}
}

func TestDigest_writtenBetween(t *testing.T) {
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexit 0\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	x, err := pin(path, digestOf(t, path))
	if err != nil {
		t.Fatal(err)
	}
	defer x.file.Close()
	if err := x.unchanged(); err != nil {
		t.Errorf("untouched: %v", err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexit 9; # longer\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := x.unchanged(); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("written to: got %v, want invalid", err)
	}
}

// TestDigest_timePutBack: of a write that wants to be overlooked.
func TestDigest_timePutBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexit 0\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	x, err := pin(path, digestOf(t, path))
	if err != nil {
		t.Fatal(err)
	}
	defer x.file.Close()
	if err := os.Chmod(path, 0o500); err != nil {
		t.Fatal(err)
	}
	if err := x.unchanged(); err != nil {
		t.Errorf("another mode: %v", err)
	}
	info, err := x.file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(os.Chmod(path, 0o700), os.WriteFile(path, []byte("#!/bin/sh\nexit 9\n"), 0o700), os.Chtimes(path, time.Time{}, info.ModTime()))
	if err != nil {
		t.Fatal(err)
	}
	if err := x.unchanged(); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("written to: got %v, want invalid", err)
	}
}
