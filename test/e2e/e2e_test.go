// Package e2e tells stories: each file in testdata is one, a testscript that runs
// the real binary with an embedded NATS server, a data folder of its own and free
// ports, and real plugins. A Docker engine that is missing fails the stories that
// need one; test/ensure-docker.sh start gets one.
//
// When a story ends, whatever daemons it began are stopped, and a process that
// still carries the story's folder in its environment, command line or working
// folder fails it.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// stopMost bounds a graceful end of the daemon: its plugins' own 10 s and a bit.
const stopMost = 20 * time.Second

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pbbin")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := 1
	if err := build(dir); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: build:", err)
	} else {
		_ = os.Setenv(binName, dir)
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// binName is the variable that holds the folder of the built binary.
const binName = "E2E_BIN"

// raceName is the variable that asks for a daemon with the race detector; a race
// that it finds fails the story.
const raceName = "E2E_RACE"

func build(dir string) error {
	daemon := []string{"go", "build", "-o", filepath.Join(dir, "patchbay"), "../../cmd/patchbay"}
	if os.Getenv(raceName) != "" {
		daemon = slices.Insert(daemon, 2, "-race")
	}
	for _, args := range [][]string{daemon, {"../build-plugins.sh"}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s", args, err, out)
		}
	}
	return nil
}

func TestStories(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		Setup:               setup,
		Cmds:                commands(),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// setup gives a story its folders and the little of the environment it needs.
func setup(env *testscript.Env) error {
	root, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	// Short, so that the daemon's sockets fit; a story's own folder is not.
	data, err := os.MkdirTemp("", "pb")
	if err != nil {
		return err
	}
	bin := os.Getenv(binName)
	env.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	env.Setenv("DATA", data)
	env.Setenv("ROOT", root)
	env.Setenv("PLUGINS", filepath.Join(root, "bin", "plugins"))
	env.Setenv("EXAMPLES", filepath.Join(root, "manifests", "examples"))
	env.Setenv("NO_COLOR", "1")
	for _, name := range []string{"DOCKER_HOST", "GOCACHE"} {
		if v := os.Getenv(name); v != "" {
			env.Setenv(name, v)
		}
	}
	s := &story{data: data, bin: filepath.Join(bin, "patchbay"), daemons: map[string]*daemon{}}
	env.Values[storyKey{}] = s
	env.Defer(func() { s.end(env.T()) })
	return nil
}
