package fault

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// buildTime is for a build with half a cache, on a machine that does other things.
const buildTime = 5 * time.Minute

// TestKill_build kills the daemon while it builds a plugin: nothing of the build goes on,
// and the next daemon builds it.
func TestKill_build(t *testing.T) {
	source := tinySource(t)
	t.Setenv("GOMODCACHE", goEnv(t, "GOMODCACHE"))
	warm := goEnv(t, "GOCACHE")
	t.Setenv("GOCACHE", t.TempDir()) // so that it takes its time
	d := serve(t, folder(t))
	k := processKinds()[0]
	manifest := strings.Replace(k.manifest(habits{}), "    command: ["+program("netrpc")+"]\n", "    source: {folder: "+source+"}\n", 1)
	manifest += fmt.Sprintf("  timeouts: {start: %s}\n", buildTime)
	d.apply(manifest)
	work := filepath.Join(d.dir, "adapters", "goplugin", "work")
	d.poll(patience, "a compiler", func() error {
		for _, one := range workingBelow(work) {
			if one == "compile" {
				return nil
			}
		}
		return fmt.Errorf("there is none: %v", workingBelow(work))
	})
	if left, err := os.ReadDir(work); err != nil || len(left) != 1 {
		t.Fatalf("got %v, %v, want the folder of one build", left, err)
	}
	d.kill()
	d.poll(healMax, "the build", func() error {
		if working := workingBelow(work); len(working) > 0 {
			return fmt.Errorf("it goes on: %v", working)
		}
		return nil
	})

	t.Setenv("GOCACHE", warm)
	d = d.again()
	if err := poll(buildTime, func() error {
		r, err := d.Plugin(t.Context(), k.name)
		if err == nil && r.Status.State != plugin.Running {
			err = fmt.Errorf("it is %s: %s", r.Status.State, r.Status.Message)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if answer, err := d.call(k.name, k.echo, k.echoData); err != nil {
		t.Errorf("got %s, %v", answer, err)
	}
	if left, err := os.ReadDir(work); err != nil || len(left) > 0 {
		t.Errorf("of the builds are left %v, %v", left, err)
	}
	d.stop()
}

// tinySource is a module of its own with the source of the tiny net/rpc plugin, whose
// folder it returns.
func tinySource(t *testing.T) string {
	t.Helper()
	const root = "../.."
	module := t.TempDir()
	var err error
	for _, name := range []string{"go.mod", "go.sum"} {
		text, readErr := os.ReadFile(filepath.Join(root, name))
		err = errors.Join(err, readErr, os.WriteFile(filepath.Join(module, name), text, 0o600))
	}
	for _, name := range []string{"test/plugins/habit", "test/plugins/goplugin/tiny", "test/plugins/goplugin/netrpc"} {
		err = errors.Join(err, os.CopyFS(filepath.Join(module, name), os.DirFS(filepath.Join(root, name))))
	}
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(module, "test/plugins/goplugin/netrpc")
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// workingBelow names the processes whose home is below dir, as that of builds is.
func workingBelow(dir string) (names []string) {
	all, _ := os.ReadDir("/proc")
	for _, one := range all {
		if _, err := strconv.Atoi(one.Name()); err != nil {
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", one.Name(), "environ"))
		if err != nil || !bytes.Contains(env, []byte("HOME="+dir+"/")) {
			continue
		}
		name, _ := os.ReadFile(filepath.Join("/proc", one.Name(), "comm"))
		names = append(names, strings.TrimSpace(string(name)))
	}
	return names
}
