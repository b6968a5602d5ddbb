package logs

import (
	"cmp"
	"context"
	"iter"
	"log/slog"
	"regexp"
	"strconv"
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
	// Previous returns the instance that printed before the current one.
	Previous func(ctx context.Context, plugin, current string) (instance string, err error)
	// AsideDir is where what instances that are gone have printed waits while the bus
	// is down, for Run; "" loses it.
	AsideDir string
	// Lost is told of lines that no later line tells of; it may be nil.
	Lost func(plugin string, lines uint64)
	Log  *slog.Logger
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
	began   time.Time
	more    chan struct{} // cap 1: told when something was put aside

	mu        sync.Mutex
	followers map[*tail]struct{}
	logs      map[string]*Log // the newest of each plugin that has printed
}

// New makes a Hub.
func New(o Options) *Hub {
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	return &Hub{options: o, began: time.Now(), more: make(chan struct{}, 1), followers: map[*tail]struct{}{}, logs: map[string]*Log{}}
}

// Open makes the log of an instance; files are put into dir. The first
// captureBytesMax bytes of its stdout are kept for Log.Stdout; 0 for a service.
// Close it when the instance is gone.
func (h *Hub) Open(plugin, instance, dir string, captureBytesMax int) *Log {
	return &Log{hub: h, plugin: plugin, instance: instance, dir: dir, captureBytesMax: captureBytesMax, closing: make(chan struct{})}
}

// Query chooses log lines.
type Query struct {
	// Plugin is whose, and Instance which of its instances'; empty: all.
	Plugin, Instance string
	// Select gives several sources, one of a plugin, instead of Plugin and Instance. It is asked anew
	// whenever history is read; nothing is told when it gives none.
	Select func() []plugin.LogSource
	// Joins reports whether a plugin that Select did not give belongs to it now; nil:
	// no other one does.
	Joins func(plugin string) bool
	// Sources is what Select gave, for History.
	Sources []plugin.LogSource
	// Level is the least level, Grep what a line's message or fields must match. A
	// line without a level counts as info.
	Level string
	Grep  *regexp.Regexp
	// Keep is both of them, for History. It keeps a line before which some were
	// lost, too.
	Keep func(*plugin.LogLine) bool
	// Tail is how many of the last lines to begin with; 0 for all.
	Tail  int
	Since time.Time
	// After is the ID of the line to begin after.
	After string
	// Gap, if not nil, is told when that is no longer kept, instead of ErrNotFound,
	// and of the ID after which it goes on.
	Gap func(after string)
	// Follow goes on with what comes, until ctx ends.
	Follow bool
}

// tail is one follower of the live tail.
type tail struct {
	plugins map[string]struct{} // nil: all
	batches chan []plugin.LogLine
	behind  chan struct{} // closed when batches was full: history has the rest
	once    sync.Once
}

func (h *Hub) subscribe(plugins map[string]struct{}) *tail {
	t := &tail{plugins: plugins, batches: make(chan []plugin.LogLine, followerBatchesMax), behind: make(chan struct{})}
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
		if _, wanted := t.plugins[lines[0].Plugin]; t.plugins != nil && !wanted {
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
	if l.past {
		return
	}
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

// Previous returns the instance of a plugin that printed before the current one, or
// without a current one before the newest of the log. ErrNotFound: there is none.
func (h *Hub) Previous(ctx context.Context, plugin, current string) (string, error) {
	return h.options.Previous(ctx, plugin, current)
}
