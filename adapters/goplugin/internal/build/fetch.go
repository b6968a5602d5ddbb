package build

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// downloadBytesMax is room for an executable of any plugin that was looked at, of
	// 45 MB at most.
	downloadBytesMax = 256 << 20
	// redirectsMax is as much as a release of GitHub needs, and some more.
	redirectsMax = 5
)

// client is o.Client with our own rule for redirects: a commit is believed to one
// host, and a digest can be proved whoever sends the content.
func (b *Builder) client(s Source) *http.Client {
	own := http.Client{}
	if b.options.Client != nil {
		own = *b.options.Client
	}
	own.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		switch {
		case s.Digest == "":
			return errors.New("a redirect is followed only with a digest")
		case r.URL.Scheme != "https":
			return errors.New("a redirect leads away from https")
		case len(via) > redirectsMax:
			return fmt.Errorf("more than %d redirects", redirectsMax)
		}
		return nil
	}
	return &own
}

// fetch downloads into file.
func (b *Builder) fetch(ctx context.Context, s Source, file string) error {
	u, fault := parse(s.URL)
	if fault != "" {
		return fmt.Errorf("%w: %s", plugin.ErrInvalid, fault)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.download(u), nil)
	if err != nil {
		return fmt.Errorf("%w: %w", plugin.ErrInvalid, err)
	}
	answer, err := b.client(s).Do(request)
	if err != nil {
		return fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%w: %s answers %s", plugin.ErrUnavailable, request.URL, answer.Status)
	}
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, sum), io.LimitReader(answer.Body, downloadBytesMax+1))
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	}
	if n > downloadBytesMax {
		return fmt.Errorf("%w: %s has more than %d MiB", plugin.ErrInvalid, request.URL, downloadBytesMax>>20)
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); s.Digest != "" && got != s.Digest {
		return fmt.Errorf("%w: %s has the digest %s, and %s.digest is %s", plugin.ErrInvalid, request.URL, got, faultPath, s.Digest)
	}
	return nil
}

// What a download is, by its first bytes.
const (
	isExecutable = "\x7fELF"
	isGzip       = "\x1f\x8b"
	isZip        = "PK\x03\x04"
)

func kindOf(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, 4)
	_, _ = io.ReadFull(f, head) // a shorter one is none of them
	for _, kind := range []string{isExecutable, isGzip, isZip} {
		if bytes.HasPrefix(head, []byte(kind)) {
			return kind, nil
		}
	}
	return "", errors.New("what the URL gives is neither a .tar.gz, nor a .zip, nor an executable for Linux")
}

// unpack writes an archive's regular files into folder, and returns the source's top:
// the one folder in which all of it lies, if there is one.
func unpack(ctx context.Context, file, kind, folder string) (top string, err error) {
	if err := os.Mkdir(folder, 0o700); err != nil {
		return "", err
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return "", err
	}
	defer func() { _ = root.Close() }()
	u := &unpacking{ctx: ctx, root: root}
	if kind == isZip {
		err = u.zip(file)
	} else {
		err = u.tar(file)
	}
	if err != nil {
		return "", fmt.Errorf("archive: %w", err)
	}
	entries, err := os.ReadDir(folder)
	if err == nil && len(entries) == 1 && entries[0].IsDir() {
		folder = filepath.Join(folder, entries[0].Name())
	}
	return folder, err
}

type unpacking struct {
	ctx     context.Context
	root    *os.Root
	entries int
	bytes   int64
}

func (u *unpacking) tar(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	// Twice bytesMax: what is skipped has to be unzipped, too.
	for archive := tar.NewReader(io.LimitReader(unzipped, 2*bytesMax)); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = u.entry()
		}
		if err == nil && header.Typeflag == tar.TypeReg {
			err = u.add(header.Name, archive)
		}
		if err != nil {
			return err
		}
	}
}

func (u *unpacking) zip(file string) error {
	archive, err := zip.OpenReader(file)
	if err != nil {
		return err
	}
	defer func() { _ = archive.Close() }()
	for _, one := range archive.File {
		if err := u.entry(); err != nil {
			return err
		}
		if !one.Mode().IsRegular() {
			continue
		}
		content, err := one.Open()
		if err != nil {
			return err
		}
		err = u.add(one.Name, content)
		_ = content.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// entry counts one of any kind.
func (u *unpacking) entry() error {
	if u.entries++; u.entries > filesMax {
		return fmt.Errorf("%w: has more than %d entries", plugin.ErrInvalid, filesMax)
	}
	return u.ctx.Err()
}

// add writes one file. The root keeps it inside, whatever the name is.
func (u *unpacking) add(name string, content io.Reader) error {
	name = path.Clean(name)
	if !filepath.IsLocal(name) {
		return fmt.Errorf("%w: %q leads out of it", plugin.ErrInvalid, name)
	}
	if err := u.root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	out, err := u.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %q is in it twice", plugin.ErrInvalid, name)
	}
	if err != nil {
		return err
	}
	n, err := io.Copy(out, io.LimitReader(content, bytesMax-u.bytes+1))
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	if u.bytes += n; u.bytes > bytesMax {
		return fmt.Errorf("%w: has more than %d MiB unpacked", plugin.ErrInvalid, bytesMax>>20)
	}
	return nil
}
