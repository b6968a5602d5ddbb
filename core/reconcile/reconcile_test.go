package reconcile_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/patchbay-dev/patchbay/core/dispatch"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/reconcile"
	"github.com/patchbay-dev/patchbay/core/store"
	"github.com/patchbay-dev/patchbay/core/supervise"
)

// memoryStore is core/store without a disk.
type memoryStore struct {
	mu       sync.Mutex
	records  map[string]store.Record
	past     map[string][]store.Past
	revision uint64
	names    chan string
	meddle   func() // called before a Put, once: somebody else writes
}

func newStore() *memoryStore {
	return &memoryStore{records: map[string]store.Record{}, past: map[string][]store.Past{}, names: make(chan string, 1000)}
}

func (s *memoryStore) Get(name string) (store.Record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.records[name]
	return r, ok
}

func (s *memoryStore) List() []*store.Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*store.Record, 0, len(s.records))
	for _, r := range s.records {
		out = append(out, &r)
	}
	slices.SortFunc(out, func(a, b *store.Record) int {
		if a.Manifest.Metadata.Name < b.Manifest.Metadata.Name {
			return -1
		}
		return 1
	})
	return out
}

func (s *memoryStore) Put(_ context.Context, r store.Record, expect store.Expect) (store.Record, error) {
	if meddle := s.meddle; meddle != nil {
		s.meddle = nil
		meddle()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name := r.Manifest.Metadata.Name
	old, exists := s.records[name]
	if (expect.Absent && exists) || (expect.Revision != 0 && expect.Revision != old.Revision) {
		return store.Record{}, plugin.ErrConflict
	}
	s.revision++
	r.Revision = s.revision
	s.records[name] = r
	s.past[name] = append(s.past[name], store.Past{Record: r, At: time.Now()})
	s.names <- name
	return r, nil
}

func (s *memoryStore) Delete(_ context.Context, name string, _ store.Expect) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.records, name)
	s.names <- name
	return nil
}

func (s *memoryStore) History(_ context.Context, name string) ([]store.Past, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.past[name], nil
}

func (s *memoryStore) Watch(context.Context) <-chan string { return s.names }

// adapter's instances answer with their id, and end only when stopped.
type adapter struct {
	mu       sync.Mutex
	launched []string
	alive    map[string]int
	slowStop time.Duration
	digest   string // of what instances run
	asked    string // spec.digest of the last launch
}

func (a *adapter) Name() string                { return "fake" }
func (a *adapter) Check(plugin.Manifest) error { return nil }
func (a *adapter) Resident()                   {}

func (a *adapter) Launch(_ context.Context, l plugin.Launch) (plugin.Instance, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	name := l.Manifest.Metadata.Name
	if a.alive[name]++; a.alive[name] > 1 {
		return nil, fmt.Errorf("two instances of %s", name)
	}
	a.launched = append(a.launched, name)
	a.asked = l.Manifest.Spec.Digest
	return &instance{adapter: a, name: name, id: l.ID, gone: make(chan struct{})}, nil
}

func (a *adapter) count(name string) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, one := range a.launched {
		if one == name {
			n++
		}
	}
	return n
}

type instance struct {
	adapter  *adapter
	name, id string
	once     sync.Once
	gone     chan struct{}
}

func (i *instance) Invoke(context.Context, plugin.Invocation) (plugin.Result, error) {
	return plugin.Result{Data: []byte(`"` + i.id + `"`)}, nil
}

func (i *instance) Digest(context.Context) (string, error) { return i.adapter.digest, nil }

func (i *instance) Wait() plugin.Exit { <-i.gone; return plugin.Exit{} }

func (i *instance) Stop(context.Context) error {
	if i.adapter.slowStop > 0 {
		<-time.After(i.adapter.slowStop) // synctest's clock
	}
	i.once.Do(func() {
		i.adapter.mu.Lock()
		i.adapter.alive[i.name]--
		i.adapter.mu.Unlock()
		close(i.gone)
	})
	return nil
}

func (i *instance) Describe(context.Context) ([]plugin.Operation, error) {
	return []plugin.Operation{{Name: "id"}}, nil
}

type noLog struct{}

func (noLog) File(plugin.LogStream) (*os.File, error) { return nil, errors.New("not a process") }
func (noLog) Writer(plugin.LogStream) io.Writer       { return io.Discard }
func (noLog) Tail(int) []plugin.LogLine               { return nil }
func (noLog) Stdout(int) ([]byte, bool)               { return nil, true }
func (noLog) Match(*regexp.Regexp) (func() bool, func()) {
	return func() bool { return false }, func() {}
}
func (noLog) Close() {}
func (noLog) Leave() {}

