package logs

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// settingsEvery is how soon a changed manifest holds for what is printed.
const settingsEvery = time.Second

// settings remembers what the plugin's manifest says.
type settings struct {
	asked atomic.Int64 // when, in ns since the hub began and one; 0: never
	last  atomic.Pointer[Settings]
}

// now returns the settings, which are at most settingsEvery old at the time.
func (s *settings) now(l *Log, at time.Time) Settings {
	if l.hub.options.Settings == nil {
		return Settings{}
	}
	asked := s.asked.Load()
	now := int64(at.Sub(l.hub.began)) + 1 // not by a clock that may be set back
	if (asked == 0 || now-asked >= int64(settingsEvery)) && s.asked.CompareAndSwap(asked, now) {
		fresh := l.hub.options.Settings(l.plugin)
		s.last.Store(&fresh)
		return fresh
	}
	if last := s.last.Load(); last != nil {
		return *last
	}
	return Settings{} // the first answer is under way
}

// LineRateDefault is Settings.LineRate of a plugin whose manifest says nothing: more
// than a program prints that somebody reads, and little beside what a flood would
// take of the other plugins' processors.
const LineRateDefault = 10_000

const (
	// burst is how long the rate may have been saved up: a start or a crash that prints
	// much at once is kept whole. 10,000 lines at once, at the default, are what journald
	// takes in half a minute; ten times as many delayed one in fifty of the calls of
	// another plugin in ten seconds.
	burst = time.Second
	// rateBytes is what counts as one line: a longer one counts as several.
	rateBytes = 1 << 10
	// skimBytes is what a file's reader takes at once: a part whose lines are over the
	// rate is counted and not cut, which costs a tenth.
	skimBytes = 16 << 10
	// leapOver is how much a plugin that is over its rate may have unread: of more,
	// which is a flood, the last leapKept are read and the rest is freed unread. To read
	// what nobody will see would slow the calls of other plugins.
	leapOver, leapKept = 512 << 10, 8 << 10
	// leapLines are in leapKept, if they are not longer than most. It is no more than
	// leapShare of a second's: what is saved up of a low rate is not leapt over.
	leapLines, leapShare = 50, 0.01
	// floodShare is by how much less than the rate is taken of a flood, until it has been
	// over for floodOver: who prints so much is read by nobody, and each line that is
	// taken costs the other plugins, too.
	floodShare, floodOver = 10, 100 * time.Millisecond
)

// SettingsOf are the settings that a manifest asks for.
func SettingsOf(spec plugin.Spec) Settings {
	return Settings{Keep: spec.Logs, LineRate: cmp.Or(spec.Limits.LogRate, LineRateDefault)}
}

// bucket holds how many lines an instance may print now: a burst of them at most,
// and what it could not print while its reader waited for the bus.
type bucket struct {
	lines  float64
	filled time.Time
	waited time.Duration
	flood  time.Duration // how long a flood that was seen still counts
	told   bool          // the operator knows
}

// fill adds what has been saved up.
func (b *bucket) fill(now time.Time, rate float64) {
	most := rate * burst.Seconds()
	if b.filled.IsZero() {
		b.lines, b.filled = most, now
	}
	if since := now.Sub(b.filled); since > 0 {
		flood := min(since, b.flood)
		saved := rate * (since - flood + flood/floodShare).Seconds()
		b.lines = max(b.lines, min(most, b.lines+saved))
		b.filled, b.flood = now, b.flood-flood
	}
	b.lines += rate * b.waited.Seconds()
	b.waited = 0
}

// allow takes one line out of the bucket, or drops it: it is counted, and the next
// line tells.
func (l *Log) allow(s *stream, p printed, rate int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bucket.fill(p.at, float64(rate))
	if p.upto > 0 && p.upto <= s.backlog {
		return true
	}
	if l.bucket.lines > 0 {
		l.bucket.lines -= float64(1 + len(p.text)/rateBytes)
		return true
	}
	l.over(s, 1, rate)
	return false
}

// over counts lines that are not taken. The caller holds mu.
func (l *Log) over(s *stream, lines uint64, rate int) {
	s.sequence += lines
	s.dropped += lines
	if !l.bucket.told {
		l.bucket.told = true
		l.hub.options.Log.Warn("a plugin prints more than spec.limits.logRate; lines are dropped", "plugin", l.plugin, "instance", l.instance, "rate", rate)
	}
}

// take cuts what was read into lines. Where the plugin prints more than it may, the
// lines are counted only.
func (f *follower) take(data []byte) {
	now := time.Now()
	line := f.line(now)
	for part := range slices.Chunk(data, skimBytes) {
		f.cutter.write(part[f.skim(part, now):], line)
	}
}

// skim counts and drops the complete lines of a part that is over the rate, and
// returns their bytes.
func (f *follower) skim(part []byte, now time.Time) int {
	l, s := f.log, f.stream
	rate := l.settings.now(l, now).LineRate
	l.mu.Lock()
	defer l.mu.Unlock()
	end := bytes.LastIndexByte(part, '\n') + 1
	if end == 0 || !f.exceeds(now, rate, 0) {
		return 0
	}
	l.unfold(s, waitForRoom) // what is dropped may have ended it
	l.over(s, uint64(bytes.Count(part[:end], []byte{'\n'})), rate)
	f.cutter.at += int64(len(f.cutter.rest) + end)
	f.cutter.rest = f.cutter.rest[:0]
	return end
}

// exceeds reports that the plugin may print so many lines or fewer before it is over its
// rate: 0 is none, and what was printed while no daemon read it is not held against it.
// The caller holds mu.
func (f *follower) exceeds(now time.Time, rate int, left float64) bool {
	if rate == 0 || f.cutter.at < f.stream.backlog {
		return false
	}
	f.log.bucket.fill(now, float64(rate))
	return f.log.bucket.lines <= left
}

// leap skips to the last lines of a flood, if there is one. They fit into buf, and what is
// before them is freed. That is counted by its bytes, with lines as long as those that are read.
func (f *follower) leap(buf []byte, until int64) (leapt bool, err error) {
	l, s, now := f.log, f.stream, time.Now()
	rate := l.settings.now(l, now).LineRate
	until = min(until, f.size())
	if until == math.MaxInt64 || until-f.offset < leapOver || !f.seesFlood(now, rate) {
		return false, nil
	}
	n, err := f.file.ReadAt(buf, until-int64(len(buf)))
	if err != nil {
		return false, err
	}
	start := until - int64(n) + int64(bytes.IndexByte(buf, '\n')+1)
	lines := bytes.Count(buf, []byte{'\n'})
	if lines == 0 {
		start, lines = until, 1 // in the middle of one that is longer
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unfold(s, dropOldest) // what is skipped may have ended it
	l.over(s, max(1, uint64(start-f.cutter.at)*uint64(lines)/uint64(n)), rate)
	f.offset, f.cutter.at, f.cutter.rest = start, start, f.cutter.rest[:0]
	f.keep(place{start, s.sequence}, s.stored)
	f.free(start)
	return true, nil
}

// seesFlood is told of one, and reports whether what is kept of it has all the lines that
// the plugin may still print.
func (f *follower) seesFlood(now time.Time, rate int) bool {
	f.log.mu.Lock()
	defer f.log.mu.Unlock()
	exceeds := f.exceeds(now, rate, min(leapLines, leapShare*float64(rate)))
	f.log.bucket.flood = floodOver
	return exceeds
}
