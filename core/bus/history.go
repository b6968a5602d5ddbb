package bus

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// readersMax histories are read at the same time; a consumer costs 45 KB, and
	// a stream takes a thousand.
	readersMax = 32
	// readBatch messages are fetched at a time: 100 log batches are 6 MiB.
	readBatch = 100
	// readerIdleMax is how soon the server forgets a reader that went away.
	readerIdleMax = 30 * time.Second
)

// EventQuery selects events. The zero value is the whole history.
type EventQuery struct {
	Plugin, Type string // empty: any
	// Since is the time, After the sequence, to begin after.
	Since time.Time
	After uint64
	// Follow goes on with what happens from now on, until ctx ends.
	Follow bool
	// NoHistory skips what was before the call. Only with Follow.
	NoHistory bool
	// Gap, if not nil, is told when the place After is not kept, instead of
	// ErrNotFound; reading goes on after the sequence it is given.
	Gap func(after uint64)
}

// Events reads the history and then, with Follow, what happens, without gap or
// repeat. An error is the last thing it yields: ErrNotFound when the place After
// is no longer kept, ErrUnavailable when the bus is down. It ends without one
// when ctx ends.
func (b *Bus) Events(ctx context.Context, q EventQuery) iter.Seq2[plugin.Event, error] {
	return func(yield func(plugin.Event, error) bool) {
		for item, err := range b.EventItems(ctx, q) {
			if err != nil {
				yield(plugin.Event{}, err)
				return
			}
			if !yield(item.Event, nil) {
				return
			}
		}
	}
}

// EventItems is Events with the JSON of each: what is live is encoded once for
// all readers.
func (b *Bus) EventItems(ctx context.Context, q EventQuery) iter.Seq2[*Item, error] {
	return func(yield func(*Item, error) bool) {
		r := eventReader{bus: b, ctx: ctx, q: q, since: q.Since, began: time.Now(), yield: yield, stream: b.hub.streamNow(), early: earlyIDs{}}
		if err := r.run(); err != nil && ctx.Err() == nil {
			yield(nil, err)
		}
	}
}

// eventReader is one call of EventItems.
type eventReader struct {
	bus    *Bus
	ctx    context.Context
	q      EventQuery
	since  time.Time // of the query: holds for what is live, too
	began  time.Time
	yield  func(*Item, error) bool
	done   bool   // yield has had enough
	place  uint64 // of the last live event
	stream uint64 // hub.stream of q.After
	early  earlyIDs
}

// give hands on an event that is wanted and was not given before it was stored.
func (r *eventReader) give(item *Item) {
	e := &item.Event
	switch {
	case e.Time.Before(r.since) && e.Time.Before(r.since.Add(-setBack(r.began))):
		return
	case e.Sequence == 0:
		r.early.add(e)
	case r.early.had(e):
		return
	}
	r.done = !r.yield(item, nil)
}

// setBack is how far the clock was set back since a time that it gave.
func setBack(since time.Time) time.Duration {
	now := time.Now()
	return max(0, now.Sub(since)-now.Round(0).Sub(since.Round(0)))
}

// earlyIDs are the events that a reader was given before they were stored, at most
// as many as can wait for that. It may come across them again in the history.
type earlyIDs map[earlyID]struct{}

type earlyID struct{ source, id string }

func (s earlyIDs) add(e *plugin.Event) {
	if len(s) < eventsPendingMax {
		s[earlyID{e.Source, e.ID}] = struct{}{}
	}
}

// had reports whether a stored event was given early, and forgets it.
func (s earlyIDs) had(e *plugin.Event) bool {
	id := earlyID{e.Source, e.ID}
	_, ok := s[id]
	delete(s, id)
	return ok
}

func (r *eventReader) run() error {
	if !r.q.Follow {
		return r.history(0)
	}
	for {
		f, last := r.bus.hub.follow(r.q.Plugin, r.q.Type, r.place)
		if f.stream != r.stream { // sequences begin anew, and so does the reader
			r.stream, r.q.After, r.q.NoHistory = f.stream, 0, false
		}
		err := r.join(f, last)
		r.bus.hub.leave(f)
		switch {
		case err != nil || r.done || r.ctx.Err() != nil:
			return err
		case r.bus.hub.isClosed():
			return fmt.Errorf("events: %w: the bus is closing", plugin.ErrUnavailable)
		}
		// It fell behind: what it missed is history now.
	}
}

// join reads the history up to where the follower begins, and then follows. It
// returns without an error when the follower fell behind.
func (r *eventReader) join(f *follower, last uint64) error {
	if r.q.NoHistory {
		r.q.NoHistory, r.q.After = false, last
	} else if r.q.After != last || last == 0 {
		if err := r.history(last); err != nil || r.done {
			return err
		}
	}
	r.q.After = max(r.q.After, last)
	for {
		select {
		case item, ok := <-f.items:
			if !ok {
				return nil
			}
			r.place = max(r.place, item.place)
			if n := item.Event.Sequence; n != 0 && n <= r.q.After {
				continue
			}
			r.q.After = max(r.q.After, item.Event.Sequence)
			if r.give(item); r.done {
				return nil
			}
			if item.Event.Sequence != 0 {
				clear(r.early) // what was given before it is stored before it, or lost
			}
		case <-r.ctx.Done():
			return nil
		}
	}
}

