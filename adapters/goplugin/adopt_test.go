package goplugin_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/adapters/goplugin"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// both are the tiny plugin in its two protocols, with TLS for what it is worth.
func both(t *testing.T) map[string]goplugin.Spec {
	rpc := netrpcSpec(built(t, "netrpc"))
	rpc.TLS = "auto"
	return map[string]goplugin.Spec{
		"netrpc": rpc,
		"grpc":   {Command: []string{built(t, "grpc")}, Handshake: cookie(), TLS: "auto"},
	}
}

// left is a plugin that a daemon has left running.
type left struct {
	instance plugin.Instance
	launch   plugin.Launch
	handle   plugin.RawJSON
	pid      int
}

// leave launches a plugin and lets go of it; it is killed with the test.
func leave(t *testing.T, spec goplugin.Spec) left {
	t.Helper()
	l := conformance.NewLaunch(t, manifest(t, spec))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	i, err := goplugin.New(goplugin.Options{}).Launch(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(i.(plugin.Inspector).Inspect()["pid"])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		_, _ = syscall.Wait4(pid, nil, 0, nil) // in a test it is our own child
	})
	handle, err := i.(plugin.Survivor).Handle(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	i.(plugin.Survivor).Leave()
	return left{i, l, handle, pid}
}

func (p left) adopt(t *testing.T, within time.Duration) (plugin.Instance, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	i, err := goplugin.New(goplugin.Options{}).Adopt(ctx, p.launch, p.handle)
	if err == nil {
		t.Cleanup(func() {
			if err := i.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	return i, err
}

func (p left) alive() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

// stdout opens the first of the two pipes that go-plugin holds both ends of: what the
// plugin prints is written to it.
func (p left) stdout(t *testing.T) (pipe int) {
	t.Helper()
	ends := map[string][]int{}
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.pid))
	for _, fd := range fds {
		n, _ := strconv.Atoi(filepath.Base(fd))
		if pipe, err := os.Readlink(fd); err == nil && strings.HasPrefix(pipe, "pipe:") {
			ends[pipe] = append(ends[pipe], n)
		}
	}
	var writing []int
	for _, two := range ends {
		if len(two) == 2 {
			writing = append(writing, max(two[0], two[1])) // os.Pipe makes the reading end first
		}
	}
	if len(writing) != 2 {
		t.Fatalf("got %v, want two pipes", ends)
	}
	pipe, err := unix.Open(fmt.Sprintf("/proc/%d/fd/%d", p.pid, slices.Min(writing)), unix.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(pipe) })
	return pipe
}

// print does what the plugin does when it prints. It reports whether there was room.
func print(t *testing.T, pipe int, text string) bool {
	t.Helper()
	_, err := unix.Write(pipe, []byte(text))
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
	return err == nil
}

// noticed waits until the plugin has closed its side of the connection, and a little
// longer, so that its handlers have ended too: what it prints before may be lost.
func (p left) noticed(t *testing.T) {
	t.Helper()
	const enough = 10 // looks
	alone := 0
	conformance.Eventually(t, 10*time.Second, func() error {
		sockets := 0
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.pid))
		for _, fd := range fds {
			if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "socket:") {
				sockets++
			}
		}
		if alone++; sockets != 1 { // the listener
			alone = 0
		}
		if alone < enough {
			return fmt.Errorf("the plugin has %d sockets open", sockets)
		}
		return nil
	})
}

func (p left) printed(t *testing.T, want string) {
	t.Helper()
	conformance.Eventually(t, 10*time.Second, func() error {
		if all := p.launch.Output.(*conformance.Output).Text(plugin.Stdout); !strings.Contains(all, want) {
			return fmt.Errorf("stdout has no %q: %.500q", want, all)
		}
		return nil
	})
}

func TestLeave_nothingReachesItAnyMore(t *testing.T) {
	for name, spec := range both(t) {
		t.Run(name, func(t *testing.T) {
			leave(t, spec) // what stays for good has been started now
			before := runtime.NumGoroutine()
			p := leave(t, spec)
			conformance.Eventually(t, 10*time.Second, func() error {
				if now := runtime.NumGoroutine(); now > before {
					return fmt.Errorf("%d goroutines, %d after the first", now, before)
				}
				return nil
			})
			if err := p.instance.Stop(t.Context()); err != nil {
				t.Errorf("stop: %v", err)
			}
			p.instance.(plugin.Survivor).Leave()
			if _, err := invoke(t, p.instance, "Echo", `{}`); !errors.Is(err, plugin.ErrUnavailable) {
				t.Errorf("invoke: got %v, want plugin.ErrUnavailable", err)
			}
			if e := p.instance.Wait(); e.Success() || e.Message == "" {
				t.Errorf("wait: got %+v, want that it was left", e)
			}
			if i, err := p.adopt(t, 20*time.Second); err != nil {
				t.Errorf("it did not survive its being left: %v", err)
			} else if e := i.(plugin.Inspector).Inspect(); e["pid"] != strconv.Itoa(p.pid) || e["tls"] != "mutual" {
				t.Errorf("got %v, want process %d with TLS", e, p.pid)
			}
		})
	}
}

