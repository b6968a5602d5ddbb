package store

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/bus"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Short times, of which a busy machine misses some.
const testEvery, testMax = 20 * time.Millisecond, 2 * time.Second

// leaseStore is the store of one more daemon on a server.
func leaseStore(t *testing.T, url string) *Store {
	t.Helper()
	return open(t, openBus(t, bus.Options{URL: url}))
}

// holds runs a lease until the function that it returns is called.
func holds(t *testing.T, l *lease) (end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.run(ctx) }() // ends with cancel
	t.Cleanup(cancel)
	return func() error {
		cancel()
		return <-done
	}
}

func TestLease_isOneDaemons(t *testing.T) {
	url := external(t, t.TempDir(), server.RANDOM_PORT).ClientURL()
	first, second := leaseStore(t, url), leaseStore(t, url)
	l, err := first.takeLease(t.Context(), "one", t.TempDir(), testEvery, testMax)
	if err != nil {
		t.Fatal(err)
	}
	end := holds(t, l)
	for _, node := range []string{"two", "one"} { // a copied folder has the same node
		_, err = second.takeLease(t.Context(), node, t.TempDir(), testEvery, testMax)
		if !errors.Is(err, plugin.ErrConflict) || !strings.Contains(err.Error(), "the daemon of node one on ") {
			t.Errorf("second daemon, node %s: got %v, want a conflict that names the first", node, err)
		}
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if l, err = second.takeLease(t.Context(), "two", t.TempDir(), testEvery, time.Hour); err != nil || time.Since(began) > time.Minute {
		t.Fatalf("once the first has ended: got %v after %s, want it at once", err, time.Since(began))
	}
	if err := holds(t, l)(); err != nil {
		t.Error(err)
	}
}

// A daemon that ends while it renews its lease gives up what it has just renewed.
func TestLease_isGivenUpWhateverWasWritten(t *testing.T) {
	s := leaseStore(t, external(t, t.TempDir(), server.RANDOM_PORT).ClientURL())
	l, err := s.takeLease(t.Context(), "one", t.TempDir(), testEvery, testMax)
	if err != nil {
		t.Fatal(err)
	}
	before := l.revision
	if err := l.renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.revision = before // as if it had not been answered
	l.giveUp()
	if _, _, err := l.read(t.Context()); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("the lease is still there: %v", err)
	}
}

// A daemon that was killed is succeeded at once on its folder, and elsewhere when its
// lease has not been renewed for long enough.
func TestLease_ofADaemonThatWasKilled(t *testing.T) {
	url := external(t, t.TempDir(), server.RANDOM_PORT).ClientURL()
	folder := t.TempDir()
	if _, err := leaseStore(t, url).takeLease(t.Context(), "one", folder, testEvery, testMax); err != nil {
		t.Fatal(err)
	}
	if _, err := leaseStore(t, url).takeLease(t.Context(), "one", folder, testEvery, time.Hour); err != nil {
		t.Errorf("on its folder: got %v", err)
	}
	began := time.Now()
	if _, err := leaseStore(t, url).takeLease(t.Context(), "two", t.TempDir(), testEvery, 100*time.Millisecond); err != nil || time.Since(began) < 100*time.Millisecond {
		t.Errorf("elsewhere: got %v after %s, want it after 100ms", err, time.Since(began))
	}
}

// Who was away for too long finds another in its place, and ends.
func TestLease_thatIsLost(t *testing.T) {
	url := external(t, t.TempDir(), server.RANDOM_PORT).ClientURL()
	first, err := leaseStore(t, url).takeLease(t.Context(), "one", t.TempDir(), testEvery, testMax)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaseStore(t, url).takeLease(t.Context(), "two", t.TempDir(), testEvery, 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if err := first.run(t.Context()); !errors.Is(err, plugin.ErrConflict) || !strings.Contains(err.Error(), "node two") {
		t.Errorf("got %v, want a conflict that names node two", err)
	}
}

func TestLease_outlivesAnOutage(t *testing.T) {
	dir := t.TempDir()
	ns := external(t, dir, server.RANDOM_PORT)
	port := ns.Addr().(*net.TCPAddr).Port
	s := leaseStore(t, ns.ClientURL())
	l, err := s.takeLease(t.Context(), "one", t.TempDir(), testEvery, testMax)
	if err != nil {
		t.Fatal(err)
	}
	before := l.revision
	end := holds(t, l)
	ns.Shutdown()
	ns.WaitForShutdown()
	eventually(t, "the bus is seen to be down", func() bool { return !s.bus.Connected() })
	external(t, dir, port)
	eventually(t, "the lease is renewed", func() bool {
		revision, _, err := l.read(t.Context())
		return err == nil && revision > before+1
	})
	if err := end(); err != nil {
		t.Error(err)
	}
}

// The store of a daemon has it from Open to the end of Run, but for the embedded
// server, which nobody else writes to.
func TestOpen_takesTheLease(t *testing.T) {
	url := external(t, t.TempDir(), server.RANDOM_PORT).ClientURL()
	for _, o := range []bus.Options{{URL: url}, {Dir: t.TempDir()}} {
		b := openBus(t, o)
		for range 2 {
			s, err := Open(t.Context(), b, Options{Node: "one", Folder: t.TempDir()})
			if err != nil || (s.lease != nil) != (o.URL != "") {
				t.Fatalf("%+v: got lease %v, %v", o, s.lease, err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx) }() // ends with cancel
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
}
