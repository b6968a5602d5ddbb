package bus

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// reader follows events and remembers them.
type reader struct {
	mu   sync.Mutex
	all  []plugin.Event
	stop func()
}

func follow(t testing.TB, b *Bus, q EventQuery) *reader {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, q := &reader{}, q
	q.Follow = true
	var running sync.WaitGroup
	running.Go(func() { // ends with cancel
		for e, err := range b.Events(ctx, q) {
			if err != nil {
				t.Error(err)
				return
			}
			r.mu.Lock()
			r.all = append(r.all, e)
			r.mu.Unlock()
		}
	})
	r.stop = func() { cancel(); running.Wait() }
	t.Cleanup(r.stop)
	return r
}

func (r *reader) subjects() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for _, e := range r.all {
		all = append(all, e.Subject)
	}
	return strings.Join(all, " ")
}

func numbers(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprint(i))
	}
	return strings.Join(all, " ")
}

// exactly waits until the reader has the events 0 to n-1, each once and in order.
func (r *reader) exactly(t testing.TB, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d events", n), func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.all) >= n })
	if got := r.subjects(); got != numbers(n) {
		t.Fatalf("got events %s, want 0 to %d, each once", got, n-1)
	}
}

func storedSubjects(t testing.TB, b *Bus) string {
	t.Helper()
	r := &reader{all: collect(t, b, EventQuery{}, -1)}
	return r.subjects()
}

// TestEvents_answerLostAndServerAwayForLong: the server stored a group, and died
// before it said so, for longer than it remembers ids.
func TestEvents_answerLostAndServerAwayForLong(t *testing.T) {
	e := startExternal(t)
	b := open(t, Options{URL: e.s.ClientURL()})
	b.Event(event("p", 0))
	eventually(t, "stored", func() bool { return b.Stats().EventsPublished == 1 })
	// As the publisher would: stored, but the answer is nowhere. Without their ids,
	// as of a server that was away for longer than it keeps them.
	live := follow(t, b, EventQuery{})
	live.exactly(t, 1)
	var group []queuedEvent
	for i := 1; i <= 20; i++ {
		group = append(group, queuedEvent{Event: b.complete(event("p", i))})
	}
	for i := range 10 {
		if _, err := b.js[eventing].PublishMsg(t.Context(), message(&group[i].Event)); err != nil {
			t.Fatal(err)
		}
	}
	e.stop()
	eventually(t, "down", func() bool { return !b.Connected() })
	e.start()
	eventually(t, "up", b.Connected)
	s, err := b.js[control].Stream(t.Context(), streamEvents)
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	config.Duplicates = 100 * time.Millisecond // the least that the server takes
	if _, err := b.js[control].UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server has forgotten the ids", func() bool {
		ack, err := b.js[eventing].PublishMsg(t.Context(), message(&queuedEventOf(b, "probe").Event))
		return err == nil && !ack.Duplicate
	})
	rest, err := b.unstored(group)
	if err != nil || len(rest) != 10 || rest[0].Subject != "11" {
		t.Fatalf("got %d left, %v; want 10", len(rest), err)
	}
	live.exactly(t, 11)
}

func queuedEventOf(b *Bus, subject string) *queuedEvent {
	return &queuedEvent{Event: b.complete(plugin.Event{ID: "always the same", Type: "probe", Subject: subject})}
}

