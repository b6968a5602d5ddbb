package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// readBytes is what is read at once: a full pipe's worth, four times over.
	readBytes = 256 << 10
	// backlogBytesMax is how much of a file may be unread: beyond it a flood is
	// read and dropped before it fills the disk.
	backlogBytesMax = 256 << 20
	// backlogKept is what is still read of a flood that was skipped.
	backlogKept = 1 << 20
	// skipStep is what is skipped before it is freed.
	skipStep = 32 << 20
	// busyEvery is how often a growing file is looked at: well within batchAgeMax.
	// One that has not grown for quietAfter is watched instead; pollEvery is for
	// machines that cannot watch it.
	busyEvery, quietAfter, pollEvery = 5 * time.Millisecond, 100 * time.Millisecond, 20 * time.Millisecond
	// freeStep is what is freed at once, and the head of a file that never is:
	// adapters may read handshakes from there.
	freeStep = 1 << 20
)

// follower reads a file that a child process appends to.
type follower struct {
	log    *Log
	stream *stream
	file   *os.File
	wake   chan struct{}
	stop   chan struct{}
	ended  chan struct{}
	once   sync.Once

	offset int64 // read to here
	armed  bool  // wake will be told of the next growth
	freed  int64 // freed to here; guarded by log.mu, as are the next ones
	keeper keeper
	cutter cutter
}

// follow starts to read a file. The caller holds mu.
func (l *Log) follow(s *stream, path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0) // to write: for punching holes
	if err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	s.file = &follower{
		log: l, stream: s, file: file, freed: l.head(s.name),
		wake: make(chan struct{}, 1), stop: make(chan struct{}), ended: make(chan struct{}),
	}
	go s.file.run(path) // ends with finish, which waits for it
	return nil
}

// head is how much of a stream's file is never freed: what Stdout shows, at least
// freeStep.
func (l *Log) head(name plugin.LogStream) int64 {
	if name != plugin.Stdout {
		return freeStep
	}
	return (int64(l.captureBytesMax)/freeStep + 1) * freeStep
}

// finish reads what has been written and ends.
func (f *follower) finish() {
	f.once.Do(func() { close(f.stop) })
	<-f.ended
}

func (f *follower) run(path string) {
	defer close(f.ended) // the file is closed by Close: shipping still frees parts of it
	f.log.hub.watcher.join()
	defer f.log.hub.watcher.leave()
	if !f.resume() {
		f.log.mu.Lock()
		f.stream.waits = true
		f.log.mu.Unlock()
		return
	}
	buf := make([]byte, readBytes)
	for grown := time.Now(); ; {
		last := stopped(f.stop) // asked before reading: what comes later is not promised
		if last && f.log.leaves() {
			return // with a fold, too
		}
		before := f.offset
		until := int64(math.MaxInt64)
		if last {
			until = f.size() // whoever still writes must not keep us here
		}
		if err := f.readAll(buf, until); err != nil {
			f.log.hub.options.Log.Warn("a plugin's output cannot be read", "plugin", f.log.plugin, "instance", f.log.instance, "error", err)
			return
		}
		if last {
			f.cutter.finish(f.line(time.Now()))
			f.log.mu.Lock()
			f.log.unfold(f.stream, waitForRoom)
			f.log.mu.Unlock()
			return
		}
		if f.offset != before {
			grown = time.Now()
		}
		f.wait(path, time.Since(grown) > quietAfter)
	}
}

func stopped(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// wait returns when the file may have grown: by the clock while it grows, else
// when it does.
func (f *follower) wait(path string, quiet bool) {
	every := busyEvery
	if quiet && !f.armed {
		f.armed = f.log.hub.watcher.arm(path, f.wake)
		every = 0 // it may have grown just before
		if !f.armed {
			every = pollEvery
		}
	}
	var clock <-chan time.Time
	if !f.armed || every == 0 {
		timer := time.NewTimer(every)
		defer timer.Stop()
		clock = timer.C
	}
	select {
	case <-f.wake:
		f.armed = false
	case <-clock:
	case <-f.stop:
	}
}

// size is the file's; what cannot be asked for is no bound.
func (f *follower) size() int64 {
	info, err := f.file.Stat()
	if err != nil {
		return math.MaxInt64
	}
	return info.Size()
}

// flooded reports that far too much is unread. It is for the follower's goroutine.
func (f *follower) flooded() bool {
	info, err := f.file.Stat()
	return err == nil && info.Size()-f.offset > backlogBytesMax
}

// readAll reads up to the file's present end, and not beyond until. Without a bound
// it ends with f.stop, too: whoever writes faster than we read must not keep us.
func (f *follower) readAll(buf []byte, until int64) error {
	for f.offset < until && (until < math.MaxInt64 || !stopped(f.stop)) {
		leapt, err := f.leap(buf[:min(len(buf), leapKept)], until)
		if err != nil {
			return err
		}
		n, err := f.file.ReadAt(buf[:min(int64(len(buf)), until-f.offset)], f.offset)
		if n > 0 {
			f.offset += int64(n)
			f.take(buf[:n])
		}
		switch {
		case errors.Is(err, io.EOF), leapt && until == math.MaxInt64:
			return nil // what a flood prints meanwhile is for the next look
		case err != nil:
			return err
		}
		if err := f.skipFlood(buf); err != nil {
			return err
		}
	}
	return nil
}

func (f *follower) line(now time.Time) func([]byte, bool) {
	return func(text []byte, cut bool) {
		f.log.add(f.stream, printed{text: text, cut: cut, at: now, upto: f.cutter.at}, waitForRoom)
	}
}

// skipFlood counts and drops lines when far too much is unread.
func (f *follower) skipFlood(buf []byte) error {
	info, err := f.file.Stat()
	if err != nil || info.Size()-f.offset <= backlogBytesMax {
		return err
	}
	f.cutter.rest = f.cutter.rest[:0] // its end is skipped: it counts as the first that is lost
	defer func() { f.cutter.at = f.offset }()
	for until := info.Size() - backlogKept; f.offset < until; {
		if err := f.skip(buf, min(until, f.offset+skipStep)); err != nil {
			return err
		}
	}
	return nil
}

// skip drops what lies before until, and frees it: meanwhile the flood goes on.
func (f *follower) skip(buf []byte, until int64) error {
	lines := uint64(0)
	for f.offset < until {
		n, err := f.file.ReadAt(buf[:min(int64(len(buf)), until-f.offset)], f.offset)
		if n == 0 && err != nil {
			return err
		}
		lines += uint64(bytes.Count(buf[:n], []byte{'\n'}))
		f.offset += int64(n)
	}
	f.log.mu.Lock()
	defer f.log.mu.Unlock()
	f.log.unfold(f.stream, dropOldest) // what is skipped may have ended it
	f.stream.dropped += lines
	f.stream.sequence += lines
	f.keep(place{f.offset, f.stream.sequence}, f.stream.stored)
	f.free(f.offset)
	return nil
}
