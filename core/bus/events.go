package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// eventsPendingMax is how many events wait for a bus that is down: one
	// per instance of 10,000 plugins through several states, some 50 MiB.
	eventsPendingMax = 65536
	// eventsPendingBytesMax bounds them, too: records of invocations come in large
	// events, and as many as are called.
	eventsPendingBytesMax = 64 << 20
	// groupMin and groupMax: a synced message costs 0.2 ms, a group 2.4 ms
	// however large; the server takes 1000 per group.
	groupMin, groupMax = 16, 1000
	// groupBytesMax keeps one group well under the server's ingest queue.
	groupBytesMax = 4 << 20
	// asyncPendingMax is over groupMax, so that publishing never stalls.
	asyncPendingMax = 4096
	// usualPatience is how long live followers wait for a bus that is up but hangs;
	// then they get events without a sequence. A slow disk must not look like
	// that: whoever resumes would see those events twice.
	usualPatience = 500 * time.Millisecond
	// retryEvery is how soon a bus that is down is tried again.
	retryEvery = 250 * time.Millisecond
)

// The headers of an atomic batch (ADR-50).
const (
	batchID       = "Nats-Batch-Id"
	batchSequence = "Nats-Batch-Sequence"
	batchCommit   = "Nats-Batch-Commit"
)

// queuedEvent is an event that is not stored yet.
type queuedEvent struct {
	plugin.Event
	// place counts events from 1: live followers know by it what they have had
	// already, without a sequence. 0: of one that is made for others that were lost.
	place uint64
}

// eventQueue is bounded: when full, the oldest goes and is counted.
type eventQueue struct {
	mu    sync.Mutex
	items []queuedEvent
	head  int
	bytes int    // of their data
	place uint64 // of the newest
	lost  uint64
	// taken is when the oldest event of the group in hand was made; zero: none is.
	taken time.Time
	wake  chan struct{}
	fresh chan struct{} // holds one token when the stream shall be looked for
}

func (q *eventQueue) init() { q.wake, q.fresh = make(chan struct{}, 1), make(chan struct{}, 1) }

// renew asks the publisher to make the stream again if it is gone.
func (q *eventQueue) renew() {
	select {
	case q.fresh <- struct{}{}:
	default:
	}
}

// push returns how many events were lost for this one.
func (q *eventQueue) push(e plugin.Event) (lost uint64) {
	q.mu.Lock()
	q.bytes += len(e.Data)
	for waiting := len(q.items) - q.head; waiting > 0 && (waiting >= eventsPendingMax || q.bytes > eventsPendingBytesMax); waiting-- {
		q.bytes -= len(q.items[q.head].Data)
		q.items[q.head] = queuedEvent{}
		q.head++
		lost++
	}
	q.lost += lost
	if q.head > len(q.items)/2 && q.head > groupMax {
		q.items = append(q.items[:0], q.items[q.head:]...)
		q.head = 0
	}
	q.place++
	q.items = append(q.items, queuedEvent{Event: e, place: q.place})
	q.mu.Unlock()
	q.poke()
	return lost
}

func (q *eventQueue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take removes the next group, and how many were lost before it.
func (q *eventQueue) take() (group []queuedEvent, lost uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	bytes, end := 0, q.head
	for end < len(q.items) && end-q.head < groupMax-1 && bytes < groupBytesMax {
		bytes += len(q.items[end].Data)
		end++
	}
	q.bytes -= bytes
	group = append(group, q.items[q.head:end]...)
	clear(q.items[q.head:end])
	if q.head = end; q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
		if cap(q.items) > 4*groupMax {
			q.items = nil // a storm is over
		}
	}
	if len(group) > 0 {
		q.taken = group[0].Time
	}
	lost, q.lost = q.lost, 0
	return group, lost
}

// after is what waits behind a place, in order.
func (q *eventQueue) after(place uint64) []queuedEvent {
	q.mu.Lock()
	defer q.mu.Unlock()
	from := len(q.items)
	for from > q.head && q.items[from-1].place > place {
		from--
	}
	return slices.Clone(q.items[from:])
}

func (q *eventQueue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items) - q.head
}

