package proc

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// toBind is what a stand-in for the daemon is told to start, as JSON in argv[1].
type toBind struct {
	Role, Mark string
	Limits     plugin.Limits
	Detached   bool
	Requests   []Request
}

// bound is what it tells of it.
type bound struct{ Child, Reaper int }

// bindingDaemon starts one child, or binds requests, and stays.
func bindingDaemon() {
	var b toBind
	if err := json.Unmarshal([]byte(os.Args[1]), &b); err != nil {
		panic(err)
	}
	told := bound{}
	if b.Role != "" {
		env := []string{noRaceSleep, roleVar + "=" + b.Role, markVariable + "=" + b.Mark}
		p, err := Start(Spec{Path: os.Args[0], Env: env, Limits: b.Limits, Detached: b.Detached})
		if err != nil {
			panic(err)
		}
		told.Child = p.Pid()
	}
	if len(b.Requests) > 0 || b.Detached { // so that there is a reaper
		if _, err := Bind(Bound{Requests: b.Requests}); err != nil {
			panic(err)
		}
	}
	k := theKeeper()
	k.mu.Lock()
	told.Reaper = k.pid
	k.mu.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(told); err != nil {
		panic(err)
	}
}

// startDaemon starts the stand-in; kill is kill -9.
func startDaemon(t *testing.T, b toBind) (told bound, kill func()) {
	t.Helper()
	text, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(self(t), string(text))
	daemon.Env = []string{noRaceSleep, roleVar + "=binding-daemon"}
	daemon.Stderr = os.Stderr
	stdout, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() { _ = daemon.Process.Kill(); _ = daemon.Wait() }
	t.Cleanup(kill)
	if err := json.NewDecoder(stdout).Decode(&told); err != nil {
		t.Fatal(err)
	}
	return told, kill
}

// until waits for what other processes do.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// offspringOf waits for n processes that are pid or descend from it.
func offspringOf(t *testing.T, pid, n int) (found []int) {
	t.Helper()
	until(t, "children of children", func() bool {
		found = nil
		all, err := pids()
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range all {
			if one == pid || parentOf(one) == pid {
				found = append(found, one)
			}
		}
		return len(found) == n
	})
	return found
}

// endMost is the promise: from the daemon's death to the end of what was bound to
// it. It is tried a few times, for the machine does other things too.
const (
	endMost     = time.Second
	endAttempts = 3
)

func TestReaper_endsWhatABoundChildHasStarted(t *testing.T) {
	for name, b := range map[string]toBind{
		"in its group":        {Role: "parent"}, // without the mark: its environment is its own
		"in its own session":  {Role: "escapes"},
		"in its cgroup alone": {Role: "escapes-unmarked", Limits: plugin.Limits{Pids: 100}},
	} {
		t.Run(name, func(t *testing.T) {
			b.Mark = markFor(t)
			var took time.Duration
			for range endAttempts {
				told, kill := startDaemon(t, b)
				family := offspringOf(t, told.Child, 2)
				begun := time.Now()
				kill()
				for _, pid := range family {
					awaitGone(t, pid)
				}
				took = time.Since(begun)
				awaitGone(t, told.Reaper) // a binary with the race detector sleeps a second at its exit
				if took < endMost {
					return
				}
			}
			t.Errorf("it took %v, want at most %v", took, endMost)
		})
	}
}

func TestReaper_ignoresSignals(t *testing.T) {
	told, kill := startDaemon(t, toBind{Role: "escapes", Mark: markFor(t)})
	family := offspringOf(t, told.Child, 2)
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT} {
		if err := syscall.Kill(told.Reaper, s); err != nil {
			t.Fatal(err)
		}
	}
	kill()
	for _, pid := range append(family, told.Reaper) {
		awaitGone(t, pid)
	}
}

func TestReaper_leavesADetachedChild(t *testing.T) {
	told, kill := startDaemon(t, toBind{Role: "block", Mark: markFor(t), Detached: true})
	t.Cleanup(func() { _ = syscall.Kill(told.Child, syscall.SIGKILL); awaitGone(t, told.Child) })
	kill()
	awaitGone(t, told.Reaper)
	if s := readStat(strconv.Itoa(told.Child)); s.start == 0 || s.state == 'Z' {
		t.Errorf("the detached child: state %q, want it to live", s.state)
	}
}

func TestReaper_sendsRequests(t *testing.T) {
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "engine.sock"))
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 2)
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.URL.String()
		w.WriteHeader(http.StatusConflict) // whatever the answer
	})}
	go func() { _ = server.Serve(listener) }() // ends with Close
	t.Cleanup(func() { _ = server.Close() })
	address := listener.Addr().String()
	told, kill := startDaemon(t, toBind{Requests: []Request{
		{"unix", address, http.MethodPost, "/containers/a/kill?signal=KILL"},
		{"unix", address, http.MethodDelete, "/containers/a?force=1"},
	}})
	if len(asked) > 0 {
		t.Errorf("asked while the daemon lives: %s", <-asked)
	}
	kill()
	for _, want := range []string{"POST /containers/a/kill?signal=KILL", "DELETE /containers/a?force=1"} {
		select {
		case got := <-asked:
			if got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no %s", want)
		}
	}
	awaitGone(t, told.Reaper)
}

