package container_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/container"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// gate is a unix socket before the engine's that can be shut: the engine is away,
// as while dockerd restarts.
type gate struct {
	path, engine string
	listener     net.Listener
	conns        chan net.Conn
}

func newGate(t *testing.T) *gate {
	t.Helper()
	g := &gate{path: filepath.Join(t.TempDir(), "docker.sock"), engine: strings.TrimPrefix(os.Getenv("DOCKER_HOST"), "unix://"), conns: make(chan net.Conn, 64)}
	if g.engine == "" {
		g.engine = "/var/run/docker.sock"
	}
	g.open(t)
	t.Cleanup(g.shut)
	return g
}

func (g *gate) open(t *testing.T) {
	t.Helper()
	var err error
	if g.listener, err = net.Listen("unix", g.path); err != nil {
		t.Fatal(err)
	}
	go func(l net.Listener) { // ends with the listener
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			back, err := net.Dial("unix", g.engine)
			if err != nil {
				_ = conn.Close()
				continue
			}
			g.conns <- conn
			g.conns <- back
			go pipe(conn, back) // both end with either connection
			go pipe(back, conn)
		}
	}(g.listener)
}

func pipe(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	if c, ok := to.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
}

func (g *gate) shut() {
	_ = g.listener.Close()
	for {
		select {
		case c := <-g.conns:
			_ = c.Close()
		default:
			return
		}
	}
}

// An engine that is away makes no plugin dead: the port still answers, Wait waits
// on, output is followed again, and the exit that happens meanwhile is told after.
func TestEngineAway(t *testing.T) {
	g := newGate(t)
	a := container.New(container.Options{Node: node, Host: "unix://" + g.path})
	t.Cleanup(func() { _ = a.Close() })
	l := conformance.NewLaunch(t, manifestOf(plugin.Service, serviceBlock("")))
	i, err := a.Launch(within(t), l)
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan plugin.Exit, 1)
	go func() { gone <- i.Wait() }() // ends with the instance

	g.shut()
	if err := a.Available(within(t)); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("available: got %v, want plugin.ErrUnavailable", err)
	}
	select {
	case exit := <-gone:
		t.Fatalf("engine away: got exit %+v, want none", exit)
	case <-time.After(500 * time.Millisecond): // several questions to the engine that is away
	}
	if _, err := i.Invoke(within(t), plugin.Invocation{Operation: "echo", Data: []byte(`1`)}); err != nil {
		t.Errorf("invoke while the engine is away: %v", err)
	}

	print := func(text string) {
		if _, err := i.Invoke(within(t), plugin.Invocation{Operation: "print", Data: []byte(`{"text": "` + text + `"}`)}); err != nil {
			t.Error(err)
		}
	}
	printed := func(want string) {
		conformance.Eventually(t, 10*time.Second, func() error {
			if got := l.Output.(*conformance.Output).Text(plugin.Stdout); got != want {
				return fmt.Errorf("stdout: got %q, want %q", got, want)
			}
			return nil
		})
	}
	print("while away")
	g.open(t)
	print("back again")
	printed("listening on :8080\nwhile away\nback again\n")

	g.shut()
	print("last words")
	_, _ = i.Invoke(within(t), plugin.Invocation{Operation: "exit", Data: []byte(`{"code": 9}`)})
	g.open(t)
	select {
	case exit := <-gone:
		if exit.Code != 9 {
			t.Errorf("exit while the engine was away: got %+v, want code 9", exit)
		}
	case <-time.After(15 * time.Second):
		t.Error("exit while the engine was away: not noticed")
	}
	printed("listening on :8080\nwhile away\nback again\nlast words\n")
	nothingOf(t, l.ID)
}
