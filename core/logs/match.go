package logs

import (
	"regexp"
	"slices"
	"sync/atomic"
)

// matches are the patterns that an instance's lines are looked through for. The list
// is replaced, never changed: a log without any pays one atomic load per line, and
// eight bytes.
type matches struct{ all atomic.Pointer[[]*match] }

type match struct {
	pattern *regexp.Regexp
	seen    atomic.Bool
}

// Match looks for a line whose message matches, among those that Tail has and all
// that come, until one does or stop is called. seen says whether one did.
func (l *Log) Match(pattern *regexp.Regexp) (seen func() bool, stop func()) {
	m := &match{pattern: pattern}
	l.matches.change(func(all []*match) []*match { return append(all, m) })
	for _, line := range l.Tail(ringLinesMax) { // a line that comes meanwhile is looked at twice
		if pattern.MatchString(line.Message) {
			m.seen.Store(true)
			break
		}
	}
	return m.seen.Load, func() { l.matches.drop(func(one *match) bool { return one == m }) }
}

// look is told every line before it is kept.
func (m *matches) look(message string) {
	all := m.all.Load()
	if all == nil {
		return
	}
	for _, one := range *all {
		if one.pattern.MatchString(message) {
			one.seen.Store(true)
			m.drop(func(other *match) bool { return other == one })
		}
	}
}

// drop ends the search for what was found or is not wanted any more.
func (m *matches) drop(which func(*match) bool) {
	m.change(func(all []*match) []*match { return slices.DeleteFunc(all, which) })
}

// change replaces the list by what edit makes of a copy.
func (m *matches) change(edit func([]*match) []*match) {
	for {
		old := m.all.Load()
		var now []*match
		if old != nil {
			now = slices.Clone(*old)
		}
		fresh := &now
		if now = edit(now); len(now) == 0 {
			fresh = nil
		}
		if m.all.CompareAndSwap(old, fresh) {
			return
		}
	}
}