// TestAdopt_outputMeanwhile: of what is printed while there is no daemon a net/rpc
// plugin loses the first chunk, to the connection that is gone; a gRPC plugin
// loses nothing.
func TestAdopt_outputMeanwhile(t *testing.T) {
	for name, spec := range both(t) {
		t.Run(name, func(t *testing.T) {
			p := leave(t, spec)
			p.noticed(t)
			stdout := p.stdout(t)
			print(t, stdout, "the first\n")
			conformance.Eventually(t, 10*time.Second, func() error {
				if n, err := unix.IoctlGetInt(stdout, unix.TIOCINQ); err != nil || n > 0 {
					return fmt.Errorf("nobody reads: %d bytes, %v", n, err)
				}
				return nil
			})
			print(t, stdout, "the second\n")
			if _, err := p.adopt(t, 20*time.Second); err != nil {
				t.Fatal(err)
			}
			p.printed(t, "the second\n")
			if name == "grpc" {
				p.printed(t, "the first\n")
			} else if all := p.launch.Output.(*conformance.Output).Text(plugin.Stderr); !strings.Contains(all, "stream copy 'stdout' error") {
				t.Errorf("stderr: got %q, want go-plugin's complaint", all)
			}
			print(t, stdout, "the third\n")
			p.printed(t, "the third\n")
		})
	}
}

// TestAdopt_noLineIsLostOrMade: also when nothing is printed for several adoptions.
func TestAdopt_noLineIsLostOrMade(t *testing.T) {
	for name, spec := range both(t) {
		t.Run(name, func(t *testing.T) {
			p := leave(t, spec)
			for range 3 {
				i, err := p.adopt(t, 20*time.Second)
				if err != nil {
					t.Fatal(err)
				}
				i.(plugin.Survivor).Leave()
			}
			p.noticed(t)
			if _, err := p.adopt(t, 20*time.Second); err != nil {
				t.Fatal(err)
			}
			print(t, p.stdout(t), "the only one\n")
			p.printed(t, "the only one\n")
			all := p.launch.Output.(*conformance.Output).Text(plugin.Stdout)
			if _, after, _ := strings.Cut(all, "\n"); after != "the only one\n" { // the first is the handshake
				t.Errorf("got %q, want one line", after)
			}
		})
	}
}