// lag is the age of the oldest event that is not stored.
func (q *eventQueue) lag(now time.Time) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	oldest := q.taken
	if oldest.IsZero() && q.head < len(q.items) {
		oldest = q.items[q.head].Time
	}
	if oldest.IsZero() {
		return 0
	}
	return max(now.Sub(oldest), 0)
}

// stored says that the group in hand is done with.
func (q *eventQueue) stored() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taken = time.Time{}
}

// Event publishes an event, after all that were given before it. It returns at
// once. ID, Source and Time are filled when empty. The data must not be changed
// afterwards.
func (b *Bus) Event(e plugin.Event) {
	b.push(b.complete(e))
}

func (b *Bus) push(e plugin.Event) {
	if lost := b.events.push(e); lost > 0 {
		b.counters.eventsDropped.Add(lost)
	}
}

// publishEvents stores what is queued, in order, and hands it to live followers.
// It ends once stopping is closed and the queue is empty or cannot be stored.
func (b *Bus) publishEvents() {
	for {
		group, lost := b.events.take()
		if lost > 0 {
			group = append([]queuedEvent{{Event: b.lostEvent(lost)}}, group...)
		}
		if len(group) > 0 {
			if b.publishGroup(group) {
				b.events.stored()
				continue
			}
			return
		}
		select {
		case <-b.events.wake:
		case <-b.events.fresh:
			b.makeStreams()
		case <-b.stopping:
			if b.events.len() == 0 {
				return
			}
		}
	}
}

func (b *Bus) lostEvent(n uint64) plugin.Event {
	b.o.Log.Warn("events were lost while the bus was down", "count", n)
	return b.complete(plugin.Event{Type: plugin.EventDropped, Data: fmt.Appendf(nil, `{"dropped":%d}`, n)})
}

// publishGroup stores the group, however long it takes; false: the bus is closing
// and the rest is lost.
func (b *Bus) publishGroup(group []queuedEvent) bool {
	for {
		n, err := b.storeEvents(group)
		group = group[n:]
		if len(group) == 0 {
			return true
		}
		if rejected(err) {
			b.o.Log.Error("event refused by the bus", "plugin", group[0].Plugin, "type", group[0].Type, "why", err)
			b.counters.eventsDropped.Add(1)
			b.deliver(&group[0], 0)
			group = group[1:]
			continue
		}
		b.deliverUnstored(group)
		if group, err = b.settle(group, err); err != nil {
			b.o.Log.Error("events were not stored before the bus closed", "count", len(group)+b.events.len(), "why", err)
			return false
		}
		if len(group) == 0 {
			return true
		}
	}
}

// deliverUnstored shows live followers what cannot be stored now: the group in hand,
// and what waits behind it. Who has come since the last time, or comes again, is shown
// what others have had, for it must not come after what is shown from now on; who comes
// meanwhile is shown it the next time.
func (b *Bus) deliverUnstored(group []queuedEvent) {
	newest, behind := b.hub.newest()
	for i := range group {
		if group[i].place > behind {
			b.hub.deliver(group[i].Event, group[i].place, newest)
		}
	}
	for _, one := range b.events.after(behind) {
		b.hub.deliver(one.Event, one.place, newest)
	}
}

// deliver hands the event to live followers, but for those that have had it.
func (b *Bus) deliver(q *queuedEvent, sequence uint64) {
	e := q.Event
	e.Sequence = sequence
	b.hub.deliver(e, q.place, math.MaxUint64)
}

// waitToRetry waits for a moment, or for the connection, or for a new event,
// which followers are due now. A stream that somebody deleted is made again.
func (b *Bus) waitToRetry(group []queuedEvent, why error) bool {
	b.ill()
	if noStream(why) {
		b.makeStreams()
	}
	timer := time.NewTimer(retryEvery)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return b.ctx.Err() == nil
		case <-b.events.wake:
			b.deliverUnstored(group)
			if b.conns[eventing].IsConnected() {
				return b.ctx.Err() == nil
			}
		case <-b.ctx.Done():
			return false
		}
	}
}

// makeStreams is for the publisher of events only: it alone may learn that the
// stream begins anew.
func (b *Bus) makeStreams() {
	ctx, cancel := context.WithTimeout(b.ctx, time.Second)
	defer cancel()
	if err := b.ensureStreams(ctx); err != nil {
		b.o.Log.Warn("streams are not there", "why", err)
	}
}

