package bus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// nurseEvery is the least time between two looks at a server that complains, and
	// what an attempt to replace it waits for the next.
	nurseEvery = time.Second
	// slowMax is how long a server may fail to answer before it is replaced for that
	// alone: a disk that is merely busy answers before.
	slowMax = 10 * time.Second
	// roomBytesMin must be free before a server is replaced: a block of the events
	// stream has 8 MiB, and one that fills up at once is no cure.
	roomBytesMin = 16 << 20
	roomFile     = "room" // what is written to see whether that can be done
)

// ill says that the embedded server may be ill. It returns at once.
func (b *Bus) ill() {
	select {
	case b.illness <- struct{}{}:
	default:
	}
}

// nurse replaces the embedded server when its streams cannot be written and its
// disk can: a disk that was full leaves JetStream off, or a stream with an error
// that stays, until the server starts anew. It ends with stopping.
func (b *Bus) nurse() {
	for w := (watch{}); ; {
		select {
		case <-b.illness:
			w = b.cure(w)
		case <-b.stopping:
			return
		}
		timer := time.NewTimer(nurseEvery)
		select {
		case <-timer.C:
		case <-b.stopping:
			timer.Stop()
			return
		}
	}
}

// watch is what is known of an illness.
type watch struct {
	since  time.Time // zero: it is well
	mended bool      // its streams were made again
}

// cure looks at the server once, and asks to be called again while it is ill.
// Streams that are not there are made again first; only when that did not help, or
// when it has been silent for long, is the server to blame.
func (b *Bus) cure(w watch) watch {
	why := b.Check(b.ctx)
	if why == nil || b.ctx.Err() != nil {
		return watch{}
	}
	defer b.ill()
	if w.since.IsZero() {
		w.since = time.Now()
	}
	switch {
	case noStream(why) && !w.mended:
		b.mend()
		w.mended = true
		return w
	case !noStream(why) && time.Since(w.since) < slowMax:
		return w
	}
	if err := hasRoom(b.o.Dir); err != nil {
		b.o.Log.Debug("the embedded nats-server stays as it is", "why", err)
		return w
	}
	if !b.replaceServer(why) {
		return w
	}
	return watch{}
}

// noStream: nobody listened on a stream's subjects.
func noStream(err error) bool {
	return errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrStreamNotFound)
}

// mend makes streams that somebody deleted. That of events is left to its
// publisher, who must know that its sequences begin anew.
func (b *Bus) mend() {
	ctx, cancel := context.WithTimeout(b.ctx, checkMax)
	defer cancel()
	b.events.renew()
	for _, want := range b.streams() {
		if want.Name == streamEvents {
			continue
		}
		if _, err := b.ensureStream(ctx, want); err != nil {
			b.o.Log.Debug("a stream cannot be made", "why", err)
		}
	}
	b.statuses.republish()
}

func (b *Bus) replaceServer(why error) (done bool) {
	b.o.Log.Warn("the embedded nats-server starts anew", "why", why)
	ctx, cancel := context.WithTimeout(b.ctx, startMax)
	defer cancel()
	if err := b.server.replace(ctx); err != nil {
		b.o.Log.Error("the embedded nats-server does not start", "why", err)
		return false
	}
	return true
}

// hasRoom reports whether the store could be written now.
func hasRoom(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("bus folder: %w", err)
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < roomBytesMin {
		return fmt.Errorf("bus folder: %w: %d MiB are free, at least %d are needed", plugin.ErrUnavailable, free>>20, roomBytesMin>>20)
	}
	path := filepath.Join(dir, roomFile)
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		return fmt.Errorf("bus folder: %w", err)
	}
	return os.Remove(path)
}
