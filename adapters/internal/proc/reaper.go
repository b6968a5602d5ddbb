package proc

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	// reaperName is argv[0] of the daemon's own binary when it is to be the reaper.
	reaperName = "patchbay-reaper"
	// readyWord is what it prints once it reads.
	readyWord = "ready\n"
	// lookMost is how long processes are looked for, lookPause lies between two looks.
	// One look does not do: who forks meanwhile leaves another one, and who is just
	// executing something has no environment to be known by.
	lookMost  = 500 * time.Millisecond
	lookPause = 10 * time.Millisecond
	// endingMost bounds what is ended at the same time: groups and containers.
	endingMost = 32
	// requestMax bounds one request: an engine kills in some 100 ms, and may be busy.
	requestMax = 10 * time.Second
)

// reaperArgs make a test binary that does not begin with Child test nothing, and
// any other program refuse the flag.
func reaperArgs() []string { return []string{reaperName, "-test.run=^$"} }

// reap is the whole life of the reaper: it keeps the list until the daemon's end of
// the pipe is gone, ends what is still on it, and exits. It does not end with the
// daemon's terminal or service manager's first signal.
func reap() {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
	_, _ = io.WriteString(os.Stdout, readyWord)
	_ = os.Stdout.Close()
	endAll(readEntries(os.Stdin))
	os.Exit(0)
}

// readEntries follows the list to the end of r. What is no entry is skipped; it is
// empty when r broke before its end, for then nobody knows whether the daemon did.
func readEntries(r io.Reader) []Bound {
	list := map[uint64]Bound{}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, entryBytesMax), entryBytesMax)
	for lines.Scan() {
		var e entry
		switch {
		case json.Unmarshal(lines.Bytes(), &e) != nil:
		case e.Add == nil:
			delete(list, e.Key)
		case len(list) < boundMax:
			list[e.Key] = *e.Add
		}
	}
	if lines.Err() != nil {
		return nil
	}
	var all []Bound
	for _, b := range list {
		all = append(all, b)
	}
	return all
}

// endAll kills processes, empties groups and sends the requests, all at once.
func endAll(list []Bound) {
	var sent sync.WaitGroup
	sent.Go(func() { each(list, Bound.send) })
	sent.Go(func() { each(list, Bound.endGroups) })
	killBound(list)
	sent.Wait()
}

// each does work for all, some at the same time.
func each(list []Bound, work func(Bound)) {
	var all sync.WaitGroup
	slots := make(chan struct{}, endingMost) // full: the next waits
	for _, b := range list {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			work(b)
		})
	}
	all.Wait()
}

func (b Bound) endGroups() {
	for _, dir := range b.Groups {
		if thisMachine().isOurs(dir) {
			_ = thisMachine().release(Cgroup{Unified: dir}) // else the next daemon's sweep
		}
	}
}

func (b Bound) send() {
	for _, r := range b.Requests {
		r.send()
	}
}

// send waits for the answer and does not care for it: the next daemon sweeps.
func (r Request) send() {
	ctx, cancel := context.WithTimeout(context.Background(), requestMax)
	defer cancel()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, r.Network, r.Address)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, r.Method, "http://engine"+r.Path, nil)
	if err != nil {
		return
	}
	if resp, err := transport.RoundTrip(req); err == nil {
		_ = resp.Body.Close()
	}
}

// killBound looks for processes of the list, again and again, and kills them.
func killBound(list []Bound) {
	list = slices.DeleteFunc(slices.Clone(list), func(b Bound) bool { return b.Pid <= 1 || b.Start == 0 })
	if len(list) == 0 {
		return
	}
	o := offspring{byPid: map[int]Bound{}, byMark: map[string]bool{}}
	for _, b := range list {
		o.byPid[b.Pid] = b
		if b.Mark != "" {
			o.byMark[b.Mark] = true
		}
	}
	for end := time.Now().Add(lookMost); time.Now().Before(end); time.Sleep(lookPause) {
		o.kill()
	}
}

// offspring are the bound processes and what they have started.
type offspring struct {
	byPid  map[int]Bound
	byMark map[string]bool
}

func (o offspring) kill() {
	all, err := pids()
	if err != nil {
		return
	}
	for _, pid := range all {
		if o.has(pid) {
			killProven(pid, o.has)
		}
	}
}

// has reports whether a process is one of them: by pid and start time; by the mark
// in its environment, wherever it went; or by the group, whose number is nobody
// else's as long as its leader has not been followed by another process of that pid.
// What bears the mark of something else is not, in whatever group it is.
func (o offspring) has(pid int) bool {
	s := readStat(strconv.Itoa(pid))
	if s.start == 0 || s.state == 'Z' || s.state == 'X' {
		return false
	}
	if b, ok := o.byPid[pid]; ok && b.Start == s.start {
		return true
	}
	mark := readMark(pid)
	if mark != "" && o.byMark[mark] {
		return true
	}
	b, ok := o.byPid[s.group]
	if !ok || mark != "" && mark != b.Mark {
		return false
	}
	leader := readStat(strconv.Itoa(s.group)).start
	return s.start >= b.Start && (leader == 0 || leader == b.Start)
}