// TestEvents_readerThatSawThemEarly: events that a reader had before they were
// stored do not come again, whether it falls behind or stays.
func TestEvents_readerThatSawThemEarly(t *testing.T) {
	e := startExternal(t)
	b := open(t, Options{URL: e.s.ClientURL()})
	live := follow(t, b, EventQuery{Since: time.Now().Add(-time.Hour)})
	b.Event(event("p", 0))
	live.exactly(t, 1)
	e.stop()
	for i := 1; i < 50; i++ {
		b.Event(event("p", i))
	}
	live.exactly(t, 50)
	eventually(t, "the lag grows", func() bool { return b.Stats().EventLag > 0 })
	b.hub.dropAll() // as if it had fallen behind
	for i := 50; i < 60; i++ {
		b.Event(event("p", i))
	}
	e.start()
	eventually(t, "all stored", func() bool { return b.Stats().EventsPublished == 60 })
	b.Event(event("p", 60))
	live.exactly(t, 61)
	eventually(t, "no lag is left", func() bool { return b.Stats().EventLag == 0 })
	if got := storedSubjects(t, b); got != numbers(61) {
		t.Errorf("stored: got %s", got)
	}
}

// TestEvents_readerThatWasAwayDuringAnOutage: what others were shown meanwhile comes
// before what is shown from then on. So it does for a reader who is new.
func TestEvents_readerThatWasAwayDuringAnOutage(t *testing.T) {
	e := startExternal(t)
	b := open(t, Options{URL: e.s.ClientURL()})
	e.stop()
	eventually(t, "down", func() bool { return !b.Connected() })
	away := &reader{}
	ctx, cancel := context.WithCancel(t.Context())
	first, goOn := make(chan struct{}), make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { // ends with cancel
		for one, err := range b.Events(ctx, EventQuery{Follow: true}) {
			if err != nil {
				t.Error(err)
				return
			}
			away.mu.Lock()
			away.all = append(away.all, one)
			away.mu.Unlock()
			if one.Subject == "0" {
				close(first)
				<-goOn
			}
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	eventually(t, "it follows", func() bool { return b.hub.len() == 1 })
	b.Event(event("p", 0))
	<-first
	b.hub.dropAll()
	other := follow(t, b, EventQuery{})
	for i := 1; i < 10; i++ {
		b.Event(event("p", i))
	}
	other.exactly(t, 10) // with the first
	close(goOn)
	eventually(t, "it comes back", func() bool { return b.hub.len() == 2 })
	for i := 10; i < 20; i++ {
		b.Event(event("p", i))
	}
	away.exactly(t, 20)
	follow(t, b, EventQuery{}).exactly(t, 20)
	e.start()
	eventually(t, "all stored", func() bool { return b.Stats().EventsPublished == 20 })
	away.exactly(t, 20)
	other.exactly(t, 20)
}

// dropAll drops every follower, as a queue that is full does.
func (h *hub) dropAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for f := range h.followers {
		close(f.items)
		delete(h.followers, f)
	}
}

func TestEvents_followersGoOnWhenTheStreamBeginsAnew(t *testing.T) {
	b := open(t, Options{})
	live := follow(t, b, EventQuery{})
	for i := range 5 {
		b.Event(event("p", i))
	}
	live.exactly(t, 5)
	if err := b.js[control].DeleteStream(t.Context(), streamEvents); err != nil {
		t.Fatal(err)
	}
	for i := 5; i < 8; i++ {
		b.Event(event("p", i))
	}
	live.exactly(t, 8)
}

func TestEvents_sinceHoldsForWhatIsLive(t *testing.T) {
	b := open(t, Options{})
	live := follow(t, b, EventQuery{Since: time.Now()})
	old := event("p", 99)
	old.Time = time.Now().Add(-time.Hour)
	b.Event(old)
	b.Event(event("p", 0))
	live.exactly(t, 1)
}

// TestNurse_jetStreamOff: JetStream that was turned off comes back by itself.
func TestNurse_jetStreamOff(t *testing.T) {
	b, nc := serve(t, fakeServices{})
	address := b.Addr()
	back := make(chan struct{}, 8)
	defer b.OnReconnect(func() { back <- struct{}{} })()
	live := follow(t, b, EventQuery{})
	b.Status(plugin.Status{Plugin: "p", Instance: "p-1", State: plugin.Running})
	b.Event(event("p", 0))
	live.exactly(t, 1)
	if err := b.server.now().DisableJetStream(); err != nil {
		t.Fatal(err)
	}
	if err := b.Check(t.Context()); err == nil {
		t.Error("no fault is told")
	}
	for i := 1; i < 30; i++ {
		b.Event(event("p", i))
	}
	live.exactly(t, 30)
	eventually(t, "it works again", func() bool { return b.Check(t.Context()) == nil })
	<-back
	eventually(t, "all stored", func() bool { return b.Stats().EventsPending == 0 && b.Stats().EventsPublished == 30 })
	if got := storedSubjects(t, b); got != numbers(30) {
		t.Errorf("stored: got %s", got)
	}
	eventually(t, "the status is there again", func() bool {
		s, err := b.js[control].Stream(t.Context(), streamStatus)
		if err != nil {
			return false
		}
		_, err = s.GetLastMsgForSubject(t.Context(), statusSubject("p", "p-1"))
		return err == nil
	})
	eventually(t, "plugins answer there again", func() bool {
		m, err := nc.Request(invokeSubject("a", "echo"), []byte("7"), time.Second)
		return err == nil && string(m.Data) == "7"
	})
	if b.Addr() != address {
		t.Errorf("got address %s, want %s as before", b.Addr(), address)
	}
}

// diskEnv holds the folder of the small disk, in the process that has one.
const diskEnv = "PATCHBAY_TEST_SMALL_DISK"

// TestNurse_diskFull runs in a process of its own, which alone sees a disk of 48 MiB.
func TestNurse_diskFull(t *testing.T) {
	if dir := os.Getenv(diskEnv); dir != "" {
		if err := syscall.Mount("none", dir, "tmpfs", 0, "size=48m"); err != nil {
			t.Fatal(err)
		}
		diskFull(t, dir)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestNurse_diskFull$", "-test.v", "-test.timeout=120s")
	cmd.Env = append(os.Environ(), diskEnv+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // Go makes it private
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
	}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestNurse_diskFull") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func diskFull(t *testing.T, dir string) {
	b := open(t, Options{Dir: filepath.Join(dir, "bus")})
	live := follow(t, b, EventQuery{})
	next := 0
	tell := func(n int) {
		for range n {
			e := event("p", next)
			e.Data = fmt.Appendf(nil, `{"i":%d,"fill":%q}`, next, strings.Repeat("x", 8<<10))
			b.Event(e)
			next++
		}
	}
	tell(20)
	live.exactly(t, 20)
	kv, err := b.KeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "b", Storage: jetstream.FileStorage})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(t.Context(), "kept", []byte("before")); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	fill(t, filler)
	tell(200)
	live.exactly(t, 220) // live readers have them, stored or not
	eventually(t, "the fault is told", func() bool { return b.Check(t.Context()) != nil })
	if b.Stats().EventsPending == 0 {
		t.Error("all events are stored on a disk that is full")
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, "it works again", func() bool { return b.Check(t.Context()) == nil })
	t.Logf("cured %v after there was room", time.Since(began))
	if got, err := kv.Get(t.Context(), "kept"); err != nil || string(got.Value()) != "before" {
		t.Errorf("what was kept: got %v, %v", got, err)
	}
	if _, err := kv.Put(t.Context(), "kept", []byte("after")); err != nil {
		t.Errorf("write after the cure: %v", err)
	}
	if _, err := b.LogBatch(plugin.LogBatch{Plugin: "p", Instance: "p-1", Stream: plugin.Stdout, Lines: []plugin.LogLine{{Message: "after"}}}); err != nil {
		t.Errorf("log after the cure: %v", err)
	}
	tell(10)
	live.exactly(t, 230)
	eventually(t, "all stored", func() bool { return b.Stats().EventsPending == 0 && b.Stats().EventsPublished >= 230 })
	if got := storedSubjects(t, b); got != numbers(230) {
		t.Errorf("stored: got %s, want 0 to 229, each once", got)
	}
}

// fill takes all room that is left.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 512; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}
