package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// filesMax and bytesMax bound a module's source: Reva itself has 2,000 files and 20
	// MB, and what is larger is rather a folder that was named by mistake.
	filesMax = 50000
	bytesMax = 512 << 20
)

// moduleOf is the folder that has the go.mod.
func moduleOf(folder string) (string, error) {
	for dir := filepath.Clean(folder); ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil && info.Mode().IsRegular() {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s has no go.mod, nor has any folder above it; run go mod init there", folder)
		}
	}
}

// A tree reads a module's source, and copies it unless to is nil.
type tree struct {
	to    *os.Root
	sum   hash.Hash
	files int
	bytes int64
}

// sumOf hashes the names and contents of the regular files below root.
func sumOf(ctx context.Context, root string, to *os.Root) (string, error) {
	t := &tree{to: to, sum: sha256.New()}
	from, err := os.OpenRoot(root)
	if err != nil {
		return "", fmt.Errorf("source: %w: %w", plugin.ErrUnavailable, err)
	}
	defer func() { _ = from.Close() }()
	err = fs.WalkDir(from.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case entry.IsDir() && entry.Name() == ".git":
			return fs.SkipDir
		case entry.IsDir() && to != nil:
			return to.MkdirAll(name, 0o700)
		case entry.Type().IsRegular():
			return t.add(from, name)
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("source %s: %w: %w", root, plugin.ErrUnavailable, err)
	}
	return hex.EncodeToString(t.sum.Sum(nil)), nil
}

func (t *tree) add(from *os.Root, name string) error {
	if t.files++; t.files > filesMax {
		return fmt.Errorf("has more than %d files", filesMax)
	}
	file, err := from.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	content := sha256.New()
	var into io.Writer = content
	if t.to != nil {
		copied, err := t.to.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer func() { _ = copied.Close() }()
		into = io.MultiWriter(content, copied)
	}
	n, err := io.Copy(into, io.LimitReader(file, bytesMax-t.bytes+1))
	if t.bytes += n; t.bytes > bytesMax {
		return fmt.Errorf("has more than %d MiB", bytesMax>>20)
	}
	_, _ = fmt.Fprintf(t.sum, "%q %x\n", name, content.Sum(nil))
	return err
}
