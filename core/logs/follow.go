package logs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Follow reads history and then, with Query.Follow, what comes, without gap or
// repeat. An error is the last thing it yields: ErrNotFound when Query.After is
// no longer kept, ErrInvalid when it is not an ID. While the bus is down, history
// is what memory has of the running instance.
func (h *Hub) Follow(ctx context.Context, q Query) iter.Seq2[plugin.LogLine, error] {
	return func(yield func(plugin.LogLine, error) bool) {
		r := newReader(h, q, yield)
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
	told map[string]uint64
	// lost is what was told as dropped by lines that nobody asked for: the next line
	// of the stream tells it.
	lost map[string]uint64
	// members are the plugins that Select gave, and which of their instances; "" for
	// all.
	members map[string]string
	yield   func(plugin.LogLine, error) bool
}

func newReader(h *Hub, q Query, yield func(plugin.LogLine, error) bool) *reader {
	r := &reader{hub: h, query: q, last: q.After, told: map[string]uint64{}, lost: map[string]uint64{}, yield: yield}
	if q.Level != "" || q.Grep != nil {
		r.query.Keep = func(l *plugin.LogLine) bool { return l.Dropped > 0 || q.matches(l) }
	}
	return r
}

// round reads history from the last line on and then the live tail, until there
// is nothing more to say (false) or the live tail has run ahead (true).
func (r *reader) round(ctx context.Context) bool {
	live := r.hub.subscribe(r.sources()) // before history: what comes meanwhile is in both
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

// sources asks Select, and returns the plugins to be followed; nil for all.
func (r *reader) sources() map[string]struct{} {
	q := &r.query
	if q.Select == nil {
		if q.Plugin == "" {
			return nil
		}
		return map[string]struct{}{q.Plugin: {}}
	}
	if q.Sources = q.Select(); q.Sources == nil {
		q.Sources = []plugin.LogSource{}
	}
	r.members = map[string]string{}
	names := map[string]struct{}{}
	for _, s := range q.Sources {
		names[s.Plugin] = struct{}{}
		r.members[s.Plugin] = s.Instance
	}
	if q.Joins != nil {
		return nil
	}
	return names
}

// wants reports whether lines of an instance are asked for.
func (r *reader) wants(line plugin.LogLine) bool {
	q := &r.query
	if q.Select == nil {
		return (q.Plugin == "" || q.Plugin == line.Plugin) && (q.Instance == "" || q.Instance == line.Instance)
	}
	instance, member := r.members[line.Plugin]
	if !member && q.Joins != nil && q.Joins(line.Plugin) {
		member, r.members[line.Plugin] = true, ""
	}
	return member && (instance == "" || instance == line.Instance)
}

func (r *reader) tell(lines []plugin.LogLine) bool {
	if !r.wants(lines[0]) { // a batch is of one instance
		return true
	}
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
	from := source(line)
	r.told[from] = line.Sequence
	if r.query.Keep != nil {
		line.Dropped += r.lost[from]
		delete(r.lost, from)
		if !r.query.matches(&line) {
			if line.Dropped > 0 {
				r.lost[from] = line.Dropped
			}
			return true
		}
	}
	return r.yield(line, nil)
}

func source(line plugin.LogLine) string { return line.Instance + "/" + string(line.Stream) }

// history tells what is stored; false means that the caller wants no more, or
// that it failed and has been told.
func (r *reader) history(ctx context.Context) bool {
	q := r.query
	q.After = r.last
	if q.Gap != nil {
		q.Gap = func(after string) {
			r.last = after
			r.query.Gap(after)
		}
	}
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
	lines := r.hub.recent(r.query.Tail, func(l *Log) bool {
		return r.wants(plugin.LogLine{Plugin: l.plugin, Instance: l.instance})
	})
	for _, line := range lines {
		if line.Time.Before(r.query.Since) || line.Sequence <= r.told[source(line)] {
			continue
		}
		if !r.one(line) {
			return false
		}
	}
	return true
}

// recent is the last n lines (0: all) that memory has of logs that are wanted, by
// their time when there are several.
func (h *Hub) recent(n int, wanted func(*Log) bool) []plugin.LogLine {
	h.mu.Lock()
	var logs []*Log
	for _, l := range h.logs {
		logs = append(logs, l)
	}
	h.mu.Unlock()
	var lines []plugin.LogLine
	found := 0
	for _, l := range logs {
		if wanted(l) {
			lines = append(lines, l.recent(ringLinesMax)...)
			found++
		}
	}
	if found > 1 {
		slices.SortStableFunc(lines, func(a, b plugin.LogLine) int { return a.Time.Compare(b.Time) })
	}
	if n > 0 {
		lines = lines[max(0, len(lines)-n):]
	}
	return lines
}

// Levels are the words of LogLine.Level, the least first.
func Levels() []string { return []string{"trace", "debug", "info", "warn", "error"} }

// rank orders levels; a line without one counts as info.
func rank(level string) int {
	switch level {
	case "trace":
		return 0
	case "debug":
		return 1
	case "warn":
		return 3
	case "error":
		return 4
	}
	return 2
}

// matches reports whether a line has the level and the text that are asked for.
func (q *Query) matches(l *plugin.LogLine) bool {
	if q.Level != "" && rank(l.Level) < rank(q.Level) {
		return false
	}
	return q.Grep == nil || q.Grep.MatchString(l.Message) || len(l.Fields) > 0 && q.Grep.Match(l.Fields)
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
