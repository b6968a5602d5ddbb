package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// resyncEvery reads everything again even when nothing seems wrong, in case a
// change was missed; retryEvery, when the bus was down.
const resyncEvery, retryEvery = 5 * time.Minute, 500 * time.Millisecond

// Run keeps the cache by a watch, and the lease, until ctx ends. It reads everything
// again when the bus is up again, and every five minutes. An error means that another
// daemon has the lease.
func (s *Store) Run(ctx context.Context) error {
	if s.lease == nil {
		s.watchAll(ctx)
		return nil
	}
	ctx, end := context.WithCancel(ctx)
	lost := make(chan error, 1)
	go func() { // ends with ctx: waited for below
		defer end()
		lost <- s.lease.run(ctx)
	}()
	s.watchAll(ctx)
	return <-lost
}

func (s *Store) watchAll(ctx context.Context) {
	again := make(chan struct{}, 1)
	forget := s.bus.OnReconnect(func() {
		select {
		case again <- struct{}{}:
		default:
		}
	})
	defer forget()
	for {
		pause := time.Duration(0)
		if w, err := s.sync(ctx); err == nil {
			s.follow(ctx, w, again)
			w.stop()
		} else {
			pause = retryEvery
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// follow applies changes until it is time to read everything again.
func (s *Store) follow(ctx context.Context, w *watch, again <-chan struct{}) {
	resync := time.NewTimer(resyncEvery)
	defer resync.Stop()
	for {
		select {
		case u, ok := <-w.Updates():
			if !ok {
				return
			}
			if u != nil {
				s.seen(u)
			}
		case <-again:
			return
		case <-resync.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// sync starts a watch and reads all that is there; what the cache has and the
// bucket has not is gone.
func (s *Store) sync(ctx context.Context) (*watch, error) {
	before := s.revisions()
	w, err := s.watch(ctx)
	if err != nil {
		return nil, err
	}
	late := time.NewTimer(writeMax)
	defer late.Stop()
	for {
		select {
		case u, ok := <-w.Updates():
			switch {
			case !ok:
				w.stop()
				return nil, errors.New("the watch broke")
			case u == nil:
				s.forget(before)
				return w, nil
			}
			s.seen(u)
			delete(before, u.Key())
			late.Reset(writeMax)
		case <-late.C:
			w.stop()
			return nil, errors.New("the watch does not answer")
		case <-ctx.Done():
			w.stop()
			return nil, ctx.Err()
		}
	}
}

// watch is a KV watch and the context that it ends with: one that could not be
// cancelled would leave a goroutine behind.
type watch struct {
	jetstream.KeyWatcher
	cancel context.CancelFunc
}

func (s *Store) watch(ctx context.Context) (*watch, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // stop drains it in order
	w, err := s.kv.WatchAll(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	return &watch{w, cancel}, nil
}

// stop ends the watch. Its last updates are drained: their sender holds a lock that
// closing needs.
func (w *watch) stop() {
	defer w.cancel()
	_ = w.Stop() // fails when the connection is closed: then it has ended
	late := time.NewTimer(writeMax)
	defer late.Stop()
	for {
		select {
		case _, ok := <-w.Updates():
			if !ok {
				return
			}
		case <-late.C:
			return
		}
	}
}

func (s *Store) revisions() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]uint64, len(s.records))
	for name, e := range s.records {
		all[name] = e.Revision
	}
	return all
}

// forget drops what a whole reading did not find, unless it was written since.
func (s *Store) forget(missing map[string]uint64) {
	for name, revision := range missing {
		s.mu.Lock()
		e, ok := s.records[name]
		gone := ok && e.Revision == revision
		if gone {
			delete(s.records, name)
			s.changed(name)
		}
		s.mu.Unlock()
	}
}

// seen applies one update of the watch.
func (s *Store) seen(u jetstream.KeyValueEntry) {
	if !plugin.ValidName(u.Key()) {
		return // readiness, or something that is not ours
	}
	deleted := u.Operation() != jetstream.KeyValuePut
	if !deleted && s.has(u.Key(), u.Revision()) {
		return // a resync need not decode it again
	}
	e := &entry{Record: Record{Revision: u.Revision()}, deleted: deleted}
	if !deleted {
		e.Record = s.read(u)
	}
	s.apply(u.Key(), e, true)
}

// faultBytesMax bounds Record.Fault, which stands in statuses: the first faults tell.
const faultBytesMax = 1 << 10

// read makes a record of what is stored, whatever that is.
func (s *Store) read(u jetstream.KeyValueEntry) Record {
	r, err := s.decode(u.Value())
	if err == nil && r.Name() != u.Key() {
		err = fmt.Errorf("metadata.name: is %q; want %s", r.Name(), u.Key())
	}
	if err != nil {
		r.Fault = strings.ReplaceAll(err.Error(), "\n", "; ")
		r.Fault = strings.ToValidUTF8(r.Fault[:min(len(r.Fault), faultBytesMax)], "")
		r.Manifest.Metadata.Name = u.Key()
		if r.Desired == "" {
			r.Desired = plugin.DesiredRunning
		}
		s.bus.Log().Error("a stored manifest is not accepted", "plugin", u.Key(), "revision", u.Revision(), "why", r.Fault)
	}
	r.Revision = u.Revision()
	return r
}

func (s *Store) decode(data []byte) (r Record, err error) {
	var raw struct {
		Manifest plugin.RawJSON `json:"manifest"`
	}
	if err = json.Unmarshal(data, &r); err == nil {
		err = json.Unmarshal(data, &raw)
	}
	if err != nil {
		return Record{}, fmt.Errorf("it is no record in JSON: %w", err)
	}
	if r.Desired != plugin.DesiredRunning && r.Desired != plugin.DesiredStopped {
		return Record{}, fmt.Errorf("desired: is %q; want %s or %s", r.Desired, plugin.DesiredRunning, plugin.DesiredStopped)
	}
	if s.checks == nil {
		return r, nil
	}
	if err := s.checks(raw.Manifest); err != nil {
		r.Manifest = plugin.Manifest{} // the rest is the daemon's own, and kept
		return r, err
	}
	return r, nil
}

func (s *Store) has(name string, revision uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.records[name]
	return ok && e.Revision == revision
}

// apply puts what is newer into the cache. Only the watch may let go of a
// deletion: it will not bring up anything older.
func (s *Store) apply(name string, e *entry, fromWatch bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	have, ok := s.records[name]
	switch {
	case ok && have.Revision > e.Revision:
		return
	case e.deleted && fromWatch:
		delete(s.records, name)
		if !ok || have.deleted {
			return
		}
	case ok && have.Revision == e.Revision:
		return // our own write, seen before
	default:
		s.records[name] = e
	}
	s.changed(name)
}

// changed tells the watchers; s.mu is held.
func (s *Store) changed(name string) {
	s.sorted = nil
	for w := range s.watchers {
		w.dirty[name] = struct{}{}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// watcher collects names until its reader takes them.
type watcher struct {
	dirty map[string]struct{} // guarded by Store.mu
	wake  chan struct{}
}

// Watch gives the names of records that changed after the call, until ctx ends;
// then the channel is closed. A name that changes while it waits to be read is
// given once. Watch first and List then, and nothing is missed.
func (s *Store) Watch(ctx context.Context) <-chan string {
	w := &watcher{dirty: map[string]struct{}{}, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	s.watchers[w] = struct{}{}
	s.mu.Unlock()
	names := make(chan string)
	go func() { // ends with ctx
		defer close(names)
		defer s.unwatch(w)
		for s.hand(ctx, w, names) {
		}
	}()
	return names
}

func (s *Store) unwatch(w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watchers, w)
}

// hand waits for changes and gives them on.
func (s *Store) hand(ctx context.Context, w *watcher, names chan<- string) bool {
	select {
	case <-w.wake:
	case <-ctx.Done():
		return false
	}
	for {
		name, ok := s.next(w)
		if !ok {
			return true
		}
		select {
		case names <- name:
		case <-ctx.Done():
			return false
		}
	}
}

func (s *Store) next(w *watcher) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range w.dirty {
		delete(w.dirty, name)
		return name, true
	}
	return "", false
}
