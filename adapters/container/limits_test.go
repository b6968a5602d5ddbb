package container_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-dev/patchbay/adapters/container"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

func TestLimits_byTheEngine(t *testing.T) {
	m := manifestOf(plugin.Job, `{"image": "`+tag+`", "pull": "never"}`)
	m.Spec.Limits = plugin.Limits{Memory: 64 << 20, CPU: 0.5, Pids: 50, OpenFiles: 123}
	l := conformance.NewLaunch(t, m)
	i, err := newAdapter(t).Launch(within(t), l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Stop(within(t)) })
	var names []string
	for _, one := range i.(plugin.Limited).Limits() {
		if one.By != "engine" && one.Message == "" {
			t.Errorf("%s: nothing keeps it, and it is not said why", one.Name)
		}
		names = append(names, one.Name)
	}
	if diff := cmp.Diff([]string{"memory", "cpu", "pids", "openFiles"}, names); diff != "" {
		t.Error(diff)
	}
	now, err := dockerEngine(t).ContainerInspect(within(t), i.(plugin.Inspector).Inspect()["container"])
	if err != nil {
		t.Fatal(err)
	}
	if u := now.HostConfig.Ulimits; len(u) != 1 || u[0].Name != "nofile" || u[0].Soft != 123 || u[0].Hard != 123 {
		t.Errorf("the engine's ulimits: got %v, want nofile=123", u)
	}
}

// daemonVar makes a copy of the test binary a daemon that launches what its value
// says, as JSON, and stays.
const daemonVar = "CONTAINER_TEST_DAEMON"

func playDaemon(text string) {
	var l plugin.Launch
	if err := json.Unmarshal([]byte(text), &l.Manifest); err != nil {
		panic(err)
	}
	// The test's folder: this process is killed, and removes nothing.
	l.ID, l.Dir, l.Output = "bound-"+fmt.Sprint(os.Getpid()), os.Getenv(daemonVar+"_DIR"), nothing{}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := container.New(container.Options{Node: os.Getenv(daemonVar + "_NODE")}).Launch(ctx, l); err != nil {
		panic(err)
	}
	fmt.Println(l.ID)
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
}

type nothing struct{ plugin.Output }

func (nothing) Writer(plugin.LogStream) io.Writer { return io.Discard }

func TestBound_endsWithAKilledDaemon(t *testing.T) {
	bound := manifestOf(plugin.Service, serviceBlock(""))
	bound.Spec.Lifetime = plugin.Bound
	for name, m := range map[string]plugin.Manifest{
		"run of a job":  manifestOf(plugin.Job, jobBlock(`[]`)),
		"bound service": bound,
	} {
		t.Run(name, func(t *testing.T) {
			id, kill := daemonWith(t, m)
			kill()
			begun := time.Now()
			conformance.Eventually(t, 10*time.Second, func() error {
				if left := containersOf(t, id); len(left) > 0 {
					return fmt.Errorf("container %s is %s", left[0].ID[:12], left[0].Status)
				}
				return nil
			})
			t.Logf("gone after %v", time.Since(begun))
		})
	}
}

func TestDetached_outlivesAKilledDaemon(t *testing.T) {
	id, kill := daemonWith(t, manifestOf(plugin.Service, serviceBlock("")))
	// The same daemon has a reaper only if something is bound: the next one must
	// find the container either way.
	kill()
	a := newAdapter(t)
	strays, err := a.Strays(within(t), node, func(instance string) bool { return instance != id })
	if err != nil || len(strays) != 1 {
		t.Fatalf("got %v, %v, want the container that was left", strays, err)
	}
	if now, err := dockerEngine(t).ContainerInspect(within(t), strays[0].Name); err != nil || !now.State.Running {
		t.Errorf("it does not run: %v", err)
	}
	if _, err := a.Sweep(within(t), strays); err != nil {
		t.Error(err)
	}
}

// daemonWith starts a daemon with one instance; kill is kill -9.
func daemonWith(t *testing.T, m plugin.Manifest) (id string, kill func()) {
	t.Helper()
	text, err := json.Marshal(m.WithDefaults())
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(os.Args[0])
	daemon.Env = append(slices.Clone(os.Environ()), daemonVar+"="+string(text), daemonVar+"_NODE="+node, daemonVar+"_DIR="+t.TempDir())
	daemon.Stderr = os.Stderr
	stdout, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := daemon.StdinPipe(); err != nil { // held open
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() { _ = daemon.Process.Kill(); _ = daemon.Wait() }
	t.Cleanup(kill)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if id = strings.TrimSpace(line); len(containersOf(t, id)) != 1 {
		t.Fatalf("no container of %s", id)
	}
	return id, kill
}
