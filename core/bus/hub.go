package bus

import (
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

// follow registers a reader and returns the last sequence that it will not get.
func (h *hub) follow(name, kind string) (*follower, uint64) {
	f := &follower{items: make(chan *Item, followerQueueMax), plugin: name, kind: kind}
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

// deliver gives the event to every reader that wants it and is newer than seenBy,
// and drops the readers whose queue is full. It returns the newest reader's number.
func (h *hub) deliver(e plugin.Event, seenBy uint64) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = max(h.last, e.Sequence)
	var item *Item
	for f := range h.followers {
		if f.number <= seenBy || !f.wants(&e) {
			continue
		}
		if item == nil {
			item = newItem(e)
		}
		select {
		case f.items <- item:
		default:
			close(f.items)
			delete(h.followers, f)
		}
	}
	return h.joined
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