// rejected: this event will never be taken; others may.
func rejected(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, nats.ErrMaxPayload) || errors.As(err, &api) && api.Code == 400
}

// storeEvents stores and delivers the events from the first on, and returns how
// many it could.
func (b *Bus) storeEvents(group []queuedEvent) (int, error) {
	if len(group) >= groupMin && b.atomicBatch.Load() {
		first, err := b.storeAtOnce(group)
		if err == nil {
			for i := range group {
				b.deliver(&group[i], first+uint64(i))
			}
			b.counters.eventsPublished.Add(uint64(len(group)))
			return len(group), nil
		}
		// Perhaps stored and the answer lost: one by one their ids tell.
		b.o.Log.Debug("events go one by one", "why", err)
	}
	return b.storeOneByOne(group)
}

// storeAtOnce stores the group as one atomic batch: one sync for all.
func (b *Bus) storeAtOnce(group []queuedEvent) (first uint64, err error) {
	nc, id := b.conns[eventing], nuid.Next()
	for i := range group {
		m := message(&group[i].Event)
		m.Header[batchID] = []string{id}
		m.Header[batchSequence] = []string{strconv.Itoa(i + 1)}
		if i < len(group)-1 {
			if err := nc.PublishMsg(m); err != nil {
				return 0, err
			}
			continue
		}
		m.Header[batchCommit] = []string{"1"}
		return b.commit(group, m)
	}
	return 0, nil // only for an empty group
}

func (b *Bus) commit(group []queuedEvent, m *nats.Msg) (first uint64, err error) {
	ctx, cancel := context.WithTimeout(b.ctx, requestMax)
	defer cancel()
	answers := make(chan *nats.Msg, 1)
	go func() { // ends with ctx
		defer close(answers)
		var answer *nats.Msg
		if answer, err = b.conns[eventing].RequestMsgWithContext(ctx, m); err == nil {
			answers <- answer
		}
	}()
	late := time.NewTicker(b.o.patience)
	defer late.Stop()
	link := b.conns[eventing].Stats().Reconnects
	for {
		select {
		case answer, ok := <-answers:
			if !ok {
				return 0, err
			}
			return b.readCommit(answer.Data, len(group))
		case <-late.C:
			b.deliverUnstored(group)
			if nc := b.conns[eventing]; !nc.IsConnected() || nc.Stats().Reconnects != link {
				cancel() // the answer cannot come any more
			}
		}
	}
}

func (b *Bus) readCommit(data []byte, count int) (first uint64, err error) {
	var ack struct {
		Error    *jetstream.APIError `json:"error"`
		Sequence uint64              `json:"seq"`
		Count    int                 `json:"count"`
	}
	if err := json.Unmarshal(data, &ack); err != nil {
		return 0, fmt.Errorf("answer to a batch: %w", err)
	}
	if ack.Error != nil {
		return 0, ack.Error
	}
	if ack.Count != count || ack.Sequence < uint64(count) {
		b.atomicBatch.Store(false) // a server that does not know batches
		return 0, fmt.Errorf("answer to a batch of %d: says %d", count, ack.Count)
	}
	return ack.Sequence - uint64(count) + 1, nil
}

// storeOneByOne sends all and then waits for each answer in turn.
func (b *Bus) storeOneByOne(group []queuedEvent) (int, error) {
	ctx, cancel := context.WithTimeout(b.ctx, requestMax)
	defer cancel()
	futures := make([]jetstream.PubAckFuture, 0, len(group))
	var failed error
	for i := range group {
		f, err := b.js[eventing].PublishMsgAsync(message(&group[i].Event))
		if err != nil {
			failed = err
			break
		}
		futures = append(futures, f)
	}
	late := time.NewTicker(b.o.patience)
	defer late.Stop()
	for i := 0; i < len(futures); {
		select {
		case ack := <-futures[i].Ok():
			b.counters.eventsPublished.Add(1)
			b.deliver(&group[i], ack.Sequence)
			i++
		case err := <-futures[i].Err():
			return i, err
		case <-late.C:
			b.deliverUnstored(group[i:])
		case <-ctx.Done():
			return i, ctx.Err()
		}
	}
	return len(futures), failed
}
