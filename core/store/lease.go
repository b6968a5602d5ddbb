package store

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/bus"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// leaseKey is where the holder stands; no plugin can have that name.
	leaseKey = "_lease"
	// leaseEvery is how often a lease is renewed, leaseMax how long one that is not
	// renewed is respected: a restart of NATS takes seconds.
	leaseEvery, leaseMax = 5 * time.Second, 20 * time.Second
)

// leaseHolder is who holds a lease. Its folder is locked by one process at a time: whoever
// has it knows that an earlier holder on it is gone.
type leaseHolder struct {
	Node string `json:"node"`
	Host string `json:"host"`
	Pid  int    `json:"pid"`
	// Boot, Device and Inode name the data folder, for as long as the machine is up.
	Boot   string `json:"boot"`
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
	// ID is made anew by each process.
	ID string `json:"id"`
}

func holder(node, folder string) (h leaseHolder, err error) {
	h = leaseHolder{Node: node, Pid: os.Getpid(), ID: rand.Text()}
	if h.Host, err = os.Hostname(); err != nil {
		return h, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return h, err
	}
	var st syscall.Stat_t
	if err := syscall.Stat(folder, &st); err != nil {
		return h, err
	}
	h.Boot, h.Device, h.Inode = strings.TrimSpace(string(boot)), uint64(st.Dev), st.Ino
	return h, nil
}

// sameFolder reports whether the other one held our folder, and so is gone.
func (h leaseHolder) sameFolder(other leaseHolder) bool {
	return h.Boot == other.Boot && h.Device == other.Device && h.Inode == other.Inode
}

func (h leaseHolder) String() string {
	return fmt.Sprintf("node %s on %s, process %d", h.Node, h.Host, h.Pid)
}

// lease is the right to run what is in the store: of all daemons on one NATS server,
// one has it. That of a daemon which held the same folder is taken over at once, that
// of another when it has not been renewed for twenty seconds. The embedded server, to
// which nobody else writes, needs none.
type lease struct {
	bus        *bus.Bus
	kv         jetstream.KeyValue
	own        leaseHolder
	text       []byte
	revision   uint64
	every, max time.Duration
}

func (s *Store) takeLease(ctx context.Context, node, folder string, every, most time.Duration) (*lease, error) {
	l := &lease{bus: s.bus, kv: s.kv, every: every, max: most}
	var err error
	if l.own, err = holder(node, folder); err == nil {
		l.text, err = json.Marshal(l.own)
	}
	if err == nil {
		err = l.take(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	return l, nil
}

func (l *lease) take(ctx context.Context) error {
	was, other, err := l.read(ctx)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		l.revision, err = l.kv.Create(ctx, leaseKey, l.text)
	case err == nil && !l.own.sameFolder(other):
		l.bus.Log().Warn("another daemon may use this NATS server; waiting whether it renews its lease", "holder", other.String(), "most", l.max)
		if err := l.expires(ctx, was); err != nil {
			return err
		}
		l.revision, err = l.kv.Update(ctx, leaseKey, l.text, was)
	case err == nil:
		l.revision, err = l.kv.Update(ctx, leaseKey, l.text, was)
	}
	if errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		return fmt.Errorf("%w: another daemon has just taken it", plugin.ErrConflict)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	}
	return nil
}

// read returns the revision of the lease and who holds it. What is no holder is one
// that nobody is.
func (l *lease) read(ctx context.Context) (revision uint64, h leaseHolder, err error) {
	ctx, cancel := context.WithTimeout(ctx, writeMax)
	defer cancel()
	e, err := l.kv.Get(ctx, leaseKey)
	if err != nil {
		return 0, h, err
	}
	_ = json.Unmarshal(e.Value(), &h)
	return e.Revision(), h, nil
}

// expires returns nil when the lease was not renewed for as long as it is respected,
// by this machine's clock alone.
func (l *lease) expires(ctx context.Context, was uint64) error {
	tick := time.NewTicker(l.every / 5)
	defer tick.Stop()
	for end := time.Now().Add(l.max); time.Now().Before(end); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		revision, other, err := l.read(ctx)
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
			return fmt.Errorf("%w: it was given up just now; start again", plugin.ErrConflict)
		case err != nil:
			return fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
		case revision != was:
			return l.held(other)
		}
	}
	return nil
}

func (l *lease) held(other leaseHolder) error {
	return fmt.Errorf("%w: the daemon of %s uses this NATS server, and two would run every plugin twice; "+
		"stop it, or give this one a NATS server or account of its own", plugin.ErrConflict, other)
}

// run renews the lease until ctx ends, and then gives it up. While the bus is down it
// tries on, and plugins go on. An error means that another daemon has it: this one
// must end.
func (l *lease) run(ctx context.Context) error {
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			l.giveUp()
			return nil
		case <-tick.C:
		}
		if err := l.renew(ctx); err != nil {
			return fmt.Errorf("lease: %w", err)
		}
	}
}

// renew fails only when somebody else has the lease.
func (l *lease) renew(ctx context.Context) error {
	write, cancel := context.WithTimeout(ctx, writeMax)
	defer cancel()
	revision, err := l.kv.Update(write, leaseKey, l.text, l.revision)
	if err == nil {
		l.revision = revision
		return nil
	}
	revision, other, err := l.read(ctx)
	switch {
	case err == nil && other.ID != l.own.ID:
		return l.held(other)
	case err == nil:
		l.revision = revision // written, and the answer was lost
	case errors.Is(err, jetstream.ErrKeyNotFound): // somebody emptied the bucket
		if revision, err := l.kv.Create(write, leaseKey, l.text); err == nil {
			l.revision = revision
		}
	}
	return nil
}

// giveUp spares the next daemon the wait.
func (l *lease) giveUp() {
	ctx, cancel := context.WithTimeout(context.Background(), checkMax)
	defer cancel()
	err := l.kv.Delete(ctx, leaseKey, jetstream.LastRevision(l.revision))
	if err != nil { // a renewal may have been written whose answer nobody awaited
		if revision, other, failed := l.read(ctx); failed == nil && other.ID == l.own.ID {
			err = l.kv.Delete(ctx, leaseKey, jetstream.LastRevision(revision))
		}
	}
	if err != nil {
		l.bus.Log().Debug("the lease is left to expire", "why", err)
	}
}