// history yields what is stored, up to the sequence last; 0: to the end.
func (r *eventReader) history(last uint64) error {
	if last == 0 && r.q.Follow { // nothing was ever stored
		switch {
		case r.q.After == 0:
			return nil
		case r.q.Gap == nil:
			return gone(streamEvents, r.q.After, 1)
		}
		r.q.After = 0
		r.q.Gap(0)
		return nil
	}
	read := reading{stream: streamEvents, filter: eventFilter(r.q.Plugin, r.q.Type), after: r.q.After, since: r.q.Since, last: last}
	if r.q.Gap != nil {
		read.gap = func(after uint64) {
			r.q.After = after
			r.q.Gap(after)
		}
	}
	err := r.bus.read(r.ctx, read, func(m jetstream.Msg, at uint64) bool {
		e := readMessage(m.Headers(), m.Data(), at)
		r.q.After = at
		r.give(newItem(e))
		return !r.done
	})
	r.q.Since = time.Time{} // a second round goes by sequence
	return err
}

// reading is a walk through part of a stream.
type reading struct {
	stream      string
	filter      string
	filters     []string // several instead of filter
	after       uint64   // exclusive; 0: from the first
	since       time.Time
	last        uint64 // inclusive; 0: to what is the end at the start
	within      uint64 // must still be kept; 0: after must
	headersOnly bool
	gap         func(after uint64) // instead of an error: the place is not kept, and after is the next best
}

// read calls each with the messages in order, until it returns false.
func (b *Bus) read(ctx context.Context, r reading, each func(m jetstream.Msg, sequence uint64) bool) error {
	select {
	case b.readers <- struct{}{}:
		defer func() { <-b.readers }()
	case <-ctx.Done():
		return ctx.Err()
	}
	s, err := b.js[control].Stream(ctx, r.stream)
	if err != nil {
		return unavailable("history", err)
	}
	state := s.CachedInfo().State
	place := max(r.after, r.within)
	if place > 0 && (place+1 < state.FirstSeq || place > state.LastSeq) {
		if r.gap == nil {
			return gone(r.stream, place, state.FirstSeq)
		}
		r.after, r.within = b.nextBest(r.stream, place, state), 0
		r.gap(r.after)
	}
	if r.last == 0 || r.last > state.LastSeq {
		r.last = state.LastSeq
	}
	if r.last == 0 || r.after >= r.last {
		return nil
	}
	return b.walk(ctx, s, r, each)
}

// nextBest is where to go on after a place that is not kept: after what is too old to
// be kept, or, when the stream ends before it because a daemon or a server was killed,
// with everything that has come since.
func (b *Bus) nextBest(stream string, place uint64, state jetstream.StreamState) (after uint64) {
	after = max(state.FirstSeq, 1) - 1
	if place <= state.LastSeq {
		return after
	}
	since := b.beginnings[stream].Load()
	if since > state.LastSeq { // it was made anew
		return after
	}
	return max(after, since)
}

func (b *Bus) walk(ctx context.Context, s jetstream.Stream, r reading, each func(jetstream.Msg, uint64) bool) error {
	c, err := s.CreateConsumer(ctx, r.consumer())
	if err != nil {
		return unavailable("history", err)
	}
	defer b.dropConsumer(s, c)
	left := c.CachedInfo().NumPending
	for expect := uint64(1); left > 0; {
		batch, err := c.FetchNoWait(readBatch)
		if err != nil {
			return unavailable("history", err)
		}
		got := 0
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil || meta.Sequence.Consumer != expect {
				return fmt.Errorf("history: %w: the link broke", plugin.ErrUnavailable)
			}
			got, expect, left = got+1, expect+1, meta.NumPending
			if meta.Sequence.Stream > r.last || !each(m, meta.Sequence.Stream) || meta.Sequence.Stream == r.last {
				return nil
			}
		}
		if err := batch.Error(); err != nil && !errors.Is(err, jetstream.ErrNoMessages) {
			return unavailable("history", err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if got == 0 {
			return atEnd(ctx, c)
		}
	}
	return nil
}

// atEnd is for a reader who got nothing more: what was left may have been too old
// to be kept.
func atEnd(ctx context.Context, c jetstream.Consumer) error {
	info, err := c.Info(ctx)
	switch {
	case err != nil:
		return unavailable("history", err)
	case info.NumPending > 0:
		return fmt.Errorf("history: %w: it ended before its end", plugin.ErrUnavailable)
	}
	return nil
}

func (r reading) consumer() jetstream.ConsumerConfig {
	c := jetstream.ConsumerConfig{
		FilterSubject: r.filter, FilterSubjects: r.filters, AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true,
		InactiveThreshold: readerIdleMax, Replicas: 1, DeliverPolicy: jetstream.DeliverAllPolicy,
		HeadersOnly: r.headersOnly,
	}
	switch {
	case r.after > 0:
		c.DeliverPolicy, c.OptStartSeq = jetstream.DeliverByStartSequencePolicy, r.after+1
	case !r.since.IsZero():
		c.DeliverPolicy, c.OptStartTime = jetstream.DeliverByStartTimePolicy, &r.since
	}
	return c
}

// dropConsumer spares the server the wait until it notices by itself.
func (b *Bus) dropConsumer(s jetstream.Stream, c jetstream.Consumer) {
	ctx, cancel := context.WithTimeout(b.ctx, time.Second)
	defer cancel()
	_ = s.DeleteConsumer(ctx, c.CachedInfo().Name) // it goes by itself after readerIdleMax
}
