package container_test

import (
	"context"
	"errors"
	"strconv"
	"syscall"
	"testing"
	"time"

	dockercontainer "github.com/docker/docker/api/types/container"

	"github.com/patchbay-dev/patchbay/adapters/container"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// A container of an earlier daemon of this node goes; others stay.
func TestSweep(t *testing.T) {
	a := newAdapter(t)
	mine, other := node+"-swept", node
	var ids []string
	for _, n := range []string{mine, other} {
		l := conformance.NewLaunch(t, manifestOf(plugin.Job, `{"image": "`+tag+`", "pull": "never"}`))
		// The adapter that launches it is another one: it still waits for it, and
		// must take the removal for an end.
		i, err := container.New(container.Options{Node: n}).Launch(within(t), l)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = i.Stop(within(t)) })
		ids = append(ids, l.ID)
	}
	removed, err := a.Sweep(within(t), mine)
	if err != nil || len(removed) != 1 || removed[0] != ids[0] {
		t.Errorf("sweep: got %v, %v, want %s", removed, err, ids[0])
	}
	nothingOf(t, ids[0])
	if len(containersOf(t, ids[1])) != 1 {
		t.Errorf("sweep took a container of another node")
	}
	if again, err := a.Sweep(within(t), mine); err != nil || len(again) != 0 {
		t.Errorf("second sweep: got %v, %v, want nothing", again, err)
	}
}

// What was killed behind our back is noticed, and what became of it is told.
func TestWait_killedAndRemovedBySomebody(t *testing.T) {
	a := newAdapter(t)
	for name, tt := range map[string]struct {
		do   func(id string, pid int) error
		want string
	}{
		"killed": {func(_ string, pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }, "SIGKILL"},
		"removed": {func(id string, _ int) error {
			return dockerEngine(t).ContainerRemove(context.Background(), id, dockercontainer.RemoveOptions{Force: true})
		}, "SIGKILL"},
	} {
		t.Run(name, func(t *testing.T) {
			l := conformance.NewLaunch(t, manifestOf(plugin.Service, serviceBlock("")))
			i, err := a.Launch(within(t), l)
			if err != nil {
				t.Fatal(err)
			}
			facts := i.(plugin.Inspector).Inspect()
			pid, err := strconv.Atoi(facts["pid"])
			if err != nil {
				t.Fatalf("facts: got %v, want a pid", facts)
			}
			begin := time.Now()
			if err := tt.do(facts["container"], pid); err != nil {
				t.Fatal(err)
			}
			if exit := i.Wait(); exit.Signal != tt.want || exit.OOM {
				t.Errorf("exit: got %+v, want %s", exit, tt.want)
			}
			t.Logf("noticed after %v", time.Since(begin))
			nothingOf(t, l.ID)
		})
	}
}

// A sweep that finds no engine is made up for before the first launch.
func TestSweep_lateWhenNoEngineAnswers(t *testing.T) {
	old := conformance.NewLaunch(t, manifestOf(plugin.Job, `{"image": "`+tag+`", "pull": "never"}`))
	mine := node + "-late"
	i, err := container.New(container.Options{Node: mine}).Launch(within(t), old)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Stop(within(t)) })

	g := newGate(t)
	g.shut()
	a := container.New(container.Options{Node: mine, Host: "unix://" + g.path})
	t.Cleanup(func() { _ = a.Close() })
	if _, err := a.Sweep(within(t), mine); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("sweep without an engine: got %v, want plugin.ErrUnavailable", err)
	}
	g.open(t)
	l := conformance.NewLaunch(t, manifestOf(plugin.Job, jobBlock(`["job", "exit", "0"]`)))
	j, err := a.Launch(within(t), l)
	if err != nil {
		t.Fatal(err)
	}
	j.Wait()
	nothingOf(t, old.ID)
}
