package logs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// followerBatchesMax is how far a follower may be behind the live tail before it
// goes on from history.
const followerBatchesMax = 256

// Options is what a Hub is given.
type Options struct {
	// Publish stores a batch and returns its sequence; it may wait for the bus.
	Publish func(plugin.LogBatch) (sequence uint64, err error)
	// Last returns the sequence of an instance's last stored line and the
	// LogBatch.Upto it came with; zeros when nothing is stored. Only Resume asks.
	Last func(ctx context.Context, plugin, instance string, stream plugin.LogStream) (sequence uint64, upto int64, err error)
	// Settings are what a plugin's manifest says now; nil: none of them says
	// anything. It is asked about once a second by a log that prints, with no lock
	// held, and must be quick.
	Settings func(plugin string) Settings
	// History reads stored lines in order. Query.Follow is not for it.
	History func(ctx context.Context, q Query) iter.Seq2[plugin.LogLine, error]
	Log     *slog.Logger
}

// Settings are a plugin's own.
type Settings struct {
	// Keep is how much of its log the bus keeps.
	Keep plugin.Logs
	// LineRate is how many lines a second are taken of one instance; 0: all.
	LineRate int
}

// Hub holds the logs of all running instances. It is safe for concurrent use.
type Hub struct {
	options Options
	watcher watcher
	order   order

	mu        sync.Mutex
	followers map[*tail]struct{}
	logs      map[string]*Log // the newest of each plugin that has printed
}

// New makes a Hub.
func New(o Options) *Hub {
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	return &Hub{options: o, followers: map[*tail]struct{}{}, logs: map[string]*Log{}}
}

// Open makes the log of an instance; files are put into dir. The first
// captureBytesMax bytes of its stdout are kept for Log.Stdout; 0 for a service.
// Close it when the instance is gone.
func (h *Hub) Open(plugin, instance, dir string, captureBytesMax int) *Log {
	return &Log{hub: h, plugin: plugin, instance: instance, dir: dir, captureBytesMax: captureBytesMax, closing: make(chan struct{})}
}

// Query chooses log lines of one plugin.
type Query struct {
	Plugin string
	// Tail is how many of the last lines to begin with; 0 for all.
	Tail  int
	Since time.Time
	// After is the ID of the line to begin after.
	After string
	// Follow goes on with what comes, until ctx ends.
	Follow bool
}

// tail is one follower of the live tail.
type tail struct {
	plugin  string
	batches chan []plugin.LogLine
	behind  chan struct{} // closed when batches was full: history has the rest
	once    sync.Once
}

func (h *Hub) subscribe(name string) *tail {
	t := &tail{plugin: name, batches: make(chan []plugin.LogLine, followerBatchesMax), behind: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.followers[t] = struct{}{}
	return t
}

func (h *Hub) unsubscribe(t *tail) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.followers, t)
}

// tell hands lines to the live tail, with their IDs when they are stored; they
// are made only if somebody follows. It never waits: who is behind reads on in
// history.
func (h *Hub) tell(sequence uint64, lines []plugin.LogLine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for t := range h.followers {
		if t.plugin != "" && t.plugin != lines[0].Plugin {
			continue
		}
		if sequence != 0 && lines[0].ID == "" {
			identify(sequence, lines)
		}
		select {
		case t.batches <- lines:
		default:
			t.once.Do(func() { close(t.behind) })
			delete(h.followers, t)
		}
	}
}

func identify(sequence uint64, lines []plugin.LogLine) {
	prefix := strconv.FormatUint(sequence, 10) + "."
	for i := range lines {
		lines[i].ID = prefix + strconv.Itoa(i+1)
	}
}

// seen remembers the log that may have to stand in for history.
func (h *Hub) seen(l *Log) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.logs[l.plugin] = l
}

// forget drops a log that is closed.
func (h *Hub) forget(l *Log) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.logs[l.plugin] == l {
		delete(h.logs, l.plugin)
	}
}

