package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/patchbay-dev/patchbay/core/bus"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// TestMain proves that closing every store and bus leaves no goroutine.
func TestMain(m *testing.M) {
	code := m.Run()
	left := ""
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); <-time.After(20 * time.Millisecond) {
		buf := make([]byte, 1<<20)
		if left = string(buf[:runtime.Stack(buf, true)]); !strings.Contains(left, "nats") && !strings.Contains(left, "store.(*Store)") {
			left = ""
			break
		}
	}
	if code == 0 && left != "" {
		fmt.Fprintln(os.Stderr, "goroutines left after the tests:\n"+left)
		code = 1
	}
	os.Exit(code)
}

func openBus(t testing.TB, o bus.Options) *bus.Bus {
	t.Helper()
	if o.Dir == "" && o.URL == "" {
		o.Dir = t.TempDir()
	}
	b, err := bus.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// open opens a store and runs it until the test ends.
func open(t testing.TB, b *bus.Bus) *Store {
	t.Helper()
	s, err := Open(context.Background(), b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return s
}

// external starts a nats-server at a free port, or at the one of before.
func external(t testing.TB, dir string, port int) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, NoLog: true, NoSigs: true, JetStream: true, StoreDir: dir, JetStreamMaxStore: 64 << 30})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("external server is not ready")
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

func record(name string, generation int64) Record {
	var r Record
	r.Manifest = plugin.Manifest{APIVersion: plugin.APIVersion, Kind: plugin.Kind, Metadata: plugin.Metadata{Name: name}}
	r.Manifest.Spec.Adapter, r.Manifest.Spec.Block = "starlark", plugin.RawJSON(`{"file":"a.star"}`)
	r.Generation, r.Desired = generation, plugin.DesiredRunning
	return r
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); <-time.After(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after a minute still not: %s", what)
		}
	}
}

func put(t testing.TB, s *Store, r Record, e Expect) Record {
	t.Helper()
	got, err := s.Put(t.Context(), r, e)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestPut_compareAndSet(t *testing.T) {
	s := open(t, openBus(t, bus.Options{}))
	first := put(t, s, record("a", 1), Absent())
	if _, err := s.Put(t.Context(), record("a", 2), Absent()); !errors.Is(err, plugin.ErrConflict) {
		t.Errorf("absent, but there: got %v", err)
	}
	second := put(t, s, record("a", 2), At(first.Revision))
	if _, err := s.Put(t.Context(), record("a", 3), At(first.Revision)); !errors.Is(err, plugin.ErrConflict) {
		t.Errorf("old revision: got %v", err)
	}
	third := put(t, s, record("a", 3), Any())
	if got, ok := s.Get("a"); !ok || got.Generation != 3 || got.Revision != third.Revision || third.Revision <= second.Revision || got.Manifest.Spec.Adapter != "starlark" {
		t.Errorf("got %+v", got)
	}
	if err := s.Delete(t.Context(), "a", At(second.Revision)); !errors.Is(err, plugin.ErrConflict) {
		t.Errorf("delete of an old revision: got %v", err)
	}
	if err := s.Delete(t.Context(), "a", At(third.Revision)); err != nil {
		t.Error(err)
	}
	if _, ok := s.Get("a"); ok || len(s.List()) != 0 {
		t.Error("still there")
	}
	if err := s.Delete(t.Context(), "a", Any()); !errors.Is(err, plugin.ErrNotFound) {
		t.Errorf("delete twice: got %v", err)
	}
	put(t, s, record("a", 1), Absent())
	if _, err := s.Put(t.Context(), record("Not A Name", 1), Any()); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("bad name: got %v", err)
	}
}

