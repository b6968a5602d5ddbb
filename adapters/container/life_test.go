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
	if kept, err := a.Strays(within(t), mine, func(instance string) bool { return instance == ids[0] }); err != nil || len(kept) != 0 {
		t.Errorf("strays, all of them kept: got %v, %v, want none", kept, err)
	}
	strays, err := a.Strays(within(t), mine, keepNone)
	if err != nil || len(strays) != 1 || strays[0].Instance != ids[0] || strays[0].Kind != "container" {
		t.Fatalf("strays: got %v, %v, want %s", strays, err, ids[0])
	}
	removed, err := a.Sweep(within(t), strays)
	if err != nil || len(removed) != 1 || removed[0] != strays[0] {
		t.Errorf("sweep: got %v, %v, want %v", removed, err, strays)
	}
	nothingOf(t, ids[0])
	if len(containersOf(t, ids[1])) != 1 {
		t.Errorf("sweep took a container of another node")
	}
	if again, err := a.Strays(within(t), mine, keepNone); err != nil || len(again) != 0 {
		t.Errorf("after the sweep: got %v, %v, want nothing", again, err)
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

// Without an engine nobody knows what is left: the core asks again.
func TestStrays_withoutAnEngine(t *testing.T) {
	g := newGate(t)
	g.shut()
	a := container.New(container.Options{Node: node, Host: "unix://" + g.path})
	t.Cleanup(func() { _ = a.Close() })
	if _, err := a.Strays(within(t), node, keepNone); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("strays without an engine: got %v, want plugin.ErrUnavailable", err)
	}
}

func keepNone(string) bool { return false }