// Follow reads history and then, with Query.Follow, what comes, without gap or
// repeat. An error is the last thing it yields: ErrNotFound when Query.After is
// no longer kept, ErrInvalid when it is not an ID. While the bus is down, history
// is what memory has of the running instance.
func (h *Hub) Follow(ctx context.Context, q Query) iter.Seq2[plugin.LogLine, error] {
	return func(yield func(plugin.LogLine, error) bool) {
		r := reader{hub: h, query: q, last: q.After, told: map[string]uint64{}, yield: yield}
		for r.round(ctx) && ctx.Err() == nil {
			r.query.Tail, r.query.Since = 0, time.Time{}
		}
	}
}

// reader is one call of Follow.
type reader struct {
	hub   *Hub
	query Query
	last  string // ID of the last line that had one
	// told is the last sequence told of each instance's stream: lines that came
	// without an ID, while the bus was down, are not told again.
	told  map[string]uint64
	yield func(plugin.LogLine, error) bool
}

// round reads history from the last line on and then the live tail, until there
// is nothing more to say (false) or the live tail has run ahead (true).
func (r *reader) round(ctx context.Context) bool {
	live := r.hub.subscribe(r.query.Plugin) // before history: what comes meanwhile is in both
	defer r.hub.unsubscribe(live)
	if !r.history(ctx) || !r.query.Follow {
		return false
	}
	for {
		select {
		case <-ctx.Done():
			return false
		case lines := <-live.batches:
			if !r.tell(lines) {
				return false
			}
		case <-live.behind:
			return r.catchUp(live)
		}
	}
}

// catchUp tells what the live tail still holds; the rest is history's.
func (r *reader) catchUp(live *tail) bool {
	for {
		select {
		case lines := <-live.batches:
			if !r.tell(lines) {
				return false
			}
		default:
			return true
		}
	}
}

func (r *reader) tell(lines []plugin.LogLine) bool {
	for _, line := range lines {
		if line.ID != "" && !after(line.ID, r.last) || line.Sequence <= r.told[source(line)] {
			continue // history or memory had it
		}
		if !r.one(line) {
			return false
		}
	}
	return true
}

func (r *reader) one(line plugin.LogLine) bool {
	if line.ID != "" {
		r.last = line.ID
	}
	r.told[source(line)] = line.Sequence
	return r.yield(line, nil)
}

func source(line plugin.LogLine) string { return line.Instance + "/" + string(line.Stream) }

// history tells what is stored; false means that the caller wants no more, or
// that it failed and has been told.
func (r *reader) history(ctx context.Context) bool {
	q := Query{Plugin: r.query.Plugin, Since: r.query.Since, After: r.last, Tail: r.query.Tail}
	for line, err := range r.hub.options.History(ctx, q) {
		switch {
		case errors.Is(err, plugin.ErrUnavailable):
			return r.memory()
		case err != nil:
			r.yield(plugin.LogLine{}, fmt.Errorf("logs: %w", err))
			return false
		case line.Sequence > 0 && line.Sequence <= r.told[source(line)]:
			r.last = line.ID // told without it, while the bus was down
		case !r.one(line):
			return false
		}
	}
	return ctx.Err() == nil
}

// memory stands in for a history that is out of reach.
func (r *reader) memory() bool {
	r.hub.mu.Lock()
	l := r.hub.logs[r.query.Plugin]
	r.hub.mu.Unlock()
	if l == nil {
		return true
	}
	tail := r.query.Tail
	if tail == 0 {
		tail = ringLinesMax
	}
	for _, line := range l.recent(tail) {
		if line.Time.Before(r.query.Since) || line.Sequence <= r.told[source(line)] {
			continue
		}
		if !r.one(line) {
			return false
		}
	}
	return true
}

// after reports whether line ID a stands after b in history; "" stands first.
func after(a, b string) bool {
	if b == "" {
		return true
	}
	aSequence, aLine := split(a)
	bSequence, bLine := split(b)
	return aSequence > bSequence || (aSequence == bSequence && aLine > bLine)
}

func split(id string) (sequence, line uint64) {
	head, tail, _ := strings.Cut(id, ".")
	sequence, _ = strconv.ParseUint(head, 10, 64) // IDs of our own making, or checked by history
	line, _ = strconv.ParseUint(tail, 10, 64)
	return sequence, line
}
