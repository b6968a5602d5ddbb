package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// valuesBucket has the plugins' own keys and values, under <plugin>.<key>. It is made
// when a plugin first writes.
const valuesBucket = "patchbay-values"

const valuesStream, valuesSubject = "KV_" + valuesBucket, "$KV." + valuesBucket + "."

// values are the plugins' own keys and values. This daemon is the only one to write
// them, so that it may know the keys: see the lease.
type values struct {
	store *Store

	mu     sync.Mutex
	kv     jetstream.KeyValue // nil until the bucket is there
	spaces map[string]*space
}

// space is what is kept of one plugin.
type space struct {
	turn chan struct{} // holds one token: whoever has it may read and change the rest
	// keys has the bytes of each key and its value; nil: not known.
	keys  map[string]int
	bytes int
	// doomed: all of it is of a plugin that was deleted.
	doomed atomic.Bool
}

// Values returns a plugin's own keys and values.
func (s *Store) Values(name string) plugin.Values { return spaceOf{s.values, name} }

type spaceOf struct {
	all  *values
	name string
}

// of returns a plugin's space.
func (v *values) of(name string) *space {
	v.mu.Lock()
	defer v.mu.Unlock()
	one := v.spaces[name]
	if one == nil {
		one = &space{turn: make(chan struct{}, 1)}
		one.turn <- struct{}{}
		v.spaces[name] = one
	}
	return one
}

// take waits for the turn of a plugin's space. What is left of a plugin that was
// deleted is removed first.
func (v *values) take(ctx context.Context, name string) (*space, error) {
	one := v.of(name)
	select {
	case <-one.turn:
	case <-ctx.Done():
		return nil, fmt.Errorf("values: %w: %w", plugin.ErrDeadline, ctx.Err())
	}
	if one.doomed.Load() {
		if err := v.purge(ctx, valuesSubject+name+".>"); err != nil {
			one.leave()
			return nil, err
		}
		one.keys = nil
		one.doomed.Store(false)
	}
	return one, nil
}

func (s *space) leave() { s.turn <- struct{}{} }

// bucket returns the bucket, or nil if it was never made.
func (v *values) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.kv != nil {
		return v.kv, nil
	}
	kv, err := v.store.bus.JetStream().KeyValue(ctx, valuesBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, valuesFailed(err)
	}
	v.kv = kv
	return kv, nil
}

// made returns the bucket, and makes it when it is not there.
func (v *values) made(ctx context.Context) (jetstream.KeyValue, error) {
	if kv, err := v.bucket(ctx); kv != nil || err != nil {
		return kv, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var err error
	v.kv, err = v.store.bus.KeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: valuesBucket, Description: "Keys and values of the plugins' own.", History: 1, Storage: jetstream.FileStorage,
	})
	return v.kv, err
}

// know reads which keys there are, once.
func (v *values) know(ctx context.Context, name string, one *space) error {
	if one.keys != nil {
		return nil
	}
	kv, err := v.bucket(ctx)
	if err != nil {
		return err
	}
	keys, total := map[string]int{}, 0
	if kv != nil {
		err = readAll(ctx, kv, name+".>", func(u jetstream.KeyValueEntry) {
			key := unescaped(strings.TrimPrefix(u.Key(), name+"."))
			keys[key] = len(key) + len(u.Value())
			total += keys[key]
		})
	}
	if err == nil {
		one.keys, one.bytes = keys, total
	}
	return err
}

// readAll hands what matches a pattern, and is not deleted, to each.
func readAll(ctx context.Context, kv jetstream.KeyValue, pattern string, each func(jetstream.KeyValueEntry)) error {
	ctx, cancel := context.WithCancel(ctx)
	w, err := kv.Watch(ctx, pattern, jetstream.IgnoreDeletes())
	if err != nil {
		cancel()
		return valuesFailed(err)
	}
	reading := &watch{w, cancel}
	defer reading.stop()
	for {
		select {
		case u, ok := <-w.Updates():
			switch {
			case !ok:
				return fmt.Errorf("values: %w: the watch broke", plugin.ErrUnavailable)
			case u == nil:
				return nil
			}
			each(u)
		case <-ctx.Done():
			return valuesFailed(ctx.Err())
		}
	}
}

// Get returns the value of a key.
func (s spaceOf) Get(ctx context.Context, key string) ([]byte, error) {
	if err := checkValueKey(key); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, writeMax)
	defer cancel()
	one, err := s.all.take(ctx, s.name)
	if err != nil {
		return nil, err
	}
	defer one.leave()
	kv, err := s.all.bucket(ctx)
	if err != nil {
		return nil, err
	}
	if kv == nil {
		return nil, fmt.Errorf("key %.100q: %w", key, plugin.ErrNotFound)
	}
	e, err := kv.Get(ctx, s.name+"."+escaped(key))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, fmt.Errorf("key %.100q: %w", key, plugin.ErrNotFound)
	}
	if err != nil {
		return nil, valuesFailed(err)
	}
	return e.Value(), nil
}