func TestPut_onlyOneOfManyWins(t *testing.T) {
	s := open(t, openBus(t, bus.Options{}))
	base := put(t, s, record("a", 1), Absent())
	var writers sync.WaitGroup
	won := make(chan int64, 16)
	for i := range 16 {
		writers.Go(func() {
			_, err := s.Put(t.Context(), record("a", int64(100+i)), At(base.Revision))
			if err == nil {
				won <- int64(100 + i)
			} else if !errors.Is(err, plugin.ErrConflict) {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	if got, _ := s.Get("a"); len(won) != 1 || got.Generation != <-won {
		t.Errorf("%d winners, cache has %d", len(won), got.Generation)
	}
}

func TestOpen_seesWhatWasPut(t *testing.T) {
	dir := t.TempDir()
	b := openBus(t, bus.Options{Dir: dir})
	s := open(t, b)
	for i := range 20 {
		put(t, s, record(fmt.Sprintf("p-%02d", i), 1), Any())
	}
	if err := s.Delete(t.Context(), "p-07", Any()); err != nil {
		t.Fatal(err)
	}
	b.Close()
	s = open(t, openBus(t, bus.Options{Dir: dir}))
	all := s.List()
	if len(all) != 19 || all[0].Name() != "p-00" || all[7].Name() != "p-08" {
		t.Errorf("got %d records", len(all))
	}
}

func TestSeen_knownRevisionIsNotDecodedAgain(t *testing.T) {
	b := openBus(t, bus.Options{})
	s, err := Open(t.Context(), b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, record("a", 1), Any())
	known, err := s.kv.Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	// The server beside us allocates, too, now and then; decoding takes some sixty.
	const most = 10
	if n := testing.AllocsPerRun(100, func() { s.seen(known) }); n > most {
		t.Errorf("a resync allocates %v times for a record that it has, want at most %d", n, most)
	}
}

func TestOpen_newerFieldsAndRubbish(t *testing.T) {
	b := openBus(t, bus.Options{})
	s := open(t, b)
	put(t, s, record("known", 1), Any())
	if _, err := s.kv.Put(t.Context(), "newer", []byte(`{"manifest":{"metadata":{"name":"newer"}},"generation":4,"desired":"stopped","placement":{"node":"x"}}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.kv.Put(t.Context(), "rubbish", []byte("no json")); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "newer is seen", func() bool { r, ok := s.Get("newer"); return ok && r.Generation == 4 })
	if len(s.List()) != 3 {
		t.Errorf("got %d records", len(s.List()))
	}
}

// What this daemon does not accept is told of its plugin, whatever it is, and hides no
// other.
func TestSeen_whatIsNotAccepted(t *testing.T) {
	b := openBus(t, bus.Options{})
	s, err := Open(t.Context(), b, Options{Check: func(manifest []byte) error {
		if strings.Contains(string(manifest), "quantum") {
			return plugin.Faults{{Path: "spec.quantum", Detail: "is no field"}, {Path: "spec", Detail: strings.Repeat("x", 5000)}}
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"rubbish": "no json", "null": "null", "list": `[]`, "empty": "",
		"other":  `{"manifest":{"metadata":{"name":"known"}},"desired":"running"}`,
		"type":   `{"manifest":{"metadata":{"name":"type"},"spec":{"timeouts":5}},"desired":"running"}`,
		"wish":   `{"manifest":{"metadata":{"name":"wish"}},"desired":"paused"}`,
		"newer":  `{"manifest":{"metadata":{"name":"newer"},"spec":{"quantum":{},"starlark":{}}},"generation":7,"desired":"stopped","restart":3,"reload":2,"pin":{"generation":7,"digest":"sha256:1"}}`,
		"nested": strings.Repeat(`{"manifest":`, 20000),
	} {
		if _, err := s.kv.Put(t.Context(), name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	put(t, s, record("known", 1), Any())
	again, err := Open(t.Context(), b, Options{Check: s.checks})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range again.List() {
		if known := r.Name() == "known"; known != (r.Fault == "") || r.Revision == 0 || len(r.Fault) > faultBytesMax || strings.Contains(r.Fault, "\n") {
			t.Errorf("%s: got revision %d, fault %.100q", r.Name(), r.Revision, r.Fault)
		}
	}
	if n := len(again.List()); n != 10 {
		t.Errorf("got %d records, want 10", n)
	}
	newer, _ := again.Get("newer")
	want := Record{Generation: 7, Desired: plugin.DesiredStopped, Restart: 3, Reload: 2, Pin: &plugin.Pin{Generation: 7, Digest: "sha256:1"}}
	want.Manifest.Metadata.Name, want.Revision, want.Fault = "newer", newer.Revision, newer.Fault
	if diff := cmp.Diff(want, newer); diff != "" || !strings.HasPrefix(newer.Fault, "spec.quantum: is no field; spec: xxx") {
		t.Errorf("%s\n%.100s", diff, newer.Fault)
	}
}

func TestWatch_coalesces(t *testing.T) {
	s := open(t, openBus(t, bus.Options{}))
	ctx, cancel := context.WithCancel(t.Context())
	names := s.Watch(ctx)
	for i := range 50 {
		put(t, s, record("a", int64(i)), Any())
	}
	put(t, s, record("b", 1), Any())
	seen := map[string]int{}
	for seen["b"] == 0 || seen["a"] == 0 {
		seen[<-names]++
	}
	if seen["a"] > 3 {
		t.Errorf("a was given %d times", seen["a"])
	}
	cancel()
	for range names {
	}
	eventually(t, "no watcher is left", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.watchers) == 0 })
}

func TestWatch_seesOtherDaemons(t *testing.T) {
	url := external(t, t.TempDir(), server.RANDOM_PORT).ClientURL()
	here, there := open(t, openBus(t, bus.Options{URL: url})), open(t, openBus(t, bus.Options{URL: url}))
	names := here.Watch(t.Context())
	r := put(t, there, record("a", 7), Absent())
	if got := <-names; got != "a" {
		t.Fatalf("got %s", got)
	}
	if got, ok := here.Get("a"); !ok || got.Generation != 7 || got.Revision != r.Revision {
		t.Errorf("got %+v", got)
	}
	if _, err := here.Put(t.Context(), record("a", 8), At(r.Revision)); err != nil {
		t.Error(err)
	}
	if _, err := there.Put(t.Context(), record("a", 9), At(r.Revision)); !errors.Is(err, plugin.ErrConflict) {
		t.Errorf("got %v", err)
	}
	<-names
	if err := there.Delete(t.Context(), "a", Any()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "deleted here too", func() bool { _, ok := here.Get("a"); return !ok })
}

func TestStore_busDown(t *testing.T) {
	dir := t.TempDir()
	e := external(t, dir, server.RANDOM_PORT)
	url := e.ClientURL()
	var port int
	if _, err := fmt.Sscanf(url, "nats://127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	here := open(t, openBus(t, bus.Options{URL: url}))
	put(t, here, record("kept", 1), Absent())
	put(t, here, record("removed", 1), Absent())
	e.Shutdown()
	e.WaitForShutdown()
	if _, err := here.Put(t.Context(), record("b", 1), Absent()); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("put while down: got %v", err)
	}
	if err := here.Delete(t.Context(), "kept", Any()); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("delete while down: got %v", err)
	}
	if err := here.Check(t.Context()); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("check while down: got %v", err)
	}
	if _, ok := here.Get("kept"); !ok || len(here.List()) != 2 {
		t.Error("the cache is gone")
	}
	names := here.Watch(t.Context())
	external(t, dir, port)
	there := open(t, openBus(t, bus.Options{URL: url}))
	put(t, there, record("new", 1), Absent())
	if err := there.kv.Purge(t.Context(), "removed"); err != nil {
		t.Fatal(err)
	}
	for seen := map[string]bool{}; !seen["new"] || !seen["removed"]; {
		seen[<-names] = true
	}
	eventually(t, "writes work again", func() bool {
		_, err := here.Put(t.Context(), record("b", 1), Any())
		return err == nil
	})
	if _, ok := here.Get("removed"); ok {
		t.Error("removed is still there")
	}
}

// TestPut_isOnDisk: a copy of the files made right after Put returned has it.
func TestPut_isOnDisk(t *testing.T) {
	dir, twin := t.TempDir(), t.TempDir()
	s := open(t, openBus(t, bus.Options{Dir: dir}))
	put(t, s, record("a", 5), Absent())
	if err := os.CopyFS(twin, os.DirFS(filepath.Clean(dir))); err != nil {
		t.Fatal(err)
	}
	s = open(t, openBus(t, bus.Options{Dir: twin}))
	if got, ok := s.Get("a"); !ok || got.Generation != 5 {
		t.Errorf("got %+v", got)
	}
}

func TestOpen_tenThousand(t *testing.T) {
	const total = 10_000
	dir := t.TempDir()
	b := openBus(t, bus.Options{Dir: dir})
	s := open(t, b)
	began := time.Now()
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := w; i < total; i += 8 {
				put(t, s, record(fmt.Sprintf("plugin-%05d", i), 1), Any())
			}
		})
	}
	writers.Wait()
	t.Logf("%d puts: %v", total, time.Since(began))
	b.Close()
	began = time.Now()
	b = openBus(t, bus.Options{Dir: dir})
	opened := time.Since(began)
	s, err := Open(t.Context(), b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("bus open %v, store open %v", opened, time.Since(began)-opened)
	began = time.Now()
	if n := len(s.List()); n != total {
		t.Fatalf("got %d", n)
	}
	t.Logf("first list %v", time.Since(began))
}

func TestHistory_isOfThePresentPlugin(t *testing.T) {
	s := open(t, openBus(t, bus.Options{}))
	put := func(generation int64, restart int64) {
		t.Helper()
		r := Record{Manifest: plugin.Manifest{Metadata: plugin.Metadata{Name: "a"}}, Generation: generation, Desired: plugin.DesiredRunning, Restart: restart}
		if _, err := s.Put(t.Context(), r, Any()); err != nil {
			t.Fatal(err)
		}
	}
	put(7, 0)
	if err := s.Delete(t.Context(), "a", Any()); err != nil {
		t.Fatal(err)
	}
	put(1, 0)
	put(1, 1)
	put(2, 1)
	past, err := s.History(t.Context(), "a")
	if err != nil || len(past) != 3 {
		t.Fatalf("got %d writes, %v, want 3", len(past), err)
	}
	for i, want := range []int64{1, 1, 2} {
		if p := past[i]; p.Generation != want || p.At.IsZero() || p.Fault != "" {
			t.Errorf("%d: got %+v, want generation %d", i, p, want)
		}
	}
	if _, err := s.History(t.Context(), "none"); !errors.Is(err, plugin.ErrNotFound) {
		t.Errorf("of nobody: got %v, want not found", err)
	}
}
