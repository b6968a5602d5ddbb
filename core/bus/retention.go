package bus

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// logParts is in how many parts a plugin's log is dropped: a purge walks through
	// the stream's blocks, so it should be rare.
	logParts = 16
	// logPartsMax bounds the parts that are remembered while a purge is late.
	logPartsMax = 64
	// retainedMax bounds the plugins whose bytes are remembered. Another one is
	// counted anew when it prints.
	retainedMax = 4096
	// retainQueueMax: who does not fit asks again with the next batch.
	retainQueueMax = 256
	// msgSizeHeader is the size of a message of which only the headers are read.
	msgSizeHeader = "Nats-Msg-Size"
	// countMax bounds the count of one plugin's log: 2 GiB in the smallest batches
	// take a minute.
	countMax = 2 * time.Minute
	// crowdLooks is how often the log's subjects are counted while so many batches are
	// stored as it may have subjects: by so much there may be more for a moment.
	crowdLooks = 64
	// crowdPart of all batches is dropped at once when there are too many subjects: the
	// oldest of all plugins.
	crowdPart = 16
)

// retention keeps each plugin's log within its own bytes (spec.logs.maxSize). What
// is stored is counted here, by plugin and in parts; what an earlier daemon
// stored is counted once, when the plugin first prints. The publisher never waits
// for it.
type retention struct {
	mu      sync.Mutex
	plugins map[string]*retained
	work    chan string
	crowd   chan struct{} // holds one token when the log's subjects are to be counted
}

// retained is what one plugin has in the log.
type retained struct {
	max, bytes int64
	parts      []logPart // oldest first
	first      uint64    // the first batch that was counted as it was stored
	counted    bool      // and so is all before
	queued     bool      // in work
}

// logPart is batches from one sequence on.
type logPart struct {
	from  uint64
	bytes int64
}

func (r *retention) init() {
	r.plugins, r.work = map[string]*retained{}, make(chan string, retainQueueMax)
	r.crowd = make(chan struct{}, 1)
	r.look() // at what an earlier daemon left
}

// look has the log's subjects counted. It returns at once.
func (r *retention) look() {
	select {
	case r.crowd <- struct{}{}:
	default:
	}
}

// stored counts a batch; max is what the plugin may keep, 0 for no limit of its
// own.
func (r *retention) stored(name string, sequence uint64, size int, max int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.plugins[name]
	switch {
	case max <= 0:
		delete(r.plugins, name)
		return
	case k == nil:
		k = &retained{first: sequence}
		r.add(name, k)
	}
	k.max = max
	k.append(sequence, int64(size))
	if k.queued || k.counted && k.bytes <= k.max {
		return
	}
	select {
	case r.work <- name:
		k.queued = true
	default:
	}
}

// add remembers one plugin more, and forgets another if there are too many. The
// caller holds mu.
func (r *retention) add(name string, k *retained) {
	for other := range r.plugins {
		if len(r.plugins) < retainedMax {
			break
		}
		delete(r.plugins, other)
	}
	r.plugins[name] = k
}

func (k *retained) append(sequence uint64, size int64) {
	k.bytes += size
	n := len(k.parts)
	if n == 0 || n < logPartsMax && k.parts[n-1].bytes+size > k.max/logParts && sequence > k.parts[n-1].from {
		k.parts = append(k.parts, logPart{from: sequence, bytes: size})
		return
	}
	k.parts[n-1].bytes += size
}

// excess takes the oldest parts out of what is too much, and returns the sequence
// of the first batch to be kept; 0 when nothing is too much.
func (r *retention) excess(name string) (keep uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.plugins[name]
	if k == nil {
		return 0
	}
	k.queued = false
	for k.bytes > k.max && len(k.parts) > 1 {
		k.bytes -= k.parts[0].bytes
		k.parts = k.parts[1:]
		keep = k.parts[0].from
	}
	return keep
}

// uncounted returns the batch before which the plugin's log is to be counted, 0
// when it is.
func (r *retention) uncounted(name string) (before uint64, max int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := r.plugins[name]; k != nil && !k.counted {
		return k.first, k.max
	}
	return 0, 0
}

// count puts what was found in front of what was stored since.
func (r *retention) count(name string, found *retained) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := r.plugins[name]; k != nil && !k.counted {
		k.counted = true
		k.bytes += found.bytes
		k.parts = append(found.parts, k.parts...)
	}
}

// forget has a plugin counted anew.
func (r *retention) forget(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.plugins, name)
}

// retain counts and purges, one plugin at a time, until the bus closes.
func (b *Bus) retain() {
	for {
		select {
		case <-b.stopping:
			return
		case <-b.retention.crowd:
			if err := b.thin(); err != nil && b.ctx.Err() == nil {
				b.o.Log.Warn("the log may be of too many instances; it is looked at again", "why", err)
			}
		case name := <-b.retention.work:
			if err := b.retainOne(name); err != nil && b.ctx.Err() == nil {
				b.retention.forget(name)
				b.o.Log.Warn("a plugin's log is larger than spec.logs.maxSize; it is tried again", "plugin", name, "why", err)
			}
		}
	}
}

func (b *Bus) retainOne(name string) error {
	ctx, cancel := context.WithTimeout(b.ctx, countMax)
	defer cancel()
	if err := b.countLog(ctx, name); err != nil {
		return err
	}
	keep := b.retention.excess(name)
	if keep == 0 {
		return nil
	}
	s, err := b.js[control].Stream(ctx, streamLogs)
	if err != nil {
		return unavailable("purge", err)
	}
	err = s.Purge(ctx, jetstream.WithPurgeSubject(logFilter(name, "", "")), jetstream.WithPurgeSequence(keep))
	if err != nil {
		return unavailable("purge", err)
	}
	return nil
}

// countLog counts what an earlier daemon stored of a plugin; only the headers of
// the messages are read.
func (b *Bus) countLog(ctx context.Context, name string) error {
	before, max := b.retention.uncounted(name)
	if before == 0 {
		return nil
	}
	found := &retained{max: max}
	if before > 1 {
		r := reading{stream: streamLogs, filter: logFilter(name, "", ""), last: before - 1, headersOnly: true}
		err := b.read(ctx, r, func(m jetstream.Msg, at uint64) bool {
			size, _ := strconv.ParseInt(m.Headers().Get(msgSizeHeader), 10, 64)
			found.append(at, size)
			select {
			case <-b.stopping:
				return false
			default:
				return true
			}
		})
		if err != nil {
			return err
		}
	}
	b.retention.count(name, found)
	return nil
}

// thin drops the oldest of the log when it has too many subjects, and asks to be
// called again.
func (b *Bus) thin() error {
	ctx, cancel := context.WithTimeout(b.ctx, requestMax)
	defer cancel()
	s, err := b.js[control].Stream(ctx, streamLogs)
	if err != nil {
		return unavailable("subjects of the log", err)
	}
	state := s.CachedInfo().State
	if state.NumSubjects <= b.o.logSubjects {
		return nil
	}
	b.o.Log.Warn("the oldest log lines are dropped: too many instances have printed", "subjects", state.NumSubjects, "max", b.o.logSubjects)
	keep := state.FirstSeq + (state.LastSeq-state.FirstSeq)/crowdPart + 1
	if err := s.Purge(ctx, jetstream.WithPurgeSequence(keep)); err != nil {
		return unavailable("purge", err)
	}
	b.retention.look()
	return nil
}
