package proc

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// beside is how a plugin in dir runs commands; its manifest lies there too.
func beside(dir string) Beside {
	m := plugin.Manifest{Metadata: plugin.Metadata{Source: dir}}
	return NewBeside(m, Spec{Path: "/nowhere", Env: []string{"PATH=/bin:/usr/bin", "WHO=me"}, Dir: dir})
}

// script writes a program; the tests start no shell, but a plugin may be one.
func script(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestExec_runsAsThePluginDoes(t *testing.T) {
	dir := t.TempDir()
	script(t, dir, "check", `echo "$WHO $(pwd) $1" ; echo worse >&2; exit 3`)
	code, output, err := beside(dir).Exec(within(t, 10*time.Second), []string{"./check", "a b;c"})
	if want := "me " + dir + " a b;c\nworse\n"; code != 3 || string(output) != want || err != nil {
		t.Errorf("got %d %q %v, want 3 %q", code, output, err, want)
	}
	if code, _, err := beside(dir).Exec(within(t, 10*time.Second), []string{"true"}); code != 0 || err != nil {
		t.Errorf("a name on the PATH: got %d %v", code, err)
	}
	if _, _, err := beside(dir).Exec(within(t, time.Second), []string{"check"}); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "not on the plugin's PATH") {
		t.Errorf("a name that is not on the PATH: got %v", err)
	}
}

func TestExec_isBounded(t *testing.T) {
	dir := t.TempDir()
	script(t, dir, "flood", `while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done`)
	_, output, err := beside(dir).Exec(within(t, 300*time.Millisecond), []string{"./flood"})
	if !errors.Is(err, plugin.ErrDeadline) || len(output) != plugin.ExecOutputBytesMax {
		t.Errorf("got %d bytes, %v, want the head and deadline", len(output), err)
	}
	script(t, dir, "leave", `setsid sleep 3 & echo $!; sleep 0.2`)
	begun := time.Now()
	_, output, err = beside(dir).Exec(within(t, 10*time.Second), []string{"./leave"})
	if err != nil || len(output) == 0 {
		t.Errorf("one that leaves a child behind: got %q %v", output, err)
	}
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("took %s: a child that holds the pipe was waited for", took)
	}
}

func TestCheckProbes(t *testing.T) {
	dir := t.TempDir()
	script(t, dir, "check", `exit 0`)
	ask := func(command ...string) plugin.Question {
		return plugin.Question{Exec: &plugin.ExecQuestion{Command: command}}
	}
	var faults plugin.Faults
	CheckProbes(&faults, plugin.Manifest{Metadata: plugin.Metadata{Source: dir}, Spec: plugin.Spec{Probe: plugin.Probe{
		Question: ask("./check"), Startup: &plugin.StartupProbe{Question: ask("./none")}, Liveness: &plugin.LivenessProbe{Question: ask("no-such-program")},
	}}})
	if len(faults) != 2 || faults[0].Path != "spec.probe.startup.exec.command[0]" || faults[1].Path != "spec.probe.liveness.exec.command[0]" {
		t.Errorf("got %v, want both that cannot be run", faults)
	}
}

func TestStopSteps(t *testing.T) {
	p, out := start(t, "ignore-term", nil)
	lines(t, p, out, 1)
	_ = syscall.Kill(p.Pid(), syscall.SIGSTOP)
	begun := time.Now()
	if err := p.Stop(within(t, 400*time.Millisecond), func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 900*time.Millisecond {
		t.Errorf("a frozen process took %s to stop, want its 400ms and at most 500ms more", took)
	}
	var got []string
	for _, s := range p.StopSteps() {
		got = append(got, s.Name+" "+s.Outcome)
	}
	if all := strings.Join(got, ", "); all != "ask late, term late, kill ended" {
		t.Errorf("got %s", all)
	}
	if err := p.Stop(within(t, time.Second), nil); err != nil || len(p.StopSteps()) != 3 {
		t.Errorf("a second stop: got %v and %v", err, p.StopSteps())
	}
}