type world struct {
	reconcile.Registry
	store   *memoryStore
	adapter *adapter
	mu      sync.Mutex
	events  []string
}

// start runs a Reconciler over s until the test's bubble is done with it.
func start(t *testing.T, s *memoryStore) *world {
	t.Helper()
	return startOn(t, s, func(s *memoryStore) reconcile.Store { return s })
}

// startOn is start with what stands before the store.
func startOn(t *testing.T, s *memoryStore, before func(*memoryStore) reconcile.Store) *world {
	t.Helper()
	w := &world{store: s, adapter: &adapter{alive: map[string]int{}}}
	deps := &supervise.Deps{
		Adapters:  map[string]plugin.Adapter{"fake": w.adapter},
		OpenLog:   func(string, string, string, int) supervise.Log { return noLog{} },
		Resolve:   func(map[string]plugin.EnvValue) (map[string]string, error) { return nil, nil },
		Changed:   func(plugin.StateChange) {},
		Refreshed: func(plugin.Status) {},
		Forget:    func(string, string) {},
		Host:      func(string) plugin.Host { return nil },
		Starts:    make(chan struct{}, 8), Removals: make(chan struct{}, 1),
		Log: slog.New(slog.DiscardHandler),
	}
	reconciler := reconcile.New(before(s), deps, "node", func(e plugin.Event) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, e.Type+" "+e.Plugin)
	})
	w.Registry = reconcile.Registry{Reconciler: reconciler, Dispatch: dispatch.New(reconciler, func(plugin.InvocationRecord) {})}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { // ends with the cleanup
		defer close(done)
		_ = reconciler.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		for name, n := range w.adapter.alive {
			if n != 0 {
				t.Errorf("%d instances of %s are left", n, name)
			}
		}
	})
	return w
}

func manifest(t *testing.T, name, spec string) plugin.Manifest {
	t.Helper()
	var m plugin.Manifest
	if err := json.Unmarshal([]byte(`{"apiVersion":"patchbay/v1","kind":"Plugin","metadata":{"name":"`+name+`"},"spec":`+spec+`}`), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func (w *world) put(t *testing.T, name, spec string) plugin.Resource {
	t.Helper()
	r, _, err := w.Put(t.Context(), manifest(t, name, spec), store.Expect{})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return r
}

func TestApply_runsChangesAndDeletes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newStore())
		first := w.put(t, "a", `{"fake":{"v":1}}`)
		if got, _ := w.Get("a"); got.Status.State != plugin.Running || got.Generation != 1 {
			t.Errorf("after apply: got %+v", got.Status)
		}
		if same := w.put(t, "a", `{"fake":{"v":1},"mode":"service"}`); same.Revision != first.Revision {
			t.Errorf("the same again, a default written out: got revision %d, want %d", same.Revision, first.Revision)
		}
		w.put(t, "a", `{"fake":{"v":1},"timeouts":{"invoke":"5s"}}`)
		if got, _ := w.Get("a"); w.adapter.count("a") != 1 || got.Generation != 2 || got.Status.Generation != 2 {
			t.Errorf("a change that needs no new instance: %d launches, %+v", w.adapter.count("a"), got)
		}
		w.put(t, "a", `{"fake":{"v":2},"timeouts":{"invoke":"5s"}}`)
		if got, _ := w.Get("a"); w.adapter.count("a") != 2 || got.Status.Generation != 3 {
			t.Errorf("a change that needs one: %d launches, %+v", w.adapter.count("a"), got)
		}
		if err := w.Delete(t.Context(), "a", store.Expect{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, ok := w.Get("a"); ok || w.adapter.alive["a"] != 0 {
			t.Error("after delete: it is still there")
		}
		if err := w.Delete(t.Context(), "a", store.Expect{}); !errors.Is(err, plugin.ErrNotFound) {
			t.Errorf("delete again: got %v, want not found", err)
		}
		want := []string{plugin.EventApplied + " a", plugin.EventApplied + " a", plugin.EventApplied + " a", plugin.EventDeleted + " a"}
		if !slices.Equal(w.events, want) {
			t.Errorf("events: got %v", w.events)
		}
	})
}

func TestBoot_runsWhatWasApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		for i := range 50 {
			m := manifest(t, fmt.Sprintf("p%d", i), `{"fake":{}}`)
			if _, err := s.Put(t.Context(), store.Record{Manifest: m.WithDefaults(), Generation: 1, Desired: plugin.DesiredRunning}, store.Expect{}); err != nil {
				t.Fatal(err)
			}
		}
		s.names = make(chan string, 1000) // the hints are lost: the boot lists
		w := start(t, s)
		synctest.Wait()
		if len(w.adapter.launched) != 50 {
			t.Errorf("%d launches, want 50", len(w.adapter.launched))
		}
	})
}

