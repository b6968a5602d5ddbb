// Package kept has copies of pinned executables, by their digest: so that what is pinned
// can be launched, and rolled back to, after its file has been replaced.
package kept

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Most bounds the copies, by their last use: 20 to 100 MB each.
const Most = 32

const prefix = "sha256:"

// A Store is a folder of copies. It is safe for concurrent use; the zero value and nil
// keep nothing.
type Store struct {
	dir string
	mu  sync.Mutex // one copy at a time
}

// New returns the store in dir, which is made with the first copy; "" keeps nothing.
func New(dir string) *Store { return &Store{dir: dir} }

// place is where the copy of digest is, or would be.
func (s *Store) place(digest string) (path string, ok bool) {
	sum, ok := strings.CutPrefix(digest, prefix)
	if raw, err := hex.DecodeString(sum); s == nil || s.dir == "" || !ok || err != nil || len(raw) != sha256.Size {
		return "", false
	}
	return filepath.Join(s.dir, strings.ToLower(sum)), true
}

// Choose returns path, or the copy of digest if the file at path has another one, or is
// not there, and a copy is kept.
func (s *Store) Choose(path, digest string) string {
	place, ok := s.place(digest)
	if !ok {
		return path
	}
	if got, err := proc.FileDigest(path); err == nil && strings.EqualFold(got, digest) {
		return path
	}
	now := time.Now()
	if os.Chtimes(place, now, now) != nil {
		return path
	}
	return place
}

// Keep copies the file at path, if it has the digest and there is no copy.
func (s *Store) Keep(path, digest string) error {
	place, ok := s.place(digest)
	if !ok || path == place {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := os.Lstat(place); err == nil {
		return nil
	}
	if err := s.copy(path, place, digest); err != nil {
		return fmt.Errorf("keep %s: %w: %w", path, plugin.ErrUnavailable, err)
	}
	return s.prune()
}

func (s *Store) copy(path, place, digest string) (err error) {
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	to, err := os.CreateTemp(s.dir, ".new-")
	if err != nil {
		return err
	}
	defer func() {
		_ = to.Close()
		if err != nil {
			_ = os.Remove(to.Name())
		}
	}()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(to, sum), from); err != nil {
		return err
	}
	if got := prefix + hex.EncodeToString(sum.Sum(nil)); !strings.EqualFold(got, digest) {
		return fmt.Errorf("it has %s by now, not %s", got, digest)
	}
	// Closed before it has its name: what is open for writing cannot be executed.
	return errors.Join(to.Chmod(0o500), to.Sync(), to.Close(), os.Rename(to.Name(), place))
}

// prune removes the copies beyond Most that were not used for the longest time, and what
// a daemon that was killed left half copied.
func (s *Store) prune() error {
	all, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("keep: %w: %w", plugin.ErrUnavailable, err)
	}
	used := func(entry fs.DirEntry) time.Time {
		info, err := entry.Info()
		if err != nil || strings.HasPrefix(entry.Name(), ".") {
			return time.Time{}
		}
		return info.ModTime()
	}
	slices.SortStableFunc(all, func(a, b fs.DirEntry) int { return used(b).Compare(used(a)) })
	for i, entry := range all {
		if i >= Most || strings.HasPrefix(entry.Name(), ".") {
			_ = os.Remove(filepath.Join(s.dir, entry.Name()))
		}
	}
	return nil
}
