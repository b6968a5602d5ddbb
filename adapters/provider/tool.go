package provider

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	defineMax = 10 * time.Second
	unpackMax = 60 * time.Second
	// defineBytesMax is far above the largest known definition, 147 kB.
	defineBytesMax = 8 << 20
	// toolStderrMax is kept of what define and unpack print on stderr.
	toolStderrMax = 64 << 10
)

// define asks the provider what it is. The token "catalog" keeps providers that
// would look around first from doing so.
func (b *birth) define(ctx context.Context) (*definition, error) {
	stdout, err := b.tool(ctx, defineMax, map[string]string{"RS_TOKEN": "catalog"}, "define")
	if err != nil {
		return nil, err
	}
	d, err := parseDefinition(stdout)
	if err != nil {
		return nil, fmt.Errorf("define: %w", err)
	}
	return d, nil
}

// unpack lets the provider write its files into the folder of static files.
func (b *birth) unpack(ctx context.Context) error {
	dir := filepath.Join(b.webroot(), "plugin_providers", b.def.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("unpack: %w: %w", plugin.ErrUnavailable, err)
	}
	_, err := b.tool(ctx, unpackMax, nil, "unpack", dir)
	return err
}

// tool runs the provider for one short task and returns its stdout.
func (b *birth) tool(ctx context.Context, limit time.Duration, env map[string]string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return nil, late(ctx, args[0], err)
	}
	out, err := b.tempFile(args[0] + ".out")
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", args[0], plugin.ErrUnavailable, err)
	}
	defer discard(out)
	noise, err := b.tempFile(args[0] + ".err")
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", args[0], plugin.ErrUnavailable, err)
	}
	defer discard(noise)
	spec := b.spec(env, out, noise, args...)
	spec.Brief = true
	p, err := proc.Start(spec)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", args[0], err)
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		p.Kill()
		p.Wait()
		return nil, late(ctx, args[0], errors.New("it did not finish"))
	}
	stderr := readBack(noise, toolStderrMax)
	if len(stderr) > 0 {
		_, _ = b.l.Output.Writer(plugin.Stderr).Write(stderr)
	}
	if exit := p.Wait(); !exit.Success() {
		return nil, fmt.Errorf("%s: %w: %s%s", args[0], plugin.ErrInvalid, exit, b.hide.text(verdict(stderr)))
	}
	return readBack(out, defineBytesMax), nil
}

// tempFile makes a file in the instance's folder that a child appends to.
func (b *birth) tempFile(name string) (*os.File, error) {
	return os.OpenFile(filepath.Join(b.l.Dir, name), os.O_CREATE|os.O_EXCL|os.O_APPEND|os.O_RDWR, 0o600)
}

func discard(f *os.File) {
	_ = f.Close()
	_ = os.Remove(f.Name())
}

func readBack(f *os.File, limit int64) []byte {
	data, _ := io.ReadAll(io.NewSectionReader(f, 0, limit))
	return data
}

// verdict finds the line of stderr that says why: the library's "Error:", a
// panic, else the last line.
func verdict(stderr []byte) string {
	var last string
	for line := range bytes.Lines(stderr) {
		text := strings.TrimSpace(string(line))
		if strings.HasPrefix(text, "Error:") || strings.HasPrefix(text, "panic:") {
			return ": " + text
		}
		if text != "" {
			last = ": " + text
		}
	}
	return last
}

// late classes what happened by whether ctx had ended: out of time, called off,
// or neither.
func late(ctx context.Context, what string, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%s: %w: %w: %w", what, plugin.ErrUnavailable, plugin.ErrDeadline, err)
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w: %w", what, plugin.ErrUnavailable, ctx.Err())
	}
	return fmt.Errorf("%s: %w: %w", what, plugin.ErrUnavailable, err)
}