// A plugin whose stored manifest is not accepted is failed and says why; the others go
// on, and nothing but an apply or a delete writes over it.
func TestRecord_thatIsNotAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		w := start(t, s)
		w.put(t, "good", `{"fake":{}}`)
		w.put(t, "turns", `{"fake":{}}`)
		forge := func(name string, desired plugin.Desired) {
			t.Helper()
			r := store.Record{Manifest: plugin.Manifest{Metadata: plugin.Metadata{Name: name}}, Desired: desired, Fault: "spec.quantum: is no field"}
			r.Pin = &plugin.Pin{Generation: 5, Digest: "sha256:1"}
			if _, err := s.Put(t.Context(), r, store.Expect{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		forge("turns", plugin.DesiredRunning)
		forge("new", plugin.DesiredRunning)
		forge("halted", plugin.DesiredStopped)
		for _, name := range []string{"turns", "new", "halted"} {
			got, _ := w.Get(name)
			if s := got.Status; s.State != plugin.Failed || s.Reason != "ManifestRefused" || !strings.Contains(s.Message, "spec.quantum: is no field") {
				t.Errorf("%s: got %s, %s: %s", name, s.State, s.Reason, s.Message)
			}
			if _, err := w.Restart(t.Context(), name); !errors.Is(err, plugin.ErrConflict) || !strings.Contains(err.Error(), "spec.quantum") {
				t.Errorf("restart of %s: got %v, want a conflict that says why", name, err)
			}
			if _, err := w.Invoke(t.Context(), plugin.Invocation{Plugin: name, Operation: "id"}); !errors.Is(err, plugin.ErrUnavailable) {
				t.Errorf("invoke of %s: got %v, want unavailable", name, err)
			}
		}
		if got, _ := w.Get("good"); got.Status.State != plugin.Running || w.adapter.count("good") != 1 || w.adapter.alive["turns"] != 0 {
			t.Errorf("good is %s after %d launches, %d of turns run", got.Status.State, w.adapter.count("good"), w.adapter.alive["turns"])
		}
		w.put(t, "turns", `{"fake":{}}`)
		if got, _ := w.Get("turns"); got.Status.State != plugin.Running || got.Pin == nil || got.Pin.Generation != got.Generation || w.adapter.asked != "sha256:1" {
			t.Errorf("applied anew: got %s, pin %+v, launched with digest %q", got.Status.State, got.Pin, w.adapter.asked)
		}
		if err := w.Delete(t.Context(), "new", store.Expect{}); err != nil {
			t.Error(err)
		}
	})
}

func TestDeletedAndAppliedAgain_neverTwoAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newStore())
		w.adapter.slowStop = 3 * time.Second
		w.put(t, "a", `{"fake":{}}`)
		if err := w.Delete(t.Context(), "a", store.Expect{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it is on its way out now
		w.put(t, "a", `{"fake":{}}`)
		<-time.After(time.Minute) // synctest's clock
		synctest.Wait()
		if got, _ := w.Get("a"); got.Status.State != plugin.Running || w.adapter.count("a") != 2 {
			t.Errorf("got %+v after %d launches", got.Status, w.adapter.count("a"))
		}
	})
}

func TestStopStartRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newStore())
		w.put(t, "a", `{"fake":{}}`)
		steps := []struct {
			name string
			do   func() (plugin.Resource, error)
			want plugin.State
			n    int
		}{
			{"stop", func() (plugin.Resource, error) { return w.Desire(t.Context(), "a", plugin.DesiredStopped) }, plugin.Stopped, 1},
			{"stop again", func() (plugin.Resource, error) { return w.Desire(t.Context(), "a", plugin.DesiredStopped) }, plugin.Stopped, 1},
			{"start", func() (plugin.Resource, error) { return w.Desire(t.Context(), "a", plugin.DesiredRunning) }, plugin.Running, 2},
			{"start again", func() (plugin.Resource, error) { return w.Desire(t.Context(), "a", plugin.DesiredRunning) }, plugin.Running, 2},
			{"restart", func() (plugin.Resource, error) { return w.Restart(t.Context(), "a") }, plugin.Running, 3},
		}
		for _, step := range steps {
			if _, err := step.do(); err != nil {
				t.Fatalf("%s: %v", step.name, err)
			}
			synctest.Wait()
			if got, _ := w.Get("a"); got.Status.State != step.want || w.adapter.count("a") != step.n {
				t.Errorf("%s: got %s after %d launches, want %s after %d", step.name, got.Status.State, w.adapter.count("a"), step.want, step.n)
			}
		}
		if _, err := w.Reload(t.Context(), "a"); !errors.Is(err, plugin.ErrConflict) || !strings.Contains(err.Error(), "patchbay restart a") {
			t.Errorf("reload where there cannot be two: got %v", err)
		}
		if _, err := w.Reload(t.Context(), "none"); !errors.Is(err, plugin.ErrNotFound) {
			t.Errorf("reload of an unknown plugin: got %v", err)
		}
		if _, err := w.Desire(t.Context(), "none", plugin.DesiredStopped); !errors.Is(err, plugin.ErrNotFound) {
			t.Errorf("stop of an unknown plugin: got %v", err)
		}
	})
}

