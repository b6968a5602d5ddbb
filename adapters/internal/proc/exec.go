package proc

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Beside runs commands as a plugin runs: with its environment, in its folder, with
// its /tmp. It is for probes: a command ends with the daemon and with its context,
// whatever the plugin does. Embedded it makes an instance a [plugin.Execer].
type Beside struct {
	manifest plugin.Manifest
	like     Spec
}

var _ plugin.Execer = Beside{}

// NewBeside takes of a plugin's Spec what its commands share with it.
func NewBeside(m plugin.Manifest, s Spec) Beside {
	return Beside{m, Spec{Env: s.Env, Dir: s.Dir, PrivateTmp: s.PrivateTmp, Brief: true}}
}

// Exec runs a command and returns its exit code and the head of what it printed.
func (b Beside) Exec(ctx context.Context, command []string) (code int, output []byte, err error) {
	s := b.like
	if s.Path, err = lookCommand(b.manifest, command[0], pathOf(s.Env)); err != nil {
		return 0, nil, fmt.Errorf("%w: %w", plugin.ErrInvalid, err)
	}
	s.Args = command[1:]
	r, w, err := os.Pipe()
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	}
	s.Stdout, s.Stderr = w, w
	p, err := Start(s)
	_ = w.Close() // the child has its own
	if err != nil {
		_ = r.Close()
		return 0, nil, err
	}
	read := make(chan []byte, 1)
	go func() { read <- head(r) }() // ends when the pipe does, or r is closed by rest
	defer context.AfterFunc(ctx, p.Kill)()
	exit := p.Wait()
	output = rest(r, read)
	switch {
	case ctx.Err() != nil:
		return 0, output, fmt.Errorf("%s: %w: it was killed: %w", command[0], plugin.ErrDeadline, ctx.Err())
	case exit.Code < 0:
		return 0, output, fmt.Errorf("%s: %w: %s", command[0], plugin.ErrUnavailable, exit)
	}
	return exit.Code, output, nil
}

// rest waits for what a command that has ended has printed. What left its group
// may hold the other end of the pipe for as long as it likes.
func rest(r *os.File, read <-chan []byte) []byte {
	late := time.AfterFunc(restMax, func() { _ = r.Close() })
	defer late.Stop()
	defer func() { _ = r.Close() }() // it may be closed already
	return <-read
}

// restMax is for reading what is in the pipe already: microseconds.
const restMax = 100 * time.Millisecond

// head keeps the first of what is printed and reads the rest away, so that nobody
// blocks on a pipe that is full.
func head(r io.Reader) []byte {
	kept, err := io.ReadAll(io.LimitReader(r, plugin.ExecOutputBytesMax))
	if err == nil {
		_, _ = io.Copy(io.Discard, r)
	}
	return kept
}

func pathOf(env []string) string {
	for _, pair := range env {
		if path, ok := strings.CutPrefix(pair, "PATH="); ok {
			return path
		}
	}
	return defaultPath
}

// lookCommand finds a program: a name without a slash in path, another one from
// the manifest's folder.
func lookCommand(m plugin.Manifest, name, path string) (string, error) {
	if strings.Contains(name, "/") {
		full, err := m.Path(name)
		if err != nil {
			return "", err
		}
		return full, LookExecutable(full)
	}
	for _, dir := range filepath.SplitList(path) {
		if full := filepath.Join(dir, name); filepath.IsAbs(full) && LookExecutable(full) == nil {
			return full, nil
		}
	}
	return "", fmt.Errorf("%s is not on the plugin's PATH, %s; give its path", name, path)
}

// CheckProbes reports the commands of spec.probe that cannot be run on this
// machine.
func CheckProbes(faults *plugin.Faults, m plugin.Manifest) {
	probe := m.Spec.Probe
	checkCommand(faults, m, "spec.probe", probe.Question)
	if probe.Startup != nil {
		checkCommand(faults, m, "spec.probe.startup", probe.Startup.Question)
	}
	if probe.Liveness != nil {
		checkCommand(faults, m, "spec.probe.liveness", probe.Liveness.Question)
	}
}

func checkCommand(faults *plugin.Faults, m plugin.Manifest, at string, q plugin.Question) {
	if q.Exec == nil || len(q.Exec.Command) == 0 || q.Exec.Command[0] == "" {
		return // core/manifest tells what is empty
	}
	path := defaultPath
	if own, ok := m.Spec.Env["PATH"]; ok {
		path = own.Value
	}
	if path == "" && !strings.Contains(q.Exec.Command[0], "/") {
		return // a secret's: seen at launch
	}
	if _, err := lookCommand(m, q.Exec.Command[0], path); err != nil {
		faults.Add(at+".exec.command[0]", "%s", err)
	}
}
