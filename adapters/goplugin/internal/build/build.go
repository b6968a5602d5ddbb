package build

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// buildMax is for a first build on a small machine, downloads included: Reva's
	// plugins take some minutes there.
	buildMax = 20 * time.Minute
	// builtMax bounds the executables that are kept, by their last use: 20 MB each.
	builtMax = 64
	// memoryMax is several times what the linker takes for the largest known plugin.
	memoryMax = 4 << 30
	// wordsBytesMax is the end of what the go tool printed, in an error.
	wordsBytesMax = 2 << 10
)

// Options is what a Builder is told of the daemon.
type Options struct {
	// Dir is the Builder's folder; it is made when it is needed. "" allows no builds.
	Dir string
	// Allowed lists what may be downloaded: hosts, and paths below them, as
	// github.com/OWNER.
	Allowed []string
	// Client downloads; nil is the default one.
	Client *http.Client
}

// work has a folder of its own for each build, all what is done, by key.
func (b *Builder) work() string            { return filepath.Join(b.options.Dir, "work") }
func (b *Builder) all() string             { return filepath.Join(b.options.Dir, "built") }
func (b *Builder) root() string            { return filepath.Join(b.options.Dir, "root") } // stays empty
func (b *Builder) built(key string) string { return filepath.Join(b.all(), key) }

// Executable returns the path of what s is built to, after it is built if it is not
// there. ErrUnavailable with ctx at its end: the build goes on, and the next call
// joins it. s was checked.
func (b *Builder) Executable(ctx context.Context, s Source) (string, error) {
	key, err := b.key(ctx, s)
	if err != nil {
		return "", fmt.Errorf("build: %w", err)
	}
	path := b.built(key)
	now := time.Now()
	if err := os.Chtimes(path, now, now); err == nil {
		return path, nil
	}
	return path, b.share(ctx, key, func(ctx context.Context) error { return b.make(ctx, s, key) })
}

// Find returns where Executable finds what is built already. ErrNotFound: it would
// build.
func (b *Builder) Find(ctx context.Context, s Source) (string, error) {
	key, err := b.key(ctx, s)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(b.built(key)); err != nil {
		return "", fmt.Errorf("%w: the source is another than what was built", plugin.ErrNotFound)
	}
	return b.built(key), nil
}

// key names what s is built to.
func (b *Builder) key(ctx context.Context, s Source) (string, error) {
	_, version, err := toolchain()
	of := []string{s.URL, s.Commit, s.Digest, filepath.Clean(s.Package)}
	if s.Folder != "" {
		if err != nil {
			return "", err
		}
		module, err := moduleOf(s.Folder)
		if err != nil {
			return "", fmt.Errorf("%w: %w", plugin.ErrInvalid, err)
		}
		sum, err := sumOf(ctx, module, nil)
		if err != nil {
			return "", err
		}
		below, _ := filepath.Rel(module, s.Folder) // it is an ancestor
		of = []string{sum, below}
	}
	text := fmt.Sprintf("%q", append(of, version, runtime.GOOS, runtime.GOARCH))
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:]), nil
}

// toolchain finds the go tool, which was built by its own version.
func toolchain() (path, version string, err error) {
	path, err = exec.LookPath("go")
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return "", "", fmt.Errorf("%w: go: %w", plugin.ErrInvalid, err)
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return "", "", fmt.Errorf("%w: %s is not the go tool itself: %w", plugin.ErrInvalid, path, err)
	}
	return path, info.GoVersion, nil
}