// TestAdopt_fullPipe: a plugin that has printed all that fits, and waits, goes on.
func TestAdopt_fullPipe(t *testing.T) {
	for name, spec := range both(t) {
		t.Run(name, func(t *testing.T) {
			p := leave(t, spec)
			line := strings.Repeat("x", 4095) + "\n"
			stdout := p.stdout(t)
			conformance.Eventually(t, 10*time.Second, func() error {
				if print(t, stdout, line) {
					return errors.New("the pipe does not fill")
				}
				return nil
			})
			i, err := p.adopt(t, 20*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			field := map[string]string{"netrpc": "Text", "grpc": "text"}[name]
			if _, err := invoke(t, i, "Print", fmt.Sprintf(`{%q: "at last"}`, field)); err != nil {
				t.Error(err)
			}
			p.printed(t, "at last\n")
		})
	}
}

func TestAdopt_whatDoesNotAnswerIsEnded(t *testing.T) {
	for name, spec := range both(t) {
		t.Run(name, func(t *testing.T) {
			p := leave(t, spec)
			if err := syscall.Kill(p.pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			_, err := p.adopt(t, 300*time.Millisecond)
			if err == nil || errors.Is(err, plugin.ErrNotFound) || !errors.Is(err, plugin.ErrUnavailable) {
				t.Errorf("got %v, want plugin.ErrUnavailable", err)
			}
			if took := time.Since(begin); took > 2*time.Second {
				t.Errorf("took %v", took)
			}
			if p.alive() {
				t.Error("it is alive")
			}
		})
	}
}

// TestAdopt_killIsNoticed: also of what is not the daemon's child.
func TestAdopt_killIsNoticed(t *testing.T) {
	for name, spec := range both(t) {
		t.Run(name, func(t *testing.T) {
			p := leave(t, spec)
			i, err := p.adopt(t, 20*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if e := i.Wait(); e.Success() || time.Since(begin) > time.Second {
				t.Errorf("got %v after %v", e, time.Since(begin))
			}
		})
	}
}

// TestAdopt_strangeHandles: each is nearly the right one.
func TestAdopt_strangeHandles(t *testing.T) {
	spec := netrpcSpec(built(t, "netrpc"))
	for _, tt := range []struct {
		name     string
		old, new string // in the handle
		class    error
		alive    bool
	}{
		{"of another instance", `"mark":"conformance/`, `"mark":"other/`, plugin.ErrNotFound, true},
		{"unknown field", `{"process"`, `{"x":1,"process"`, plugin.ErrNotFound, true},
		{"something behind", `"cookie":"3f2c"}`, `"cookie":"3f2c"}{}`, plugin.ErrNotFound, true},
		{"too long", `{"process"`, strings.Repeat(" ", 64<<10) + `{"process"`, plugin.ErrNotFound, true},
		{"another machine", `"network":"unix","address":"`, `"network":"tcp","address":"192.0.2.1:80`, plugin.ErrInvalid, false},
		{"network", `"network":"unix"`, `"network":"udp"`, plugin.ErrInvalid, false},
		{"protocol", `"protocol":"netrpc"`, `"protocol":"http"`, plugin.ErrInvalid, false},
		{"nobody listens", `"address":"`, `"address":"/nonexistent`, plugin.ErrUnavailable, false},
		{"TLS", `"protocol":"netrpc"}`, `"protocol":"netrpc"},"identity":{"certificate":"","key":""}`, plugin.ErrInvalid, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := leave(t, spec)
			strange := strings.Replace(string(p.handle), tt.old, tt.new, 1)
			if strange == string(p.handle) {
				t.Fatalf("the handle has no %s: %s", tt.old, p.handle)
			}
			p.handle = plugin.RawJSON(strange)
			if _, err := p.adopt(t, 20*time.Second); !errors.Is(err, tt.class) || tt.class != plugin.ErrNotFound && errors.Is(err, plugin.ErrNotFound) {
				t.Errorf("got %v, want %v", err, tt.class)
			}
			if p.alive() != tt.alive {
				t.Errorf("alive: got %t, want %t", !tt.alive, tt.alive)
			}
		})
	}
}

// TestAdopt_withoutItsExecutable: the file may be gone, or be the next version.
func TestAdopt_withoutItsExecutable(t *testing.T) {
	program, err := os.ReadFile(built(t, "netrpc"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "netrpc")
	if err := os.WriteFile(path, program, 0o700); err != nil {
		t.Fatal(err)
	}
	p := leave(t, netrpcSpec(path))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	i, err := p.adopt(t, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, i, "Text")
}

func TestHandle_ofABoundPlugin(t *testing.T) {
	m := manifest(t, goplugin.Spec{Command: []string{built(t, "grpc")}, Handshake: cookie()})
	m.Spec.Lifetime = plugin.Bound
	i, err := goplugin.New(goplugin.Options{}).Launch(t.Context(), conformance.NewLaunch(t, m))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Stop(context.Background()) })
	if h, err := i.(plugin.Survivor).Handle(context.Background()); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("got %s, %v, want plugin.ErrInvalid", h, err)
	}
}

func TestSweep_straysOfTheNode(t *testing.T) {
	p := leave(t, netrpcSpec(built(t, "netrpc")))
	a := goplugin.New(goplugin.Options{Node: p.launch.Node})
	strays := func(keep bool) []plugin.Stray {
		t.Helper()
		all, err := a.Strays(t.Context(), p.launch.Node, func(instance string) bool { return keep || instance != p.launch.ID })
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if all := strays(true); len(all) != 0 {
		t.Errorf("kept: got %v", all)
	}
	all := strays(false)
	if len(all) != 1 || all[0].Name != strconv.Itoa(p.pid) {
		t.Fatalf("got %+v, want process %d", all, p.pid)
	}
	if removed, err := goplugin.New(goplugin.Options{Node: "another"}).Sweep(t.Context(), all); err != nil || len(removed) != 0 || !p.alive() {
		t.Errorf("another node's sweep: got %v, %v", removed, err)
	}
	if removed, err := a.Sweep(t.Context(), all); err != nil || len(removed) != 1 {
		t.Errorf("sweep: got %v, %v", removed, err)
	}
	conformance.Eventually(t, 10*time.Second, func() error {
		if p.alive() {
			return errors.New("it is alive")
		}
		return nil
	})
}
