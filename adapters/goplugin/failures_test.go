package goplugin_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
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

// TestFailures is the catalogue of what goes wrong with go-plugin's own client, as
// its users have reported it and as it was seen, each with the test that it does not
// go wrong here. Two rows need a daemon and are tests of others: that a bound plugin
// ends with a daemon that was killed, and a detached one is adopted (row 6), is
// test/fault's TestBound_diesWithTheDaemon and TestKill; that the folder of a plugin
// that was killed is removed (row 7), core/supervise's.
func TestFailures(t *testing.T) {
	for _, row := range []struct {
		failure string
		test    func(*testing.T)
	}{
		{"1 JSON of odd types on stderr: the host panics", hostileStderr},
		{"2 a certificate that was not asked for: the host panics", uninvitedCertificate},
		{"3 frozen gRPC plugin: kill never returns", func(t *testing.T) { frozenIsGone(t, grpcSpec(t)) }},
		{"4 frozen net/rpc plugin: kill takes 36 s", func(t *testing.T) { frozenIsGone(t, netrpcSpec(built(t, "netrpc"))) }},
		{"5 a grandchild holds stdout: kill waits for it", grandchildHoldsOutput},
		{"6 the host dies: the plugin has parent 1", TestHandle_ofABoundPlugin},
		{"7 killed plugin: its socket stays in /tmp", socketsInItsFolder},
		{"8 the socket's file is removed: calls fail until a restart", socketFileRemoved},
		{"9 an adopted plugin writes to a closed pipe", TestAdopt_noLineIsLostOrMade},
		{"10 no handshake: a minute's wait", noHandshake},
		{"11 noise before the handshake", TestLaunch_noise},
		{"12 nobody reads its output: the plugin blocks", TestOutput_isDrained},
		{"13 a fault after the start: the process stays", faultAfterStart},
		{"14 a second try fails for ever", secondTry},
		{"15 the pid is another's: it is killed", TestAdopt_strangeHandles},
		{"16 children of the plugin survive it", childrenEnd},
	} {
		t.Run(row.failure, row.test)
	}
}

func grpcSpec(t *testing.T) goplugin.Spec {
	t.Helper()
	return goplugin.Spec{Command: []string{built(t, "grpc")}, Handshake: cookie()}
}

// run launches and, with the test, stops; then nothing of the launch may be left.
func run(t *testing.T, l plugin.Launch, within time.Duration) (plugin.Instance, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	i, err := goplugin.New(goplugin.Options{}).Launch(ctx, l)
	t.Cleanup(func() {
		if err == nil {
			stopWithin(t, i, 2*time.Second)
		}
		conformance.Eventually(t, time.Second, func() error { return conformance.Left(l) })
	})
	return i, err
}

const slack = 500 * time.Millisecond

// stopWithin stops an instance, which must be over half a second after its grace.
func stopWithin(t *testing.T, i plugin.Instance, grace time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	begin := time.Now()
	if err := i.Stop(ctx); err != nil || time.Since(begin) > grace+slack {
		t.Errorf("stop: got %v after %v, the grace is %v", err, time.Since(begin), grace)
	}
}