// Put sets the value of a key, if there is room.
func (s spaceOf) Put(ctx context.Context, key string, value []byte) error {
	if err := checkValueKey(key); err != nil {
		return err
	}
	if len(value) > plugin.ValueBytesMax {
		return fmt.Errorf("key %.100q: %w: its value has %d bytes, at most %d", key, plugin.ErrInvalid, len(value), plugin.ValueBytesMax)
	}
	return s.change(ctx, func(ctx context.Context, one *space) error {
		size, was := len(key)+len(value), one.keys[key]
		switch {
		case was == 0 && len(one.keys) >= plugin.ValueKeysMax:
			return fmt.Errorf("key %.100q: %w: the plugin has %d keys, at most %d", key, plugin.ErrBusy, len(one.keys), plugin.ValueKeysMax)
		case one.bytes-was+size > plugin.ValuesBytesMaxEach:
			return fmt.Errorf("key %.100q: %w: keys and values would have %d bytes, at most %d", key, plugin.ErrBusy, one.bytes-was+size, plugin.ValuesBytesMaxEach)
		}
		kv, err := s.all.made(ctx)
		if err != nil {
			return err
		}
		if _, err := kv.Put(ctx, s.name+"."+escaped(key), value); err != nil {
			one.keys = nil // who knows what was written
			return valuesFailed(err)
		}
		one.keys[key] = size
		one.bytes += size - was
		return nil
	})
}

// Delete removes a key.
func (s spaceOf) Delete(ctx context.Context, key string) error {
	if err := checkValueKey(key); err != nil {
		return err
	}
	return s.change(ctx, func(ctx context.Context, one *space) error {
		was, ok := one.keys[key]
		if !ok {
			return nil
		}
		kv, err := s.all.made(ctx)
		if err != nil {
			return err
		}
		// First a mark, which is synced and so survives a power cut, then all of it: marks
		// that stay would make a bucket of what is long gone.
		at := s.name + "." + escaped(key)
		if err = kv.Purge(ctx, at); err != nil {
			one.keys = nil
			return valuesFailed(err)
		}
		delete(one.keys, key)
		one.bytes -= was
		return s.all.purge(ctx, valuesSubject+at)
	})
}

// List returns the keys with a prefix.
func (s spaceOf) List(ctx context.Context, prefix string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, writeMax)
	defer cancel()
	one, err := s.all.take(ctx, s.name)
	if err != nil {
		return nil, err
	}
	defer one.leave()
	if err := s.all.know(ctx, s.name, one); err != nil {
		return nil, err
	}
	var keys []string
	for key := range one.keys {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

// change makes one change of a plugin that is applied: what one that is deleted
// still writes would be found by the next of that name.
func (s spaceOf) change(ctx context.Context, do func(context.Context, *space) error) error {
	ctx, cancel := context.WithTimeout(ctx, writeMax)
	defer cancel()
	one, err := s.all.take(ctx, s.name)
	if err != nil {
		return err
	}
	defer one.leave()
	if _, applied := s.all.store.Get(s.name); !applied {
		return fmt.Errorf("plugin %s: %w: it was deleted, and its keys and values with it", s.name, plugin.ErrNotFound)
	}
	if err := s.all.know(ctx, s.name, one); err != nil {
		return err
	}
	return do(ctx, one)
}

// drop removes all of a plugin that was deleted, now or before it is used again.
func (v *values) drop(ctx context.Context, name string) {
	kv, err := v.bucket(ctx)
	v.mu.Lock()
	_, used := v.spaces[name]
	v.mu.Unlock()
	if kv == nil && err == nil && !used {
		return
	}
	v.of(name).doomed.Store(true)
	one, err := v.take(ctx, name)
	if err != nil {
		v.store.bus.Log().Warn("what a deleted plugin kept is not removed yet", "plugin", name, "error", err)
		return
	}
	one.leave()
}

// sweep removes what is left of plugins that are not applied: their deletion was
// interrupted.
func (v *values) sweep(ctx context.Context) error {
	if kv, err := v.bucket(ctx); kv == nil {
		return err
	}
	stream, err := v.store.bus.JetStream().Stream(ctx, valuesStream)
	if err != nil {
		return valuesFailed(err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(valuesSubject+">"))
	if err != nil {
		return valuesFailed(err)
	}
	orphans := map[string]bool{}
	for subject := range info.State.Subjects {
		name, _, _ := strings.Cut(strings.TrimPrefix(subject, valuesSubject), ".")
		if _, applied := v.store.Get(name); !applied {
			orphans[name] = true
		}
	}
	for name := range orphans {
		if err := v.purge(ctx, valuesSubject+name+".>"); err != nil {
			return err
		}
	}
	return nil
}

// purge removes all messages of a subject.
func (v *values) purge(ctx context.Context, subject string) error {
	stream, err := v.store.bus.JetStream().Stream(ctx, valuesStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err == nil {
		err = stream.Purge(ctx, jetstream.WithPurgeSubject(subject))
	}
	if err != nil {
		return valuesFailed(err)
	}
	return nil
}

func valuesFailed(err error) error {
	if errors.Is(err, nats.ErrMaxPayload) {
		return fmt.Errorf("values: %w: the value is larger than the bus takes", plugin.ErrInvalid)
	}
	return fmt.Errorf("values: %w: %w", plugin.ErrUnavailable, err)
}

func checkValueKey(key string) error {
	if key == "" || len(key) > plugin.ValueKeyBytesMax {
		return fmt.Errorf("key %.100q: %w: it has %d bytes; want 1 to %d", key, plugin.ErrInvalid, len(key), plugin.ValueKeyBytesMax)
	}
	return nil
}

// escaped makes any key one part of a subject: other bytes than letters, digits, -,
// _ and / become =XX.
func escaped(key string) string {
	var b strings.Builder
	for i := range len(key) {
		switch c := key[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '/':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}

// unescaped undoes escaped.
func unescaped(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '=' && i+2 < len(text) {
			if c, err := strconv.ParseUint(text[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}
