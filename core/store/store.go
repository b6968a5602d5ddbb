// Package store keeps what users want: one record per plugin in a JetStream KV
// bucket, with a revision for compare-and-set and the last 64 writes as history. Beside
// it is what plugins keep themselves (values.go), in a bucket of its own.
//
// It promises: a Put or Delete that returned nil is on disk (the embedded server
// syncs before it acknowledges; an external one does what its operator chose) and
// seen by Get and List of this daemon. Reads come from a cache, so they are cheap
// and go on while the bus is down; writes then fail with ErrUnavailable and change
// nothing that can be seen here. Of a write whose answer was lost the store
// itself decides: the cache follows it. Watch is level-triggered: it says that a
// name changed, at least once after its last change, not how often.
//
// With an external server one daemon at a time has the lease on the bucket: two would
// run every plugin twice.
//
// It owns the buckets and the cache, and no goroutine but those of Run and Watch.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/bus"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	bucket = "patchbay-desired"
	// historyMax writes of each record are kept, to look back and roll back: the most
	// that the bus keeps.
	historyMax = jetstream.KeyValueMaxHistory
	// writeMax bounds one write: a sync takes milliseconds, a new leader of a
	// cluster a few seconds.
	writeMax = 5 * time.Second
	// checkMax bounds a check, so that readiness answers in time.
	checkMax = 2 * time.Second
	// checkKey is what readiness writes; no plugin can have that name.
	checkKey = "_check"
	// checkTriesMax: other daemons of the same bucket check, too.
	checkTriesMax = 5
)

// Record is what is wanted of one plugin. Its own fields that a newer daemon wrote are
// ignored; those of the manifest are a fault.
type Record struct {
	Manifest   plugin.Manifest `json:"manifest"`
	Generation int64           `json:"generation"`
	Desired    plugin.Desired  `json:"desired"`
	// Restart counts the requests to restart.
	Restart int64 `json:"restart,omitempty"`
	// Reload counts the requests to reload.
	Reload int64 `json:"reload,omitempty"`
	// Pin is set while the spec must not change.
	Pin *plugin.Pin `json:"pin,omitempty"`
	// Revision is the bucket's, and the ETag. It is not stored in the record.
	Revision uint64 `json:"-"`
	// Fault is why this daemon does not accept what is stored: an older or a newer one
	// wrote it, or somebody else. The manifest then may have no more than its name, and
	// must not be written back.
	Fault string `json:"-"`
}

// Name is the plugin's.
func (r Record) Name() string { return r.Manifest.Metadata.Name }

// Expect is what a writer believes to find. The zero value is Any.
type Expect struct {
	// Absent: there is no record.
	Absent bool
	// Revision: the record has this one; 0: any.
	Revision uint64
}

// Any overwrites whatever is there.
func Any() Expect { return Expect{} }

// Absent expects that there is no record.
func Absent() Expect { return Expect{Absent: true} }

// At expects the record of that revision.
func At(revision uint64) Expect { return Expect{Revision: revision} }

// Store is safe for concurrent use. Records are shared: do not change what their
// manifests point to.
type Store struct {
	bus    *bus.Bus
	kv     jetstream.KeyValue
	checks func(manifest []byte) error
	lease  *lease // nil: not needed
	values *values

	mu       sync.Mutex
	records  map[string]*entry // replaced, never changed
	sorted   []*Record         // nil: to be made again
	watchers map[*watcher]struct{}
}

// entry is a record, or, until the watch has seen it too, that it was deleted.
type entry struct {
	Record
	deleted bool
}

// Options are what a store is given.
type Options struct {
	// Check says what is wrong with a manifest that was stored; nil: nothing ever is.
	Check func(manifest []byte) error
	// Node and Folder, the data folder, which the caller has locked, are whose store it
	// is; "" for one that runs nothing.
	Node, Folder string
}

// Open opens the bucket, creates it when it is not there, takes the lease on it (see
// lease.go) and reads all records. ErrConflict: another daemon has the lease.
func Open(ctx context.Context, b *bus.Bus, o Options) (*Store, error) {
	kv, err := b.KeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: bucket, Description: "What users want of each plugin.", History: historyMax, Storage: jetstream.FileStorage,
	})
	if err != nil {
		return nil, err
	}
	s := &Store{bus: b, kv: kv, checks: o.Check, records: map[string]*entry{}, watchers: map[*watcher]struct{}{}}
	s.values = &values{store: s, spaces: map[string]*space{}}
	if o.Folder != "" && !b.Embedded() {
		if s.lease, err = s.takeLease(ctx, o.Node, o.Folder, leaseEvery, leaseMax); err != nil {
			return nil, err
		}
	}
	w, err := s.sync(ctx)
	if err != nil {
		return nil, fmt.Errorf("store: %w: %w", plugin.ErrUnavailable, err)
	}
	w.stop()
	return s, s.values.sweep(ctx)
}

// Get returns the record of a name.
func (s *Store) Get(name string) (Record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.records[name]
	if !ok || e.deleted {
		return Record{}, false
	}
	return e.Record, true
}

