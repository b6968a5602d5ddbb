package bus

import (
	"context"
	"iter"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// TailMax bounds LogQuery.Tail.
	TailMax = 100_000
	// filtersMax sources are the server's to select; of more, all batches are read
	// and those of others are passed over.
	filtersMax = 128
	// tailGrowth is how much farther back a tail of chosen lines looks each time it
	// has not found enough.
	tailGrowth = 8
)

// LogQuery selects stored lines. Empty names mean any.
type LogQuery struct {
	Plugin, Instance string
	Stream           plugin.LogStream
	// Sources are several instead of Plugin and Instance; none may contain another.
	Sources []plugin.LogSource
	Since   time.Time
	// After is the ID of the line to begin after.
	After string
	// Tail keeps only the last so many; 0: all.
	Tail int
	// Keep chooses lines, before Tail counts them; nil: all. It may be asked about
	// a line more than once.
	Keep func(*plugin.LogLine) bool
	// Gap, if not nil, is told when After is not kept, instead of ErrNotFound, and of
	// the ID after which reading goes on.
	Gap func(after string)
}

// LogHistory reads stored lines in order, each with its ID. An error is the last
// thing it yields: ErrNotFound when After is no longer kept, ErrInvalid when it
// is not an ID, ErrUnavailable when the bus is down.
func (b *Bus) LogHistory(ctx context.Context, q LogQuery) iter.Seq2[plugin.LogLine, error] {
	return func(yield func(plugin.LogLine, error) bool) {
		r := logReader{bus: b, q: q, yield: func(l plugin.LogLine) bool { return yield(l, nil) }}
		if err := r.run(ctx); err != nil && ctx.Err() == nil {
			yield(plugin.LogLine{}, err)
		}
	}
}

// logReader is one call of LogHistory.
type logReader struct {
	bus   *Bus
	q     LogQuery
	yield func(plugin.LogLine) bool
	// The line of q.After.
	sequence uint64
	line     int
	// wanted are the sources when there are too many for the server; nil: all that
	// comes is wanted.
	wanted map[plugin.LogSource]struct{}
}

// logMessage is a stored batch that is not decoded yet.
type logMessage struct {
	sequence uint64
	lines    int
	data     []byte
}

func (l *logReader) run(ctx context.Context) (err error) {
	if l.sequence, l.line, err = parseLogID(l.q.After); err != nil {
		return err
	}
	r := reading{stream: streamLogs, after: l.sequence, since: l.q.Since}
	if r.filters = l.filters(); len(r.filters) == 0 {
		return nil
	}
	if l.line > 0 && l.sequence > 0 {
		r.after, r.within = l.sequence-1, l.sequence // that batch may hold more
	}
	if l.q.Gap != nil {
		r.gap = func(after uint64) {
			l.sequence, l.line = after, 0
			l.q.Gap(LogID(after, 0))
		}
	}
	switch {
	case l.q.Tail <= 0:
		return l.read(ctx, r, func(m logMessage) bool { return l.decode(m, 0, l.yield) })
	case l.q.Keep == nil && l.wanted == nil:
		return l.tail(ctx, r, min(l.q.Tail, TailMax))
	}
	return l.tailOfChosen(ctx, r, min(l.q.Tail, TailMax))
}

// filters are the subjects to be read.
func (l *logReader) filters() []string {
	if l.q.Sources == nil {
		return []string{logFilter(l.q.Plugin, l.q.Instance, l.q.Stream)}
	}
	var filters []string
	for _, s := range l.q.Sources {
		filters = append(filters, logFilter(s.Plugin, s.Instance, l.q.Stream))
	}
	slices.Sort(filters)
	if filters = slices.Compact(filters); len(filters) <= filtersMax {
		return filters
	}
	l.wanted = map[plugin.LogSource]struct{}{}
	for _, s := range l.q.Sources {
		l.wanted[s] = struct{}{}
	}
	return []string{logFilter("", "", l.q.Stream)}
}

// wants reports whether a subject is one of many sources'.
func (l *logReader) wants(subject string) bool {
	if l.wanted == nil {
		return true
	}
	parts := strings.Split(strings.TrimPrefix(subject, logPrefix), ".")
	if len(parts) < 2 {
		return false
	}
	name, instance := untoken(parts[0]), untoken(parts[1])
	_, all := l.wanted[plugin.LogSource{Plugin: name}]
	_, one := l.wanted[plugin.LogSource{Plugin: name, Instance: instance}]
	return all || one
}

