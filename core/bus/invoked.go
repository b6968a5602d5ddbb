package bus

import (
	"bytes"
	"strconv"
	"sync"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// invocationsMax records wait to be packed: 50 ms at 300,000 a second.
	invocationsMax = 16384
	// A packed event holds so many records at most, and about so many bytes: storing an
	// event costs as much as packing hundreds.
	packRecordsMax, packBytesMax = 1024, plugin.EventDataBytesMax * 3 / 4
	// packEvery is how long the first record waits for company.
	packEvery = 50 * time.Millisecond
)

// invocationRing takes records from callers in a hurry. When full, the oldest goes.
type invocationRing struct {
	mu      sync.Mutex
	records []plugin.InvocationRecord // grows to invocationsMax
	next    int                       // oldest, once full
	lost    uint64
	wake    chan struct{}
}

func (r *invocationRing) init() { r.wake = make(chan struct{}, 1) }

// add returns whether one was lost.
func (r *invocationRing) add(record *plugin.InvocationRecord) (lost bool) {
	r.mu.Lock()
	n := len(r.records)
	if n < invocationsMax {
		r.records = append(r.records, *record)
	} else {
		r.records[r.next] = *record
		r.next = (r.next + 1) % invocationsMax
		r.lost++
		lost = true
	}
	r.mu.Unlock()
	if n == 0 {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
	return lost
}

// take swaps the ring for the spare one, and returns the records in order.
func (r *invocationRing) take(spare []plugin.InvocationRecord) (older, newer []plugin.InvocationRecord, lost uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	older, newer, lost = r.records[r.next:], r.records[:r.next], r.lost
	r.records, r.next, r.lost = spare[:0], 0, 0
	return older, newer, lost
}

// Invoked records a finished invocation. It costs the caller well under a
// microsecond; records are packed into events of type EventInvocations, per
// plugin, within 50 ms.
func (b *Bus) Invoked(r plugin.InvocationRecord) {
	if b.o.NoInvocationEvents {
		return
	}
	if b.invocations.add(&r) {
		b.counters.invocationsDropped.Add(1)
	}
}

// publishInvocations packs what is in the ring. It ends with stopping.
func (b *Bus) publishInvocations() {
	var spare spareRoom
	for {
		select {
		case <-b.invocations.wake:
		case <-b.stopping:
			b.packInvocations(&spare)
			return
		}
		timer := time.NewTimer(packEvery)
		select {
		case <-timer.C:
		case <-b.stopping:
			timer.Stop()
		}
		b.packInvocations(&spare)
	}
}

// spareRoom is memory that one round leaves to the next.
type spareRoom struct {
	ring []plugin.InvocationRecord
	text []byte
}

// packInvocations makes events of what is in the ring.
func (b *Bus) packInvocations(spare *spareRoom) {
	older, newer, lost := b.invocations.take(spare.ring)
	if lost > 0 {
		b.o.Log.Warn("invocation records were lost: too many at once", "count", lost)
	}
	packs := map[string]*pack{}
	for _, records := range [][]plugin.InvocationRecord{older, newer} {
		for i := range records {
			p := packs[records[i].Plugin]
			if p == nil {
				p = &pack{json: spare.text}
				packs[records[i].Plugin], spare.text = p, nil
			}
			if p.add(&records[i]) {
				b.publishPack(records[i].Plugin, p)
			}
		}
	}
	for name, p := range packs {
		b.publishPack(name, p)
		if cap(p.json) > cap(spare.text) {
			spare.text = p.json
		}
	}
	used := newer[:len(newer)+len(older)] // older lies behind newer
	clear(used)
	spare.ring = used[:0]
}

func (b *Bus) publishPack(name string, p *pack) {
	if p.count == 0 {
		return
	}
	// Not Event: what appendRecord wrote need not be read again.
	b.push(b.fill(plugin.Event{Type: plugin.EventInvocations, Plugin: name, Data: bytes.Clone(append(p.json, ']'))}))
	p.json, p.count = p.json[:0], 0
}

// pack is the data of one EventInvocations in the making.
type pack struct {
	json  []byte
	count int
}

// add returns whether the pack is full.
func (p *pack) add(r *plugin.InvocationRecord) bool {
	if p.count == 0 {
		p.json = append(p.json, '[')
	} else {
		p.json = append(p.json, ',')
	}
	p.json = appendRecord(p.json, r)
	p.count++
	return p.count >= packRecordsMax || len(p.json) >= packBytesMax
}

func appendRecord(dst []byte, r *plugin.InvocationRecord) []byte {
	dst = appendString(append(dst, `{"id":`...), r.ID)
	dst = appendString(append(dst, `,"plugin":`...), r.Plugin)
	dst = appendString(append(dst, `,"operation":`...), r.Operation)
	if r.Caller != "" {
		dst = appendString(append(dst, `,"caller":`...), r.Caller)
	}
	dst = append(dst, `,"time":"`...)
	dst = r.Time.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, `","durationMicros":`...)
	dst = strconv.AppendInt(dst, r.DurationMicros, 10)
	dst = appendString(append(dst, `,"outcome":`...), r.Outcome)
	return append(dst, '}')
}
