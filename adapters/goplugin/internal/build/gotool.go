package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// openFilesMax is ample for the go tool, whose compilers have some hundred open.
const openFilesMax = 4096

// A goTool runs the go tool on one source behind a fence: it sees the source, its own
// work and caches, and what of the machine everybody may see.
type goTool struct {
	path, folder, work, root string
	env                      []string
	said                     *os.File
}

// A step is what the go tool is run for.
type step bool

const (
	// fetching downloads modules: with the network, and may write into their cache.
	fetching step = true
	// compiling has no network, and may write into the work and the cache of builds.
	compiling step = false
)

// do runs the go tool. Its error has what that said last.
func (g goTool) do(ctx context.Context, s step, args ...string) error {
	modules, builds := g.value("GOMODCACHE"), g.value("GOCACHE")
	for _, dir := range []string{modules, builds} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
		}
	}
	fence := &proc.Fence{Root: g.root, Readable: g.readable(), Writable: []string{g.work, builds}, Network: s == fetching}
	env := slices.Clone(g.env)
	if s == fetching {
		fence.Writable = append(fence.Writable, modules)
	} else {
		fence.Readable = append(fence.Readable, modules)
		env = append(slices.DeleteFunc(env, func(pair string) bool { return strings.HasPrefix(pair, "GOPROXY=") }), "GOPROXY=off")
	}
	p, err := proc.Start(proc.Spec{
		Path: g.path, Args: args, Dir: g.folder, Env: env, Fence: fence, Stdout: g.said, Stderr: g.said,
		Limits: plugin.Limits{Memory: memoryMax, OpenFiles: openFilesMax},
	})
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, p.Kill)()
	switch exit := p.Wait(); {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%w: go %s took longer than %s", plugin.ErrUnavailable, args[0], buildMax)
	case !exit.Success():
		return fmt.Errorf("%w: go %s: %s: %s", plugin.ErrUnavailable, args[0], exit, lastWords(g.said))
	}
	return nil
}

// readable are the toolchain, and what the environment names that may lie anywhere.
func (g goTool) readable() []string {
	all := []string{filepath.Dir(filepath.Dir(g.path)), g.value("SSL_CERT_FILE")}
	all = append(all, filepath.SplitList(g.value("SSL_CERT_DIR"))...)
	for _, proxy := range strings.FieldsFunc(g.value("GOPROXY"), func(r rune) bool { return r == ',' || r == '|' }) {
		if dir, ok := strings.CutPrefix(proxy, "file://"); ok {
			all = append(all, dir)
		}
	}
	return all
}

// value is that of a variable of the tool's.
func (g goTool) value(name string) string {
	for _, pair := range g.env {
		if value, ok := strings.CutPrefix(pair, name+"="); ok {
			return value
		}
	}
	return ""
}
