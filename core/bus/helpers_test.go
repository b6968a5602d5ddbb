package bus

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// TestMain proves that closing every bus leaves no goroutine.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := leaked(); code == 0 && left != "" {
		fmt.Fprintln(os.Stderr, "goroutines left after the tests:\n"+left)
		code = 1
	}
	os.Exit(code)
}

func leaked() string {
	var left string
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); <-time.After(20 * time.Millisecond) {
		left = ""
		buf := make([]byte, 1<<20)
		for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if os.Getenv(diskEnv) != "" && strings.Contains(g, "msgBlock).flushLoop") {
				continue // nats-server 2.15 may leave one for a block whose last write found no room
			}
			if strings.Contains(g, "nats") || strings.Contains(g, "core/bus.(*Bus)") {
				left += g + "\n\n"
			}
		}
		if left == "" {
			break
		}
	}
	return left
}

// external is a nats-server that is not the bus's own, and can be ended and
// started again at the same address.
type external struct {
	t    testing.TB
	s    *server.Server
	dir  string
	port int
}

func startExternal(t testing.TB) *external {
	t.Helper()
	e := &external{t: t, dir: t.TempDir(), port: server.RANDOM_PORT}
	e.start()
	t.Cleanup(e.stop)
	return e
}

func (e *external) start() {
	e.t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: e.port, NoLog: true, NoSigs: true, JetStream: true, StoreDir: e.dir, JetStreamMaxStore: 64 << 30,
	})
	if err != nil {
		e.t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		e.t.Fatal("external server is not ready")
	}
	e.s = s
	_, port, _ := strings.Cut(strings.TrimPrefix(s.ClientURL(), "nats://"), ":")
	if _, err := fmt.Sscan(port, &e.port); err != nil {
		e.t.Fatal(err)
	}
}

func (e *external) stop() {
	e.s.Shutdown()
	e.s.WaitForShutdown()
}

func open(t testing.TB, o Options) *Bus {
	t.Helper()
	if o.Dir == "" && o.URL == "" {
		o.Dir = t.TempDir()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	b, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// both runs a test against the embedded and against an external server.
func both(t *testing.T, test func(t *testing.T, b *Bus)) {
	t.Run("embedded", func(t *testing.T) { test(t, open(t, Options{patience: time.Minute})) })
	t.Run("external", func(t *testing.T) {
		test(t, open(t, Options{URL: startExternal(t).s.ClientURL(), patience: time.Minute}))
	})
}

// eventually waits for what another goroutine or server does.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); <-time.After(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after a minute still not: %s", what)
		}
	}
}

func event(name string, i int) plugin.Event {
	return plugin.Event{Type: "dev.test.v1", Plugin: name, Subject: fmt.Sprint(i), Data: fmt.Appendf(nil, `{"i":%d}`, i)}
}

// collect reads n events and checks their order by subject.
func collect(t testing.TB, b *Bus, q EventQuery, n int) []plugin.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var all []plugin.Event
	for e, err := range b.Events(ctx, q) {
		if err != nil {
			t.Fatalf("after %d events: %v", len(all), err)
		}
		if all = append(all, e); len(all) == n {
			return all
		}
	}
	if q.Follow || n >= 0 {
		t.Fatalf("got %d events, want %d", len(all), n)
	}
	return all
}
