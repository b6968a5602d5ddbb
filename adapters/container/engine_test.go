package container_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	dockercontainer "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"

	"github.com/patchbay-dev/patchbay/adapters/container"
	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// node marks the containers of this run of the tests, and tag its image.
var (
	node = "test-" + strconv.Itoa(os.Getpid())
	tag  = "patchbay-test/adapter:" + node
)

const sourceFolder = "../../test/plugins/container"

// TestMain needs a real engine: there is none to stand in, and nothing is skipped.
// It builds the test's image, and looks for containers and images that were left.
func TestMain(m *testing.M) {
	proc.Child()
	if text := os.Getenv(daemonVar); text != "" {
		playDaemon(text)
		return
	}
	if err := container.New(container.Options{}).Available(context.Background()); err != nil {
		fmt.Fprintf(os.Stderr, "%v\nthese tests need a Docker engine: eval \"$(test/ensure-docker.sh start)\"\n", err)
		os.Exit(1)
	}
	build := exec.Command("go", "run", sourceFolder+"/image", "-tag", tag, "build", sourceFolder)
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "test image: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	if err := left(); err != nil {
		fmt.Fprintln(os.Stderr, "left behind:", err)
		code = 1
	}
	os.Exit(code)
}

// left removes the run's image and says which containers are still there.
func left() error {
	engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return err
	}
	defer engine.Close()
	ctx := context.Background()
	list, err := engine.ContainerList(ctx, dockercontainer.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", "dev.patchbay.node="+node))})
	if err != nil || len(list) > 0 {
		return fmt.Errorf("containers %v: %w", list, err)
	}
	if _, err := engine.ImageRemove(ctx, tag, image.RemoveOptions{PruneChildren: true}); err != nil {
		return err
	}
	if _, err := engine.ImageInspect(ctx, tag); !errdefs.IsNotFound(err) {
		return fmt.Errorf("image %s: %w", tag, err)
	}
	return nil
}

func dockerEngine(t testing.TB) *client.Client {
	t.Helper()
	engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = engine.Close() })
	return engine
}

func newAdapter(t testing.TB) *container.Adapter {
	t.Helper()
	a := container.New(container.Options{Node: node})
	t.Cleanup(func() { _ = a.Close() })
	return a
}

// serviceBlock is the tiny plugin as a service; more are further fields, JSON.
func serviceBlock(more string) string {
	return fmt.Sprintf(`{"image": %q, "pull": "never", "port": 8080, "health": "/health"%s}`, tag, more)
}

func jobBlock(args string) string {
	return fmt.Sprintf(`{"image": %q, "pull": "never", "args": %s}`, tag, args)
}

func manifestOf(mode plugin.Mode, block string) plugin.Manifest {
	return plugin.Manifest{
		APIVersion: plugin.APIVersion, Kind: plugin.Kind, Metadata: plugin.Metadata{Name: "tiny"},
		Spec: plugin.Spec{Mode: mode, Adapter: "container", Block: plugin.RawJSON(block)},
	}
}

// within is a context for what takes well under a second on a quiet machine.
func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// containersOf lists the containers of one instance.
func containersOf(t testing.TB, id string) []dockercontainer.Summary {
	t.Helper()
	list, err := dockerEngine(t).ContainerList(context.Background(), dockercontainer.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", "dev.patchbay.instance="+id))})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func nothingOf(t testing.TB, id string) {
	t.Helper()
	for _, c := range containersOf(t, id) {
		t.Errorf("container %s %v is left, %s", c.ID[:12], c.Names, strings.ToLower(c.Status))
	}
}