// running launches a plugin that a shell starts, after what before says.
func running(t *testing.T, before string) (plugin.Instance, plugin.Launch) {
	t.Helper()
	spec := grpcSpec(t)
	spec.Command = []string{script(t, before+"\nexec "+spec.Command[0])}
	l := conformance.NewLaunch(t, manifest(t, spec))
	i, err := run(t, l, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return i, l
}

// hostileStderr: core/logs reads the lines, see its TestLift and FuzzLift.
func hostileStderr(t *testing.T) {
	i, l := running(t, `echo '{"@message":5,"@level":{},"@timestamp":[],"@module":null}' >&2
		printf '\377\000\n{"@level":\n' >&2; head -c 1000000 /dev/zero >&2`)
	echo(t, i, "text")
	if text := l.Output.(*conformance.Output).Text(plugin.Stderr); len(text) < 1_000_000 {
		t.Errorf("stderr has %d bytes", len(text))
	}
}

func uninvitedCertificate(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	certificate := base64.RawStdEncoding.EncodeToString(server.Certificate().Raw)
	path := built(t, "grpc")
	l := conformance.NewLaunch(t, manifest(t, goplugin.Spec{Handshake: cookie(), Command: []string{script(t, `mkfifo "$TMPDIR/f"
		`+path+` > "$TMPDIR/f" & read line < "$TMPDIR/f"; echo "${line}`+certificate+`"; wait`)}}))
	i, err := run(t, l, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, i, "text")
}

func frozenIsGone(t *testing.T, spec goplugin.Spec) {
	i, err := run(t, conformance.NewLaunch(t, manifest(t, spec)), 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	freeze(t, pidOf(t, i))
	stopWithin(t, i, 300*time.Millisecond)
}

func pidOf(t *testing.T, i plugin.Instance) int {
	t.Helper()
	pid, err := strconv.Atoi(i.(plugin.Inspector).Inspect()["pid"])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func grandchildHoldsOutput(t *testing.T) {
	i, _ := running(t, `(trap '' TERM; while :; do sleep 60; done) &`)
	echo(t, i, "text")
	stopWithin(t, i, 300*time.Millisecond)
	l := conformance.NewLaunch(t, manifest(t, goplugin.Spec{Handshake: cookie(), Command: []string{script(t, `sleep 60 & exec sleep 60`)}}))
	begin := time.Now()
	if _, err := run(t, l, 300*time.Millisecond); !errors.Is(err, plugin.ErrDeadline) || time.Since(begin) > time.Second {
		t.Errorf("start: got %v after %v", err, time.Since(begin))
	}
}

func socketsInItsFolder(t *testing.T) {
	i, l := running(t, "")
	sockets, err := filepath.Glob(filepath.Join(l.Dir, "plugin*"))
	if err != nil || len(sockets) != 1 {
		t.Fatalf("got %v, %v; want the one socket", sockets, err)
	}
	if err := syscall.Kill(pidOf(t, i), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	i.Wait()
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), filepath.Base(sockets[0]))); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// socketFileRemoved: calls go on, on the connection that there is. Once that breaks
// nobody can reach the plugin, and it ends: the supervisor starts it anew.
func socketFileRemoved(t *testing.T) {
	for name, spec := range map[string]goplugin.Spec{"grpc": grpcSpec(t), "netrpc": netrpcSpec(built(t, "netrpc"))} {
		t.Run(name, func(t *testing.T) {
			field := map[string]string{"netrpc": "Text", "grpc": "text"}[name]
			l := conformance.NewLaunch(t, manifest(t, spec))
			i, err := run(t, l, 20*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			sockets, _ := filepath.Glob(filepath.Join(l.Dir, "plugin*"))
			for _, path := range sockets {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
			echo(t, i, field)
			breakConnection(t, sockets)
			gone := make(chan plugin.Exit, 1)
			go func() { gone <- i.Wait() }() // ends with the instance, which run stops
			conformance.Eventually(t, 10*time.Second, func() error {
				_, err := invoke(t, i, "Echo", fmt.Sprintf(`{%q: "x"}`, field))
				select {
				case exit := <-gone:
					gone <- exit
					return nil
				default:
					return fmt.Errorf("it is alive; a call says %w", err)
				}
			})
			if text := l.Output.(*conformance.Output).All(); !strings.Contains(text, "nobody can reach it") {
				t.Errorf("the log does not say why: %s", text)
			}
		})
	}
}

// breakConnection shuts the test's own ends of the connections to those sockets.
func breakConnection(t *testing.T, sockets []string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	broken := 0
	for _, entry := range fds {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		peer, err := unix.Getpeername(fd)
		if to, ok := peer.(*unix.SockaddrUnix); err == nil && ok && len(sockets) == 1 && to.Name == sockets[0] {
			broken++
			if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
				t.Fatal(err)
			}
		}
	}
	if broken != 1 {
		t.Fatalf("%d connections to %v", broken, sockets)
	}
}

func noHandshake(t *testing.T) {
	l := conformance.NewLaunch(t, manifest(t, goplugin.Spec{Handshake: cookie(), Command: []string{script(t, `trap '' TERM; sleep 60`)}}))
	begin := time.Now()
	if _, err := run(t, l, 300*time.Millisecond); !errors.Is(err, plugin.ErrDeadline) || time.Since(begin) > time.Second {
		t.Errorf("got %v after %v", err, time.Since(begin))
	}
}

// faultAfterStart: the handshake is good, and each later step fails.
func faultAfterStart(t *testing.T) {
	netrpc, path := netrpcSpec(built(t, "netrpc")), built(t, "grpc")
	dispense := netrpc
	dispense.Plugin = "nobody"
	undescribed := goplugin.Spec{Command: netrpc.Command, Handshake: cookie()}
	tls := goplugin.Spec{Command: []string{script(t, `unset PLUGIN_CLIENT_CERT; exec `+path)}, Handshake: cookie(), TLS: "auto"}
	metadata := grpcSpec(t)
	metadata.Metadata = map[string]map[string]string{"Nothing": {"a": "b"}}
	dial := goplugin.Spec{Command: []string{script(t, `echo '1|1|unix|/nonexistent/p|grpc'; exec sleep 60`)}, Handshake: cookie()}
	for name, spec := range map[string]goplugin.Spec{"dispense": dispense, "describe": undescribed, "tls": tls, "metadata": metadata, "dial": dial} {
		t.Run(name, func(t *testing.T) {
			if _, err := run(t, conformance.NewLaunch(t, manifest(t, spec)), 20*time.Second); err == nil {
				t.Error("it was launched")
			}
		})
	}
}

// secondTry: the same launch, in the same folder and with the same files.
func secondTry(t *testing.T) {
	spec := grpcSpec(t)
	spec.Command = []string{script(t, `[ -e "$TMPDIR/once" ] || { : > "$TMPDIR/once"; echo '1|9|unix|/p|grpc'; exec sleep 60; }
		exec `+spec.Command[0])}
	l := conformance.NewLaunch(t, manifest(t, spec))
	if _, err := run(t, l, 20*time.Second); !errors.Is(err, plugin.ErrInvalid) {
		t.Fatalf("first: got %v", err)
	}
	i, err := run(t, l, 20*time.Second)
	if err != nil {
		t.Fatalf("second: %v", err)
	}
	echo(t, i, "text")
}

// childrenEnd: one in the group, and one that has left it.
func childrenEnd(t *testing.T) {
	for name, end := range map[string]func(*testing.T, plugin.Instance){
		"stopped": func(t *testing.T, i plugin.Instance) { stopWithin(t, i, 2*time.Second) },
		"killed": func(t *testing.T, i plugin.Instance) {
			if err := syscall.Kill(pidOf(t, i), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			i.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			i, l := running(t, `sleep 60 & setsid sleep 60 &`)
			if left := fmt.Sprint(conformance.Left(l)); strings.Count(left, "sleep 60") != 2 {
				t.Fatalf("the children are not there: %s", left)
			}
			end(t, i)
			conformance.Eventually(t, time.Second, func() error { return conformance.Left(l) })
		})
	}
}

// TestCycles starts, calls and stops a plugin 200 times: nothing is left of any, and
// the host holds no more than after the first.
func TestCycles(t *testing.T) {
	const cycles = 200
	specs := []goplugin.Spec{grpcSpec(t), netrpcSpec(built(t, "netrpc")), grpcSpec(t), netrpcSpec(built(t, "netrpc"))}
	specs[2].TLS, specs[3].TLS = "auto", "auto"
	cycle := func(n int) {
		spec := specs[n%len(specs)]
		l := conformance.NewLaunch(t, manifest(t, spec))
		i, err := goplugin.New(goplugin.Options{}).Launch(t.Context(), l)
		if err != nil {
			t.Fatalf("cycle %d: %v", n, err)
		}
		echo(t, i, []string{"text", "Text"}[n%2])
		stopWithin(t, i, 5*time.Second)
		if err := conformance.Left(l); err != nil {
			t.Fatalf("cycle %d: %v", n, err)
		}
	}
	for n := range specs {
		cycle(n)
	}
	before := holds(t)
	for n := range cycles {
		cycle(n)
	}
	conformance.Eventually(t, 10*time.Second, func() error {
		if now := holds(t); now.goroutines > before.goroutines || now.files > before.files {
			stacks := make([]byte, 1<<20)
			return fmt.Errorf("%+v, before %+v\n%s", now, before, stacks[:runtime.Stack(stacks, true)])
		}
		return nil
	})
}

type held struct{ goroutines, files int }

func holds(t *testing.T) held {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return held{runtime.NumGoroutine(), len(files)}
}