func TestKillBound_neverTouchesAStranger(t *testing.T) {
	stranger := exec.Command("/bin/cat")
	stranger.Env = []string{markVariable + "=node/provider/stranger"}
	stranger.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := stranger.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	pid := stranger.Process.Pid
	start := readStat(strconv.Itoa(pid)).start
	for name, b := range map[string]Bound{
		"reused pid":            {Pid: pid, Start: start - 1, Mark: "node/provider/bound"},
		"no start time":         {Pid: pid},
		"a group with its mark": {Pid: pid + 1, Start: start, Mark: "node/provider/bound"},
		"not ours at all":       {Groups: []string{"/", "/tmp", thisMachine().mounts()[0]}},
	} {
		endAll([]Bound{b})
		if s := readStat(strconv.Itoa(pid)); s.start == 0 || s.state == 'Z' {
			t.Fatalf("%s: the stranger was killed", name)
		}
	}
	_ = in.Close()
	if err := stranger.Wait(); err != nil { // exit code 0 at the end of its input: nobody sent a signal
		t.Errorf("the stranger: %v, want it untouched", err)
	}
}

// newKeeper has a reaper of its own.
func newKeeper(t *testing.T) *keeper {
	k := &keeper{list: map[uint64]Bound{}}
	t.Cleanup(func() { // without acting on the list
		k.mu.Lock()
		defer k.mu.Unlock()
		clear(k.list)
		k.dismiss()
	})
	return k
}

func (k *keeper) reaperPid() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pid
}

func TestKeeper_beginsAnotherReaperWhenOneIsKilled(t *testing.T) {
	k := newKeeper(t)
	if _, err := k.add(Bound{Mark: "a"}); err != nil {
		t.Fatal(err)
	}
	first := k.reaperPid()
	_ = syscall.Kill(first, syscall.SIGKILL)
	until(t, "another reaper", func() bool { now := k.reaperPid(); return now != 0 && now != first })
	awaitGone(t, first)
}

func TestKeeper_replacesAReaperThatIsStuck(t *testing.T) {
	k := newKeeper(t)
	unbind, err := k.add(Bound{Mark: "a"})
	if err != nil {
		t.Fatal(err)
	}
	first := k.reaperPid()
	_ = syscall.Kill(first, syscall.SIGSTOP)
	long := Bound{Mark: strings.Repeat("m", entryBytesMax/2)}
	for n := 0; k.reaperPid() == first; n++ { // until the pipe is full
		if n > 100 {
			t.Fatal("a pipe that nobody reads takes everything")
		}
		if _, err := k.add(long); err != nil {
			t.Fatal(err)
		}
	}
	awaitGone(t, first)
	unbind()
	unbind() // harmless
}

func TestKeeper_endsWithAnEmptyList(t *testing.T) {
	k := newKeeper(t)
	unbind, err := k.add(Bound{Mark: "a"})
	if err != nil {
		t.Fatal(err)
	}
	unbind()
	pid := k.reaperPid()
	k.mu.Lock()
	_ = k.pipe.Close()
	k.mu.Unlock()
	awaitGone(t, pid)
}

func TestBind_limits(t *testing.T) {
	k := newKeeper(t)
	if _, err := k.add(Bound{Mark: strings.Repeat("m", entryBytesMax)}); err == nil || len(k.list) != 0 {
		t.Errorf("an entry too long: got %v, %d listed", err, len(k.list))
	}
	for n := range uint64(boundMax) {
		k.list[n+100] = Bound{}
	}
	if _, err := k.add(Bound{}); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("a list that is full: got %v, want busy", err)
	}
}

// A process that takes itself for a reaper, and does not begin with Child, must not
// begin more of them.
func TestStartReaper_notWithinAReaper(t *testing.T) {
	own := os.Args[0]
	t.Cleanup(func() { os.Args[0] = own })
	os.Args[0] = reaperName
	if _, _, err := startReaper(); err == nil {
		t.Error("got a reaper of a reaper")
	}
}

func TestReadEntries(t *testing.T) {
	list := readEntries(strings.NewReader(`{"key":1,"add":{"pid":7,"start":8,"mark":"n/a/i"}}
{"key":2,"add":{"pid":9}}
no entry
{"key":2}
{"key":3,"add":{"pi`))
	if len(list) != 1 || list[0].Pid != 7 || list[0].Start != 8 || list[0].Mark != "n/a/i" {
		t.Errorf("got %+v, want the one with pid 7", list)
	}
	if list := readEntries(strings.NewReader(`{"key":1,"add":{"pid":7}}` + "\n" + strings.Repeat("x", entryBytesMax))); list != nil {
		t.Errorf("a pipe that broke: got %v, want nothing", list)
	}
}

func FuzzReadEntries(f *testing.F) {
	f.Add(`{"key":1,"add":{"pid":7,"start":8}}` + "\n" + `{"key":1}`)
	f.Add("{\n")
	f.Fuzz(func(t *testing.T, text string) {
		if n := len(readEntries(strings.NewReader(text))); n > strings.Count(text, "\n")+1 {
			t.Errorf("%d entries of %q", n, text)
		}
	})
}

func TestEntry_fits(t *testing.T) {
	name := strings.Repeat("n", plugin.NameMax)
	dir := "/sys/fs/cgroup/memory/" + strings.Repeat("d", 500)
	line, err := json.Marshal(entry{1 << 63, &Bound{
		Pid: 1 << 22, Start: 1 << 62, Mark: fmt.Sprintf("%s/provider/%s-1234567890", name, name), Groups: []string{dir, dir, dir, dir},
	}})
	if err != nil || len(line) >= entryBytesMax || entryBytesMax > 4096 || unix.Getpagesize() < 4096 {
		t.Errorf("the longest entry: %d bytes, %v, want less than %d", len(line), err, entryBytesMax)
	}
}
