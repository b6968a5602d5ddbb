package proc

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const digestPrefix = "sha256:"

// A pinned executable was hashed and is executed through its open descriptor: a
// file that is put in its place meanwhile is not what runs. Somebody who may
// write into the file itself could still do so between hash and exec; unchanged
// notices that.
type pinned struct {
	file   *os.File
	digest string
	script bool // begins with #!
	before syscall.Stat_t
}

func pin(path, digest string) (_ *pinned, err error) {
	want, ok := strings.CutPrefix(digest, digestPrefix)
	if !ok {
		return nil, fmt.Errorf("digest: %w: %q does not begin with %s", plugin.ErrInvalid, digest, digestPrefix)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("digest: %w: %w", plugin.ErrInvalid, err)
	}
	defer func() {
		if err != nil {
			_ = file.Close()
		}
	}()
	p := &pinned{file: file, digest: digestPrefix + strings.ToLower(want)}
	if p.before, err = p.stat(); err != nil {
		return nil, fmt.Errorf("digest: %w: %w", plugin.ErrInvalid, err)
	}
	got, err := hash(file)
	if err != nil {
		return nil, fmt.Errorf("digest: %w: %w", plugin.ErrUnavailable, err)
	}
	if got != p.digest {
		return nil, fmt.Errorf("digest: %w: %s has %s, not %s", plugin.ErrInvalid, path, got, digest)
	}
	var magic [2]byte
	_, err = file.ReadAt(magic[:], 0)
	p.script = string(magic[:]) == "#!"
	return p, ignoreEOF(err)
}

// hash returns "sha256:HEX" of what r still has.
func hash(r io.Reader) (string, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		return "", err
	}
	return digestPrefix + hex.EncodeToString(sum.Sum(nil)), nil
}

func (p *pinned) stat() (st syscall.Stat_t, err error) {
	err = syscall.Fstat(int(p.file.Fd()), &st)
	return st, err
}

// unchanged fails when the file was written to since it was hashed. The time of the
// write can be put back, that of the change of the inode cannot; but a new name or
// mode is such a change, too, and then the file is hashed again.
func (p *pinned) unchanged() error {
	now, err := p.stat()
	if err != nil {
		return fmt.Errorf("digest: %w: %w", plugin.ErrUnavailable, err)
	}
	if now.Size == p.before.Size && now.Ctim == p.before.Ctim {
		return nil
	}
	got, err := hash(io.NewSectionReader(p.file, 0, now.Size))
	if err != nil {
		return fmt.Errorf("digest: %w: %w", plugin.ErrUnavailable, err)
	}
	if got != p.digest || now.Size != p.before.Size || now.Mtim != p.before.Mtim {
		return fmt.Errorf("digest: %w: the file was written to while it was being started", plugin.ErrInvalid)
	}
	return nil
}

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}
