package logs

import (
	"cmp"
	"slices"
	"sync"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// order hands batches to the live tail in the order of the bus, although many are
// published at the same time and their acknowledgements overtake each other: the
// runs of a job are. A batch is told once everything has been answered that was
// sent before its own answer came, since only that can stand before it.
type order struct {
	mu     sync.Mutex
	begun  uint64              // publications so far; the count before is a ticket
	first  uint64              // the oldest ticket without an answer
	ended  map[uint64]struct{} // answered tickets after first
	stored []stored            // by sequence, not told yet: at most one per publication under way
}

type stored struct {
	sequence uint64
	after    uint64 // told once first is here
	lines    []plugin.LogLine
}

func (o *order) begin() (ticket uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.begun++
	return o.begun - 1
}

// end takes the answer to a publication and tells what can be told now. Nothing is
// to be told of one that failed: lines is nil.
func (o *order) end(ticket, sequence uint64, lines []plugin.LogLine, tell func(sequence uint64, lines []plugin.LogLine)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answered(ticket)
	if lines != nil {
		at, _ := slices.BinarySearchFunc(o.stored, sequence, func(s stored, want uint64) int {
			return cmp.Compare(s.sequence, want)
		})
		after := o.begun
		if at < len(o.stored) {
			after = o.stored[at].after // what was sent later stands behind that one, too
		}
		o.stored = slices.Insert(o.stored, at, stored{sequence, after, lines})
	}
	told := 0
	for told < len(o.stored) && o.stored[told].after <= o.first {
		tell(o.stored[told].sequence, o.stored[told].lines)
		told++
	}
	o.stored = slices.Delete(o.stored, 0, told)
}

func (o *order) answered(ticket uint64) {
	if o.ended == nil {
		o.ended = map[uint64]struct{}{}
	}
	o.ended[ticket] = struct{}{}
	for {
		if _, ok := o.ended[o.first]; !ok {
			return
		}
		delete(o.ended, o.first)
		o.first++
	}
}
