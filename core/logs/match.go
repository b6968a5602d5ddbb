package logs

import (
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
)

// matches are the patterns that an instance's lines are looked through for. A log
// without any pays one atomic load per line.
type matches struct {
	waiting atomic.Int32
	mu      sync.Mutex
	all     []*match
}

type match struct {
	pattern *regexp.Regexp
	seen    atomic.Bool
}

// Match looks for a line whose message matches, among those that Tail has and all
// that come, until one does or stop is called. seen says whether one did.
func (l *Log) Match(pattern *regexp.Regexp) (seen func() bool, stop func()) {
	m := &match{pattern: pattern}
	l.matches.mu.Lock()
	l.matches.all = append(l.matches.all, m)
	l.matches.waiting.Add(1)
	l.matches.mu.Unlock()
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
	if m.waiting.Load() == 0 {
		return
	}
	m.mu.Lock()
	all := slices.Clone(m.all)
	m.mu.Unlock()
	for _, one := range all {
		if one.pattern.MatchString(message) {
			one.seen.Store(true)
			m.drop(func(other *match) bool { return other == one })
		}
	}
}

// drop ends the search for what was found or is not wanted any more.
func (m *matches) drop(which func(*match) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = slices.DeleteFunc(m.all, which)
	m.waiting.Store(int32(len(m.all)))
}