func TestPut_expectations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newStore())
		r := w.put(t, "a", `{"fake":{}}`)
		changed := manifest(t, "a", `{"fake":{"v":2}}`)
		for _, tt := range []struct {
			name   string
			m      plugin.Manifest
			expect store.Expect
			want   error
		}{
			{"must be absent", changed, store.Expect{Absent: true}, plugin.ErrConflict},
			{"another revision", changed, store.Expect{Revision: r.Revision + 7}, plugin.ErrConflict},
			{"a revision of nothing", manifest(t, "b", `{"fake":{}}`), store.Expect{Revision: 1}, plugin.ErrConflict},
			{"its revision", changed, store.Expect{Revision: r.Revision}, nil},
		} {
			if _, _, err := w.Put(t.Context(), tt.m, tt.expect); !errors.Is(err, tt.want) {
				t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
			}
		}
	})
}

func TestPut_whileSomebodyElseWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newStore())
		w.put(t, "a", `{"fake":{}}`)
		w.store.meddle = func() {
			if _, err := w.Desire(t.Context(), "a", plugin.DesiredStopped); err != nil {
				t.Error(err)
			}
		}
		got := w.put(t, "a", `{"fake":{"v":2}}`)
		if got.Desired != plugin.DesiredStopped || got.Generation != 2 {
			t.Errorf("got %s, generation %d: one of two writes was lost", got.Desired, got.Generation)
		}
	})
}

func TestList_pagesBySelector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newStore())
		for _, name := range []string{"c", "a", "e", "b", "d"} {
			w.put(t, name, `{"fake":{}}`)
		}
		var got []string
		after, pages := "", 0
		for {
			page, next := w.List(after, 2, func(map[string]string) bool { return true })
			for _, r := range page {
				got = append(got, r.Metadata.Name)
			}
			if pages++; next == "" {
				break
			}
			after = next
		}
		if !slices.Equal(got, []string{"a", "b", "c", "d", "e"}) || pages != 3 {
			t.Errorf("got %v in %d pages", got, pages)
		}
		if page, _ := w.List("", 10, func(map[string]string) bool { return false }); len(page) != 0 {
			t.Errorf("nothing matches: got %d", len(page))
		}
	})
}

func TestServices_areWhatCanBeInvoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newStore())
		w.put(t, "a", `{"fake":{}}`)
		w.put(t, "b", `{"fake":{}}`)
		if _, err := w.Desire(t.Context(), "b", plugin.DesiredStopped); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		all := w.Plugins()
		if len(all) != 1 || all[0].Name != "a" {
			t.Errorf("got %+v, want a alone", all)
		}
		info, ok := w.Plugin("a")
		if !ok || len(info.Operations) != 1 {
			t.Errorf("got %+v %t", info, ok)
		}
		if result, err := w.Invoke(t.Context(), plugin.Invocation{Plugin: "a", Operation: "id"}); err != nil || string(result.Data) != `"`+all[0].ID+`"` {
			t.Errorf("invoke: got %s %v", result.Data, err)
		}
	})
}

// deafStore never tells that a name changed, as a watch that is slow.
type deafStore struct{ *memoryStore }

func (deafStore) Watch(context.Context) <-chan string { return nil }

// What was acknowledged can be called: a caller must not be told that there is no
// such plugin because Run has not come to it yet.
func TestLookup_ofWhatWasJustApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startOn(t, newStore(), func(s *memoryStore) reconcile.Store { return deafStore{s} })
		m := plugin.Manifest{Metadata: plugin.Metadata{Name: "a"}, Spec: plugin.Spec{Adapter: "fake"}}
		if _, _, err := w.Put(t.Context(), m, store.Expect{}); err != nil {
			t.Fatal(err)
		}
		if _, ok := w.Lookup("a"); !ok {
			t.Error("an applied plugin: not found")
		}
		if _, ok := w.Lookup("b"); ok {
			t.Error("a plugin that is not applied: found")
		}
	})
}
