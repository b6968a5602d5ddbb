package bus

import (
	"math"
	"sync"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// followerQueueMax is how many events one live reader may be behind: a burst of
// a thousand plugins. Then it reads the stream instead.
const followerQueueMax = 1024

// Item is one event and its JSON, encoded once for all readers: do not change it.
type Item struct {
	Event plugin.Event
	JSON  []byte
	place uint64 // in the queue of this daemon; 0: it is history
}

func newItem(e plugin.Event) *Item {
	text, err := e.MarshalJSON()
	if err != nil { // the data is checked before; only a time beyond year 9999 is left
		e.Data = nil
		text, _ = e.MarshalJSON()
	}
	return &Item{Event: e, JSON: text}
}

// follower is one live reader. Its channel is closed when it fell behind or the
// bus closed.
type follower struct {
	items        chan *Item
	plugin, kind string
	place        uint64 // of the last event that it had, or did not want
	number       uint64 // counts followers from 1
	stream       uint64 // hub.stream when it began
}

func (f *follower) wants(e *plugin.Event) bool {
	return (f.plugin == "" || f.plugin == e.Plugin) && (f.kind == "" || f.kind == e.Type)
}

// hub feeds live readers from memory: a consumer each would cost ten times as
// much, and a stream has a thousand at most.
type hub struct {
	mu        sync.Mutex
	followers map[*follower]struct{}
	last      uint64 // highest sequence delivered
	joined    uint64 // number of the newest follower
	stream    uint64 // counts streams that were lost and made anew
	closed    bool
}

// startAt says where the stream stands: everything up to there is history. One that
// stands before what was delivered was made anew: then followers begin anew, too.
func (h *hub) startAt(sequence uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if sequence < h.last {
		h.stream++
		for f := range h.followers {
			close(f.items)
			delete(h.followers, f)
		}
	}
	h.last = sequence
}

// lastStored is the highest sequence that is known.
func (h *hub) lastStored() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// streamNow counts the streams that were lost.
func (h *hub) streamNow() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stream
}

// follow registers a reader that had the events up to a place, and returns the last
// sequence that it will not get.
func (h *hub) follow(name, kind string, place uint64) (*follower, uint64) {
	f := &follower{items: make(chan *Item, followerQueueMax), plugin: name, kind: kind, place: place}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(f.items)
		return f, h.last
	}
	if h.followers == nil {
		h.followers = map[*follower]struct{}{}
	}
	h.joined++
	f.number, f.stream = h.joined, h.stream
	h.followers[f] = struct{}{}
	return f, h.last
}

func (h *hub) leave(f *follower) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.followers, f)
}

// newest is the number of the newest follower, and behind the least place of one.
func (h *hub) newest() (number, behind uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	behind = math.MaxUint64
	for f := range h.followers {
		behind = min(behind, f.place)
	}
	return h.joined, behind
}

// deliver gives the event at a place of the queue to every reader up to a number that
// wants it and has not had it, and drops the readers whose queue is full. An event
// without a place goes to all.
func (h *hub) deliver(e plugin.Event, place, number uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = max(h.last, e.Sequence)
	var item *Item
	for f := range h.followers {
		if f.number > number || place != 0 && f.place >= place {
			continue
		}
		f.place = max(f.place, place)
		if !f.wants(&e) {
			continue
		}
		if item == nil {
			item = newItem(e)
			item.place = place
		}
		select {
		case f.items <- item:
		default:
			close(f.items)
			delete(h.followers, f)
		}
	}
}

func (h *hub) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.followers)
}

func (h *hub) isClosed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for f := range h.followers {
		close(f.items)
		delete(h.followers, f)
	}
}
