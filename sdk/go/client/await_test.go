package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// stage is a daemon with plugins whose status the test sets.
type stage struct {
	mu    sync.Mutex
	all   map[string]plugin.Resource
	looks chan string // the plugin that was looked at, when somebody listens
}

func (s *stage) set(name string, state plugin.State, desired plugin.Desired) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[name] = plugin.Resource{
		Manifest: plugin.Manifest{Metadata: plugin.Metadata{Name: name}}, Generation: 1, Desired: desired,
		Status: plugin.Status{State: state, Generation: 1, Reason: "Because"},
	}
}

func (s *stage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/events") {
		w.Header().Set("Content-Type", wire.SSEType)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done() // it has none: the rounds must do
		return
	}
	name := filepath.Base(r.URL.Path)
	s.mu.Lock()
	one, ok := s.all[name]
	s.mu.Unlock()
	select {
	case s.looks <- name:
	default:
	}
	if !ok {
		p := wire.NewProblem(wire.CodeNotFound, "plugin: not found")
		w.WriteHeader(p.Status)
		_ = json.NewEncoder(w).Encode(p)
		return
	}
	_ = json.NewEncoder(w).Encode(one)
}

func newStage() *stage {
	return &stage{all: map[string]plugin.Resource{}, looks: make(chan string)}
}

// daemonOf serves the stage, and writes where into a data folder.
func daemonOf(t *testing.T, s *stage, dir string) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	for name, text := range map[string]string{wire.APIAddrFile: server.URL, wire.APITokenFile: "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return server
}

func clientOf(t *testing.T, dir string) *Client {
	t.Helper()
	c, err := New(Options{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func goalOf(t *testing.T, text string) Goal {
	t.Helper()
	g, err := ParseGoal(text)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestAwait_overARestartOfTheDaemon(t *testing.T) {
	s, dir := newStage(), t.TempDir()
	first := daemonOf(t, s, dir)
	s.set("a", plugin.Starting, plugin.DesiredRunning)
	s.set("b", plugin.Running, plugin.DesiredRunning)
	var met []string
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c := clientOf(t, dir)
	go func() { // ends with Await
		done <- c.Await(ctx, []string{"a", "b"}, goalOf(t, "running"), func(name string) { met = append(met, name) })
	}()
	for range 3 { // a, b, and a again
		<-s.looks
	}
	first.CloseClientConnections()
	first.Close()
	daemonOf(t, s, dir)
	<-s.looks // it came to the new port
	s.set("a", plugin.Running, plugin.DesiredRunning)
	if err := <-done; err != nil || !slices.Equal(met, []string{"b", "a"}) {
		t.Errorf("got %v, met %v", err, met)
	}
}

func TestAwait_whatWillNeverBe(t *testing.T) {
	s, dir := newStage(), t.TempDir()
	daemonOf(t, s, dir)
	s.set("a", plugin.Failed, plugin.DesiredRunning)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c := clientOf(t, dir)
	err := c.Await(ctx, []string{"a"}, goalOf(t, "running"), func(string) {})
	if !errors.Is(err, plugin.ErrUnavailable) || !strings.Contains(err.Error(), "a: unavailable: it is failed (Because), and will not be running by itself") {
		t.Errorf("got %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Await(ctx, []string{"a"}, goalOf(t, "running"), func(string) {}) }() // ends with Await
	<-s.looks
	s.set("a", plugin.Running, plugin.DesiredRunning) // it was started just before, and that shows now
	if err := <-done; err != nil {
		t.Errorf("one that was started just before: got %v", err)
	}
	if err := c.Await(ctx, []string{"nobody"}, goalOf(t, "running"), func(string) {}); !errors.Is(err, plugin.ErrNotFound) {
		t.Errorf("one that is not there: got %v", err)
	}
}

func TestAwait_saysHowTheOthersAre(t *testing.T) {
	s, dir := newStage(), t.TempDir()
	daemonOf(t, s, dir)
	s.set("a", plugin.Backoff, plugin.DesiredRunning)
	s.set("b", plugin.Starting, plugin.DesiredRunning)
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	err := clientOf(t, dir).Await(ctx, []string{"a", "b"}, goalOf(t, "running"), func(string) {})
	const want = "a: deadline: it is still backoff (Because), not running\nb: deadline: it is still starting (Because), not running"
	if !errors.Is(err, plugin.ErrDeadline) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestGoal_met(t *testing.T) {
	ready := []plugin.Condition{{Type: plugin.ConditionReady, Status: plugin.ConditionFalse}}
	for _, tt := range []struct {
		goal    string
		state   plugin.State
		desired plugin.Desired
		met     bool
		never   bool
	}{
		{"running", plugin.Running, plugin.DesiredRunning, true, false},
		{"running", plugin.Degraded, plugin.DesiredRunning, false, false},
		{"running", plugin.Stopped, plugin.DesiredRunning, false, false}, // between two instances
		{"running", plugin.Stopped, plugin.DesiredStopped, false, true},
		{"running", plugin.Finished, plugin.DesiredRunning, false, true},
		{"stopped", plugin.Failed, plugin.DesiredStopped, false, false}, // on its way
		{"stopped", plugin.Failed, plugin.DesiredRunning, false, true},
		{"stopped", plugin.Stopped, plugin.DesiredStopped, true, false},
		{"failed", plugin.Failed, plugin.DesiredRunning, true, false},
		{"failed", plugin.Backoff, plugin.DesiredRunning, false, false},
		{"finished", plugin.Finished, plugin.DesiredRunning, true, false},
		{"deleted", plugin.Failed, plugin.DesiredRunning, false, false},
		{"condition=Ready", plugin.Degraded, plugin.DesiredRunning, false, false},
		{"condition=Ready=False", plugin.Degraded, plugin.DesiredRunning, true, false},
		{"condition=Ready", plugin.Failed, plugin.DesiredRunning, false, true},
	} {
		r := plugin.Resource{Generation: 1, Desired: tt.desired, Status: plugin.Status{Generation: 1, State: tt.state, Conditions: ready}}
		met, never := goalOf(t, tt.goal).Met(r)
		if met != tt.met || (never != nil) != tt.never {
			t.Errorf("%s while %s, wanted %s: got %t %v, want %t, never: %t", tt.goal, tt.state, tt.desired, met, never, tt.met, tt.never)
		}
	}
	old := plugin.Resource{Generation: 2, Status: plugin.Status{Generation: 1, State: plugin.Running}}
	if met, _ := goalOf(t, "running").Met(old); met {
		t.Error("an instance of the manifest before is taken for the one that was applied")
	}
}
