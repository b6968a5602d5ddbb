package supervise_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/supervise"
)

// outliving is an adapter whose instances outlive a daemon of the test.
type outliving struct {
	*adapter
	mu    sync.Mutex
	alive map[string]*instance // by id
	fails error                // of the next adoptions
	asked atomic.Int32         // adoptions
	proof chan struct{}        // not nil: closed once a whole handle is known
}

func newOutliving() *outliving { return &outliving{adapter: &adapter{}, alive: map[string]*instance{}} }

func (o *outliving) Launch(ctx context.Context, l plugin.Launch) (plugin.Instance, error) {
	i, err := o.adapter.Launch(ctx, l)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.alive[l.ID] = i.(*instance)
	return &survivor{instance: i.(*instance), left: make(chan struct{}), proof: o.proof}, nil
}

func (o *outliving) Adopt(_ context.Context, l plugin.Launch, handle plugin.RawJSON) (plugin.Instance, error) {
	o.asked.Add(1)
	if err := o.down.Load(); err != nil {
		return nil, *err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fails != nil {
		o.alive[l.ID].end(plugin.Exit{Code: -1}) // as the contract has it
		return nil, o.fails
	}
	i := o.alive[l.ID]
	if i == nil || string(handle) != fmt.Sprintf("%q", l.ID) || closed(i.gone) {
		return nil, plugin.ErrNotFound
	}
	return &survivor{instance: i, left: make(chan struct{})}, nil
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// survivor is an instance as one daemon has it.
type survivor struct {
	*instance
	left  chan struct{}
	proof chan struct{}
}

func (s *survivor) Handle(ctx context.Context) (plugin.RawJSON, error) {
	if s.proof != nil {
		select {
		case <-s.proof:
			return plugin.RawJSON(`"with proof"`), nil
		case <-ctx.Done():
		}
	}
	return json.Marshal(s.launch.ID)
}

func (s *survivor) Leave() { close(s.left) }

func (s *survivor) Wait() plugin.Exit {
	select {
	case <-s.gone:
		return s.exit
	case <-s.left:
		return plugin.Exit{Code: -1, Message: "left"}
	}
}

// daemon is one daemon's supervisor of the plugin p.
type daemon struct {
	*supervise.Pool
	deps    *supervise.Deps
	changes chan plugin.StateChange
	end     context.CancelCauseFunc
	done    chan struct{}
}

// daemon starts one on the folder of instances, with what it finds there.
func (o *outliving) daemon(t *testing.T, runDir string, want supervise.Want, fits bool) *daemon {
	t.Helper()
	d := &daemon{changes: make(chan plugin.StateChange, 100), done: make(chan struct{})}
	d.deps = &supervise.Deps{
		Adapters:  map[string]plugin.Adapter{"fake": o},
		OpenLog:   func(string, string, string, int) supervise.Log { return &memoryLog{} },
		ResumeLog: func(string, string, string, int) supervise.Log { return &memoryLog{} },
		Resolve:   func(map[string]plugin.EnvValue) (map[string]string, error) { return nil, nil },
		Changed:   func(c plugin.StateChange) { d.changes <- c }, Refreshed: func(plugin.Status) {}, Forget: func(string, string) {},
		Host: func(string) plugin.Host { return nil }, Leaving: func() bool { return true },
		RunDir: runDir, Starts: make(chan struct{}, 1), Removals: make(chan struct{}, 1), Log: slog.New(slog.DiscardHandler),
	}
	d.Pool = supervise.New(d.deps, want)
	found, err := supervise.Find(runDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		f.Fits = fits
		d.deps.Instances.Expect(f)
	}
	d.Expect(found...)
	var ctx context.Context
	ctx, d.end = context.WithCancelCause(context.Background())
	go func() { // ends with the test's d.end
		defer close(d.done)
		d.Run(ctx)
	}()
	return d
}

func (d *daemon) see(t *testing.T, states ...plugin.State) (last plugin.StateChange) {
	t.Helper()
	for _, want := range states {
		if last = <-d.changes; last.To != want {
			t.Fatalf("got %s -> %s (%s), want a change to %s", last.From, last.To, last.Status.Message, want)
		}
	}
	return last
}

// leave ends the daemon as --on-exit keep does.
func (d *daemon) leave() {
	d.end(nil)
	<-d.done
}

func wanted(t *testing.T) supervise.Want {
	return supervise.Want{Manifest: manifest(t, `{"fake":{},"restart":{"backoff":{"min":"1s","max":"1s"}}}`), Generation: 1, Desired: plugin.DesiredRunning, Launch: "1"}
}

func TestAdopt_theSameInstanceGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, runDir := newOutliving(), t.TempDir()
		first := o.daemon(t, runDir, wanted(t), true)
		before := first.see(t, plugin.Starting, plugin.Running).Status
		first.leave()
		if got := first.Status(); got.State != plugin.Running || got.Reason != "Left" {
			t.Errorf("left: got %s, %s, want running, Left", got.State, got.Reason)
		}
		second := o.daemon(t, runDir, wanted(t), true)
		change := second.see(t, plugin.Starting, plugin.Running)
		if change.Cause != "adopted" || change.Status.Instance != before.Instance || len(o.all) != 1 {
			t.Errorf("got %s of %s after %d launches, want adopted %s after one", change.Cause, change.Status.Instance, len(o.all), before.Instance)
		}
		if result, err := second.Invoke(t.Context(), plugin.Invocation{Operation: "echo", Data: []byte("1")}); err != nil || string(result.Data) != "1" {
			t.Errorf("call after the adoption: got %q, %v", result.Data, err)
		}
		if !second.deps.Instances.Has(before.Instance) {
			t.Error("the adopted instance is not known as one")
		}
		second.end(supervise.ErrDeleted) // although the daemon would leave it
		<-second.done
		second.see(t, plugin.Stopping, plugin.Stopped)
		nothingIn(t, runDir)
	})
}

