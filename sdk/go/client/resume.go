package client

import (
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// settledAfter is how long ago a line must have come to be relied on: a daemon
	// with an embedded bus that is killed may lose, and give other ids to, what it
	// stored in the last milliseconds.
	settledAfter = 2 * time.Second
	// seenMax bounds the streams whose last line is remembered.
	seenMax = 4096
)

// anchor remembers the id of an item that came some seconds ago.
type anchor struct {
	settled           string
	candidate, latest passed
}

type passed struct {
	id string
	at time.Time
}

func (a *anchor) passed(id string, now time.Time) {
	a.latest = passed{id, now}
	switch {
	case a.candidate.at.IsZero():
		a.candidate = a.latest
	case now.Sub(a.candidate.at) >= settledAfter:
		a.settled, a.candidate = a.candidate.id, a.latest
	}
}

// retreat returns the newest id that had settled when the connection broke, "" when
// none had; it is what the next retreat begins with.
func (a *anchor) retreat(broke time.Time) string {
	id := a.settled
	for _, p := range [...]passed{a.candidate, a.latest} {
		if !p.at.IsZero() && broke.Sub(p.at) >= settledAfter {
			id = p.id
		}
	}
	*a = anchor{settled: id}
	return id
}

// seen knows the last line of each stream, to skip what comes again after a
// connection broke.
type seen struct{ streams map[lineStream]*lastLine }

type lineStream struct {
	instance string
	stream   plugin.LogStream
}

type lastLine struct {
	sequence uint64
	repeats  bool // what comes may be old
}

func newSeen() *seen { return &seen{streams: map[lineStream]*lastLine{}} }

// broke is told that what comes may be old.
func (s *seen) broke() {
	for _, last := range s.streams {
		last.repeats = true
	}
}

// again reports whether a line has come before, and remembers it.
func (s *seen) again(l plugin.LogLine) bool {
	key := lineStream{l.Instance, l.Stream}
	last := s.streams[key]
	if last == nil {
		for other := range s.streams {
			if len(s.streams) < seenMax {
				break
			}
			delete(s.streams, other)
		}
		last = &lastLine{}
		s.streams[key] = last
	}
	if last.repeats && l.Sequence <= last.sequence {
		return true
	}
	last.sequence, last.repeats = l.Sequence, false
	return false
}