func (l *logReader) read(ctx context.Context, r reading, each func(logMessage) bool) error {
	return l.bus.read(ctx, r, func(m jetstream.Msg, at uint64) bool {
		return !l.wants(m.Subject()) || each(newLogMessage(m, at))
	})
}

// decode gives each the lines of a batch that are asked for, but for the first skip.
func (l *logReader) decode(m logMessage, skip int, each func(plugin.LogLine) bool) bool {
	if m.sequence == l.sequence {
		skip = max(skip, l.line)
	}
	return eachLine(m, skip, func(line plugin.LogLine) bool {
		return line.Time.Before(l.q.Since) || l.q.Keep != nil && !l.q.Keep(&line) || each(line)
	})
}

// tail reads near the end of what r selects, keeps as many batches as hold n
// lines, and decodes only those.
func (l *logReader) tail(ctx context.Context, r reading, n int) error {
	if r.after == 0 && r.since.IsZero() {
		after, _, err := l.bus.nearEnd(ctx, r, n)
		if err != nil {
			return err
		}
		r.after = after
	}
	var kept []logMessage
	total := 0
	err := l.read(ctx, r, func(one logMessage) bool {
		kept = append(kept, one)
		for total += one.lines; total-kept[0].lines >= n; kept = kept[1:] {
			total -= kept[0].lines
		}
		return true
	})
	if err != nil {
		return err
	}
	skip := max(0, total-n)
	for _, m := range kept {
		if !l.decode(m, skip, l.yield) {
			return nil
		}
		skip = max(0, skip-m.lines)
	}
	return nil
}

// tailOfChosen reads from farther and farther back until it has n lines that are
// chosen, or there are no more.
func (l *logReader) tailOfChosen(ctx context.Context, r reading, n int) error {
	bounded := r.after > 0 || !r.since.IsZero()
	var last []plugin.LogLine
	for reach, whole := n, bounded; ; reach = min(reach*tailGrowth, math.MaxInt/tailGrowth) {
		if !bounded {
			var err error
			if r.after, whole, err = l.bus.nearEnd(ctx, r, reach); err != nil {
				return err
			}
		}
		last = last[:0]
		err := l.read(ctx, r, func(m logMessage) bool {
			return l.decode(m, 0, func(line plugin.LogLine) bool {
				if last = append(last, line); len(last) >= 2*n {
					last = append(last[:0], last[len(last)-n:]...)
				}
				return true
			})
		})
		if err != nil {
			return err
		}
		if whole || len(last) >= n {
			break
		}
		r.after = 0
	}
	for _, line := range last[max(0, len(last)-n):] {
		if !l.yield(line) {
			return nil
		}
	}
	return nil
}

// nearEnd finds a place from which between n and about 2n batches are left, by
// bisection: the server counts what a reader would get, but cannot walk back.
// whole is true when nothing stands before it.
func (b *Bus) nearEnd(ctx context.Context, r reading, n int) (after uint64, whole bool, err error) {
	s, err := b.js[control].Stream(ctx, r.stream)
	if err != nil {
		return 0, false, unavailable("history", err)
	}
	first := s.CachedInfo().State.FirstSeq
	low, high := first, s.CachedInfo().State.LastSeq+1
	for high > low+1 {
		middle := low + (high-low)/2
		left, err := b.leftAfter(ctx, s, r, middle-1)
		switch {
		case err != nil:
			return 0, false, err
		case left < uint64(n):
			high = middle
		case left <= uint64(2*n)+16:
			return middle - 1, false, nil
		default:
			low = middle
		}
	}
	return max(low, 1) - 1, low == first, nil
}

func (b *Bus) leftAfter(ctx context.Context, s jetstream.Stream, r reading, after uint64) (uint64, error) {
	r.after = after
	c, err := s.CreateConsumer(ctx, r.consumer())
	if err != nil {
		return 0, unavailable("history", err)
	}
	b.dropConsumer(s, c)
	return c.CachedInfo().NumPending, nil
}