func nothingIn(t *testing.T, runDir string) {
	t.Helper()
	if left, err := os.ReadDir(runDir); err != nil || len(left) > 0 {
		t.Errorf("left in the folder of instances: %v, %v", left, err)
	}
}

func TestAdopt_whatDoesNotFitIsStoppedFirst(t *testing.T) {
	for name, change := range map[string]func(*supervise.Want) (fits bool){
		"another manifest": func(*supervise.Want) bool { return false },
		"stopped meanwhile": func(w *supervise.Want) bool {
			w.Desired = plugin.DesiredStopped
			return true
		},
		"bound now": func(w *supervise.Want) bool {
			w.Manifest.Spec.Lifetime = plugin.Bound
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, runDir := newOutliving(), t.TempDir()
				first := o.daemon(t, runDir, wanted(t), true)
				first.see(t, plugin.Starting, plugin.Running)
				first.leave()
				want := wanted(t)
				fits := change(&want)
				second := o.daemon(t, runDir, want, fits)
				second.see(t, plugin.Starting, plugin.Running, plugin.Stopping, plugin.Stopped)
				if want.Desired == plugin.DesiredRunning {
					second.see(t, plugin.Starting, plugin.Running)
				}
				if most := o.most.Load(); most != 1 {
					t.Errorf("%d instances ran at the same time", most)
				}
				second.end(supervise.ErrDeleted)
				<-second.done
				nothingIn(t, runDir)
			})
		})
	}
}

func TestAdopt_whatDiedMeanwhileIsLaunchedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, runDir := newOutliving(), t.TempDir()
		first := o.daemon(t, runDir, wanted(t), true)
		before := first.see(t, plugin.Starting, plugin.Running).Status.Instance
		first.leave()
		o.alive[before].end(plugin.Exit{Code: 1})
		second := o.daemon(t, runDir, wanted(t), true)
		change := second.see(t, plugin.Starting, plugin.Running)
		if change.Cause != "ready" || change.Status.Instance == before {
			t.Errorf("got %s of %s, want ready of a new one", change.Cause, change.Status.Instance)
		}
		second.end(supervise.ErrDeleted)
		<-second.done
		nothingIn(t, runDir)
	})
}

func TestAdopt_whatCannotBeBroughtBackCountsAsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, runDir := newOutliving(), t.TempDir()
		first := o.daemon(t, runDir, wanted(t), true)
		first.see(t, plugin.Starting, plugin.Running)
		first.leave()
		o.fails = errors.New("it does not answer")
		second := o.daemon(t, runDir, wanted(t), true)
		if change := second.see(t, plugin.Starting, plugin.Backoff); change.Status.Message != "it does not answer" {
			t.Errorf("got %q", change.Status.Message)
		}
		second.see(t, plugin.Starting, plugin.Running)
		if asked := o.asked.Load(); asked != 1 {
			t.Errorf("asked for an adoption %d times, want once", asked)
		}
		second.end(supervise.ErrDeleted)
		<-second.done
		nothingIn(t, runDir)
	})
}

