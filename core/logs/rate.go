package logs

import (
	"sync/atomic"
	"time"
)

// settingsEvery is how soon a changed manifest holds for what is printed.
const settingsEvery = time.Second

// settings remembers what the plugin's manifest says.
type settings struct {
	asked atomic.Int64 // when, in ns; 0: never
	last  atomic.Pointer[Settings]
}

// now returns the settings, which are at most settingsEvery old at the time.
func (s *settings) now(l *Log, at time.Time) Settings {
	if l.hub.options.Settings == nil {
		return Settings{}
	}
	asked := s.asked.Load()
	if now := at.UnixNano(); now-asked >= int64(settingsEvery) && s.asked.CompareAndSwap(asked, now) {
		fresh := l.hub.options.Settings(l.plugin)
		s.last.Store(&fresh)
		return fresh
	}
	if last := s.last.Load(); last != nil {
		return *last
	}
	return Settings{} // the first answer is under way
}

// bucket holds how many lines an instance may print now: one second of them at
// most, and what it could not print while its reader waited for the bus.
type bucket struct {
	lines  float64
	filled time.Time
	waited time.Duration
	told   bool // the operator knows
}

// allow takes one line out of the bucket, or drops it: it is counted, and the next
// line tells.
func (l *Log) allow(s *stream, p printed, rate int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, r := &l.bucket, float64(rate)
	if b.filled.IsZero() {
		b.lines, b.filled = r, p.at
	}
	if since := p.at.Sub(b.filled); since > 0 {
		b.lines = max(b.lines, min(r, b.lines+r*since.Seconds()))
		b.filled = p.at
	}
	b.lines += r * b.waited.Seconds()
	b.waited = 0
	if p.upto > 0 && p.upto <= s.backlog {
		return true
	}
	if b.lines >= 1 {
		b.lines--
		return true
	}
	s.sequence++
	s.dropped++
	if !b.told {
		b.told = true
		l.hub.options.Log.Warn("a plugin prints more than spec.limits.logRate; lines are dropped", "plugin", l.plugin, "instance", l.instance, "rate", rate)
	}
	return false
}
