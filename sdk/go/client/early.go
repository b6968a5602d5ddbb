package client

import "time"

const (
	// earlyMax: as many events as a daemon keeps for a bus that is down.
	earlyMax = 65536
	// earlyMargin: what came early and is older by so much is stored, or lost.
	earlyMargin = time.Minute
)

// earlyNames are the newest items that came before they were stored.
type earlyNames struct {
	names  map[string]struct{}
	newest time.Time
}

func (e *earlyNames) add(p place) {
	if e.names == nil {
		e.names = map[string]struct{}{}
	}
	if len(e.names) < earlyMax {
		e.names[p.name], e.newest = struct{}{}, p.at
	}
}

// had reports whether a stored item came early, and forgets it.
func (e *earlyNames) had(p place) bool {
	if _, ok := e.names[p.name]; ok {
		delete(e.names, p.name)
		return true
	}
	if p.at.After(e.newest.Add(earlyMargin)) {
		e.names = nil
	}
	return false
}