// While the adapter is away nobody knows whether the instance is there: another one
// would be a second.
func TestAdopt_waitsForAnAdapterThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, runDir := newOutliving(), t.TempDir()
		first := o.daemon(t, runDir, wanted(t), true)
		before := first.see(t, plugin.Starting, plugin.Running).Status.Instance
		first.leave()
		away := fmt.Errorf("no engine: %w", plugin.ErrUnavailable)
		o.down.Store(&away)
		second := o.daemon(t, runDir, wanted(t), true)
		change := second.see(t, plugin.Starting, plugin.Backoff)
		if change.Status.Reason != "AdapterUnavailable" || !second.deps.Instances.Has(before) {
			t.Errorf("got %s, want AdapterUnavailable, and the instance still expected", change.Status.Reason)
		}
		second.see(t, plugin.Starting, plugin.Backoff)
		o.down.Store(nil)
		if change = second.see(t, plugin.Starting, plugin.Running); change.Status.Instance != before || len(o.all) != 1 {
			t.Errorf("got %s after %d launches, want %s after one", change.Status.Instance, len(o.all), before)
		}
		second.end(supervise.ErrDeleted)
		<-second.done
		nothingIn(t, runDir)
	})
}

// A daemon that ends while nobody knows leaves the record for the next one.
func TestAdopt_notAnsweredYetIsLeftToTheNextDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, runDir := newOutliving(), t.TempDir()
		first := o.daemon(t, runDir, wanted(t), true)
		first.see(t, plugin.Starting, plugin.Running)
		first.leave()
		away := fmt.Errorf("no engine: %w", plugin.ErrUnavailable)
		o.down.Store(&away)
		second := o.daemon(t, runDir, wanted(t), true)
		second.see(t, plugin.Starting, plugin.Backoff)
		second.leave()
		o.down.Store(nil)
		third := o.daemon(t, runDir, wanted(t), true)
		if change := third.see(t, plugin.Starting, plugin.Running); change.Cause != "adopted" {
			t.Errorf("got %s, want adopted", change.Cause)
		}
		third.end(supervise.ErrDeleted)
		<-third.done
		nothingIn(t, runDir)
	})
}

// A daemon that is killed as soon as a plugin is said to run leaves it to be found,
// however long the rest of its handle takes.
func TestKeep_isDoneBeforeThePluginIsSaidToRun(t *testing.T) {
	o, runDir := newOutliving(), t.TempDir()
	o.proof = make(chan struct{})
	first := o.daemon(t, runDir, wanted(t), true)
	handleOf := func() string {
		t.Helper()
		found, err := supervise.Find(runDir)
		if err != nil || len(found) != 1 {
			t.Fatalf("records: got %d, %v, want one", len(found), err)
		}
		return string(found[0].Handle)
	}
	id := first.see(t, plugin.Starting, plugin.Running).Status.Instance
	if got, want := handleOf(), fmt.Sprintf("%q", id); got != want {
		t.Errorf("the handle when it runs: got %s, want %s", got, want)
	}
	close(o.proof)
	first.leave() // waits for the whole
	if got := handleOf(); got != `"with proof"` {
		t.Errorf("the handle when it is left: got %s, want the whole one", got)
	}
}

func TestFind_takesOnlyRecordsThatBelong(t *testing.T) {
	runDir := t.TempDir()
	record := func(file, content string, folder bool) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(runDir, file+".json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if folder {
			if err := os.Mkdir(filepath.Join(runDir, file), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	good := `{"instance":"p-%s","manifest":{"metadata":{"name":"p"},"spec":{"fake":{}}},"handle":1}`
	record("good", fmt.Sprintf(good, "good"), true)
	record("other", fmt.Sprintf(good, "good"), true)
	record("escapes", `{"instance":"../x-escapes","manifest":{"metadata":{"name":"../x"}}}`, true)
	record("half", `{"instance":"p-ha`, true)
	record("nofolder", fmt.Sprintf(good, "nofolder"), false)
	found, err := supervise.Find(runDir)
	if err != nil || len(found) != 1 || found[0].Instance != "p-good" || found[0].Plugin() != "p" {
		t.Fatalf("got %+v, %v, want p-good alone", found, err)
	}
	strays, err := supervise.Strays(runDir, func(folder string) bool { return folder == "good" })
	if err != nil || len(strays) != 7 {
		t.Errorf("got %+v, %v, want the seven entries that are not good's", strays, err)
	}
}