// List returns all records, sorted by name. They are shared: do not change them,
// nor the slice.
func (s *Store) List() []*Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sorted == nil {
		s.sorted = make([]*Record, 0, len(s.records))
		for _, e := range s.records {
			if !e.deleted {
				s.sorted = append(s.sorted, &e.Record)
			}
		}
		slices.SortFunc(s.sorted, func(a, b *Record) int { return strings.Compare(a.Name(), b.Name()) })
	}
	return s.sorted
}

// Put writes a record and returns it with its revision. ErrConflict: there is
// something else than expected.
func (s *Store) Put(ctx context.Context, r Record, expect Expect) (Record, error) {
	name := r.Name()
	if !plugin.ValidName(name) {
		return Record{}, fmt.Errorf("record: %w: %q is not a plugin's name", plugin.ErrInvalid, name)
	}
	data, err := json.Marshal(r)
	if err != nil {
		return Record{}, fmt.Errorf("record %s: %w: %w", name, plugin.ErrInvalid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, writeMax)
	defer cancel()
	switch {
	case expect.Absent:
		r.Revision, err = s.kv.Create(ctx, name, data)
	case expect.Revision > 0:
		r.Revision, err = s.kv.Update(ctx, name, data, expect.Revision)
	default:
		r.Revision, err = s.kv.Put(ctx, name, data)
	}
	if err != nil {
		return Record{}, failure(name, err)
	}
	s.apply(name, &entry{Record: r}, false)
	return r, nil
}

// Delete removes a record; its history stays, the plugin's own values (see Values) do
// not: what the bus does not remove now is gone before a plugin of that name sees it.
// ErrNotFound: there is no record.
func (s *Store) Delete(ctx context.Context, name string, expect Expect) error {
	have, ok := s.Get(name)
	if !ok {
		return fmt.Errorf("plugin %s: %w", name, plugin.ErrNotFound)
	}
	if expect.Absent || expect.Revision > 0 && expect.Revision != have.Revision {
		return fmt.Errorf("plugin %s: %w: it has revision %d", name, plugin.ErrConflict, have.Revision)
	}
	ctx, cancel := context.WithTimeout(ctx, writeMax)
	defer cancel()
	revision, err := s.mark(ctx, name, expect)
	if err != nil {
		return failure(name, err)
	}
	s.apply(name, &entry{Record: Record{Revision: revision}, deleted: true}, false)
	s.values.drop(ctx, name)
	return nil
}

// mark writes what KeyValue.Delete writes, and, unlike that, tells the revision.
func (s *Store) mark(ctx context.Context, name string, expect Expect) (uint64, error) {
	m := &nats.Msg{Subject: "$KV." + bucket + "." + name, Header: nats.Header{"KV-Operation": []string{"DEL"}}}
	var opts []jetstream.PublishOpt
	if expect.Revision > 0 {
		opts = append(opts, jetstream.WithExpectLastSequencePerSubject(expect.Revision))
	}
	ack, err := s.bus.JetStream().PublishMsg(ctx, m, opts...)
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// failure gives an error of the bus its class.
func failure(name string, err error) error {
	var api *jetstream.APIError
	switch {
	case errors.Is(err, jetstream.ErrKeyExists):
		return fmt.Errorf("plugin %s: %w: somebody else wrote it; read it again", name, plugin.ErrConflict)
	case errors.Is(err, jetstream.ErrKeyRevisionMismatch),
		errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant):
		return fmt.Errorf("plugin %s: %w: somebody else changed it; read it again", name, plugin.ErrConflict)
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("plugin %s: %w: the record is larger than the bus takes", name, plugin.ErrInvalid)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("plugin %s: %w: the bus did not answer in time", name, plugin.ErrUnavailable)
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionReconnecting):
		return fmt.Errorf("plugin %s: %w: the bus is down: %w", name, plugin.ErrUnavailable, err)
	}
	return fmt.Errorf("plugin %s: %w: the bus refused it: %w", name, plugin.ErrUnavailable, err)
}

// Check writes to the bucket by compare-and-set, as Put does, and reads back, for
// readiness, until ctx ends and for at most two seconds.
func (s *Store) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkMax)
	defer cancel()
	var err error
	for range checkTriesMax {
		if err = s.check(ctx); !errors.Is(err, jetstream.ErrKeyRevisionMismatch) && !errors.Is(err, jetstream.ErrKeyExists) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("bucket %s: %w: %w", bucket, plugin.ErrUnavailable, err)
	}
	return nil
}

func (s *Store) check(ctx context.Context) error {
	text := strconv.FormatInt(time.Now().UnixNano(), 10)
	was, err := s.kv.Get(ctx, checkKey)
	var revision uint64
	switch {
	case err == nil:
		revision, err = s.kv.Update(ctx, checkKey, []byte(text), was.Revision())
	case errors.Is(err, jetstream.ErrKeyNotFound):
		revision, err = s.kv.Create(ctx, checkKey, []byte(text))
	}
	if err != nil {
		return err
	}
	back, err := s.kv.GetRevision(ctx, checkKey, revision)
	if err == nil && string(back.Value()) != text {
		err = errors.New("read something else than was written")
	}
	return err
}