// make builds s into its place. It is alone.
func (b *Builder) make(ctx context.Context, s Source, key string) error {
	ctx, cancel := context.WithTimeout(ctx, buildMax)
	defer cancel()
	if err := b.prepare(); err != nil {
		return fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	}
	work, err := os.MkdirTemp(b.work(), "")
	if err != nil {
		return fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	result := filepath.Join(work, "executable")
	if s.Folder != "" {
		err = b.fromFolder(ctx, s, key, work, result)
	} else {
		err = b.fromURL(ctx, s, work, result)
	}
	if err != nil {
		return err
	}
	return b.keep(result, key)
}

func (b *Builder) fromFolder(ctx context.Context, s Source, key, work, result string) error {
	module, err := moduleOf(s.Folder)
	if err != nil {
		return fmt.Errorf("%w: %w", plugin.ErrInvalid, err)
	}
	copied := filepath.Join(work, "source")
	if err := os.Mkdir(copied, 0o700); err != nil {
		return fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	}
	to, err := os.OpenRoot(copied)
	if err != nil {
		return fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	}
	defer func() { _ = to.Close() }()
	if _, err := sumOf(ctx, module, to); err != nil {
		return err
	}
	below, _ := filepath.Rel(module, s.Folder)
	here := Source{Folder: filepath.Join(copied, below)}
	if got, err := b.key(ctx, here); err != nil || got != key {
		return fmt.Errorf("%w: %s changed while it was read; try again", plugin.ErrUnavailable, module)
	}
	return b.compile(ctx, here.Folder, work, result)
}

func (b *Builder) fromURL(ctx context.Context, s Source, work, result string) error {
	file := filepath.Join(work, "download")
	if err := b.fetch(ctx, s, file); err != nil {
		return err
	}
	kind, err := kindOf(file)
	if err != nil {
		return fmt.Errorf("%w: %w", plugin.ErrInvalid, err)
	}
	if kind == isExecutable {
		return os.Rename(file, result)
	}
	top, err := unpack(ctx, file, kind, filepath.Join(work, "source"))
	if err != nil && !errors.Is(err, plugin.ErrInvalid) {
		return fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	}
	if err != nil {
		return err
	}
	folder := filepath.Join(top, s.Package)
	if module, err := moduleOf(folder); err != nil || module != top && !strings.HasPrefix(module, top+"/") {
		return fmt.Errorf("%w: %s has no go.mod above %s", plugin.ErrInvalid, s.URL, cmp.Or(s.Package, "its top"))
	}
	return b.compile(ctx, folder, work, result)
}

// inherited is what the go tool is given of the daemon's environment: where modules
// come from on this machine, and where an administrator wants its caches.
func inherited() []string {
	return []string{
		"PATH", "GOPROXY", "GONOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE", "GOCACHE", "GOMODCACHE",
		"HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
	}
}

func (b *Builder) environ(work string) []string {
	env := []string{
		"GOCACHE=" + filepath.Join(b.options.Dir, "go-build"), "GOMODCACHE=" + filepath.Join(b.options.Dir, "mod"),
		"GOPATH=" + filepath.Join(b.options.Dir, "gopath"), "HOME=" + work, "TMPDIR=" + work,
		"GOENV=off", "GOFLAGS=-modcacherw", "GOTOOLCHAIN=local", "GOWORK=off", "GOVCS=*:off", "CGO_ENABLED=0",
	}
	for _, name := range inherited() {
		if value, ok := os.LookupEnv(name); ok {
			env = slices.DeleteFunc(env, func(pair string) bool { return strings.HasPrefix(pair, name+"=") })
			env = append(env, name+"="+value)
		}
	}
	return env
}

// compile runs the go tool in folder, whose package main it makes into result.
func (b *Builder) compile(ctx context.Context, folder, work, result string) error {
	tool, _, err := toolchain()
	if err != nil {
		return err
	}
	if err := quieten(work); err != nil {
		return fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	}
	said, err := os.OpenFile(filepath.Join(work, "said"), os.O_CREATE|os.O_EXCL|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	}
	defer func() { _ = said.Close() }()
	run := goTool{path: tool, folder: folder, work: work, root: b.root(), env: b.environ(work), said: said}
	// Modules first, so that what reads the source has no network.
	if err := run.do(ctx, fetching, "list", "-deps", "-buildvcs=false", "-f", "{{with .Error}}{{.}}{{end}}", "."); err != nil {
		return err
	}
	if err := run.do(ctx, compiling, "build", "-trimpath", "-buildvcs=false", "-o", result, "."); err != nil {
		return err
	}
	if err := proc.LookExecutable(result); err != nil { // go builds other packages, too
		return fmt.Errorf("%w: it is no package main: %w", plugin.ErrInvalid, err)
	}
	return nil
}

// quieten turns the go tool's telemetry off for the home that it is given. Once a day and
// home the tool would start a process in a session of its own, which outlives it and
// writes into a folder that is being removed. No variable turns it off.
func quieten(home string) error {
	dir := filepath.Join(home, ".config", "go", "telemetry")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "mode"), []byte("off\n"), 0o600)
}

func lastWords(f *os.File) string {
	size, _ := f.Seek(0, io.SeekEnd)
	text := make([]byte, min(size, wordsBytesMax))
	n, _ := f.ReadAt(text, size-int64(len(text)))
	return strings.ToValidUTF8(string(bytes.TrimSpace(text[:n])), "?")
}

// prepare makes the folders, and removes what a daemon that was killed left.
func (b *Builder) prepare() error {
	if b.prepared {
		return nil
	}
	err := os.RemoveAll(b.work())
	for _, dir := range []string{b.work(), b.all(), b.root()} {
		err = errors.Join(err, os.MkdirAll(dir, 0o700))
	}
	b.prepared = err == nil
	return err
}

// keep puts an executable into its place, whole on disk, and removes those that were
// not used for the longest time.
func (b *Builder) keep(result, key string) error {
	f, err := os.Open(result)
	if err == nil {
		err = errors.Join(f.Chmod(0o700), f.Sync(), f.Close(), os.Rename(result, b.built(key)))
	}
	if err != nil {
		return fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	}
	done, err := os.ReadDir(b.all())
	if err != nil {
		return fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	}
	used := func(entry fs.DirEntry) time.Time {
		info, err := entry.Info()
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	slices.SortFunc(done, func(a, b fs.DirEntry) int { return used(b).Compare(used(a)) })
	for _, old := range done[min(len(done), builtMax):] {
		_ = os.Remove(b.built(old.Name()))
	}
	return nil
}
