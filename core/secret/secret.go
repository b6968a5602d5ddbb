// Package secret resolves references to secrets when a plugin is launched. A
// secret is a file in one folder of the daemon's: {secret: vendor/key} is the
// file vendor/key there. Values are read at each launch, are never kept, and
// appear in no log and no error.
package secret

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"syscall"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// valueBytesMax bounds a secret: an environment value beyond 128 KiB cannot be
// passed to a process, and half of that leaves room for the rest.
const valueBytesMax = 64 << 10

var namePattern = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$`)

// Folder resolves secrets from the files of one folder.
type Folder struct{ Path string }

// Resolve returns env with every reference replaced by its value. An unknown or
// unreadable secret is ErrUnavailable: it may be put there later.
func (f Folder) Resolve(env map[string]plugin.EnvValue) (map[string]string, error) {
	out := make(map[string]string, len(env))
	for key, v := range env {
		if v.Secret == "" {
			out[key] = v.Value
			continue
		}
		value, err := f.read(v.Secret)
		if err != nil {
			return nil, fmt.Errorf("spec.env.%s: secret %q: %w", key, v.Secret, err)
		}
		out[key] = value
	}
	return out, nil
}

// read returns one secret. One newline at its end belongs to the editor that
// wrote it, not to the value.
func (f Folder) read(name string) (string, error) {
	if !namePattern.MatchString(name) {
		return "", fmt.Errorf("%w: a name is words of letters, digits, '.', '_' and '-', joined by '/'", plugin.ErrInvalid)
	}
	root, err := os.OpenRoot(f.Path)
	if err != nil {
		return "", fmt.Errorf("%w: the secrets folder cannot be read: %w", plugin.ErrUnavailable, err)
	}
	defer root.Close()
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO would wait for a writer
	if err != nil {
		return "", fmt.Errorf("%w: put its value into the file %s/%s, mode 0600", plugin.ErrUnavailable, f.Path, name)
	}
	defer file.Close()
	if err := private(file); err != nil {
		return "", err
	}
	data, err := io.ReadAll(io.LimitReader(file, valueBytesMax+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	case len(data) > valueBytesMax:
		return "", fmt.Errorf("%w: it has more than %d bytes", plugin.ErrInvalid, valueBytesMax)
	case strings.ContainsRune(string(data), 0):
		return "", fmt.Errorf("%w: it has a NUL byte, which no environment can carry", plugin.ErrInvalid)
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r"), nil
}

// private refuses a secret that others on the machine can read.
func private(file *os.File) error {
	info, err := file.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w: it is not a regular file", plugin.ErrInvalid)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%w: its file has mode %04o; make it readable by its owner only (chmod 600)", plugin.ErrUnavailable, info.Mode().Perm())
	}
	return nil
}
