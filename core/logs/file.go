package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// readBytes is what is read at once: a full pipe's worth, four times over.
	readBytes = 256 << 10
	// backlogBytesMax is how much of a file may be unread: beyond it a flood is
	// read and dropped before it fills the disk.
	backlogBytesMax = 256 << 20
	// backlogKept is what is still read of a flood that was skipped.
	backlogKept = 1 << 20
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
	freed  int64 // freed to here; guarded by log.mu
	cutter cutter
}

// follow starts to read a file. The caller holds mu.
func (l *Log) follow(s *stream, path string) (*follower, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0) // to write: for punching holes
	if err != nil {
		return nil, fmt.Errorf("follow: %w", err)
	}
	f := &follower{
		log: l, stream: s, file: file, freed: freeStep,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), ended: make(chan struct{}),
	}
	go f.run(path) // ends with finish, which waits for it
	return f, nil
}

// finish reads what has been written and ends.
func (f *follower) finish() {
	f.once.Do(func() { close(f.stop) })
	<-f.ended
}

func (f *follower) run(path string) {
	defer close(f.ended) // the file is closed by Close: shipping still frees parts of it
	id, watched := f.log.hub.watcher.add(path, f.wake)
	if watched {
		defer f.log.hub.watcher.remove(id)
	}
	buf := make([]byte, readBytes)
	for {
		last := stopped(f.stop) // asked before reading: what comes later is not promised
		if err := f.readAll(buf); err != nil {
			f.log.hub.options.Log.Warn("a plugin's output cannot be read", "plugin", f.log.plugin, "instance", f.log.instance, "error", err)
			return
		}
		if last {
			f.cutter.finish(f.line(time.Now()))
			return
		}
		f.wait(watched)
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

func (f *follower) wait(watched bool) {
	if watched {
		select {
		case <-f.wake:
		case <-f.stop:
		}
		return
	}
	select {
	case <-time.After(pollEvery):
	case <-f.stop:
	}
}

// readAll reads up to the file's present end.
func (f *follower) readAll(buf []byte) error {
	for {
		n, err := f.file.ReadAt(buf, f.offset)
		if n > 0 {
			f.offset += int64(n)
			f.cutter.write(buf[:n], f.line(time.Now()))
			f.mark()
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := f.skipFlood(buf); err != nil {
			return err
		}
	}
}

func (f *follower) line(now time.Time) func([]byte, bool) {
	return func(text []byte, cut bool) { f.log.add(f.stream, text, cut, now, waitForRoom) }
}

// mark notes at the newest batch how far the file is read.
func (f *follower) mark() {
	f.log.mu.Lock()
	defer f.log.mu.Unlock()
	if n := len(f.log.queue); n > 0 && f.log.queue[n-1].stream == f.stream {
		f.log.queue[n-1].upto = f.offset - int64(len(f.cutter.rest))
	}
}

// skipFlood counts and drops lines when far too much is unread.
func (f *follower) skipFlood(buf []byte) error {
	info, err := f.file.Stat()
	if err != nil || info.Size()-f.offset <= backlogBytesMax {
		return err
	}
	lines, until := uint64(0), info.Size()-backlogKept
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
	f.stream.dropped += lines
	f.stream.sequence += lines
	f.free(f.offset)
	return nil
}

// free gives the disk back what lies before upto. The caller holds log.mu. The
// file keeps its size: whoever appends to it sees no change.
func (f *follower) free(upto int64) {
	whole := upto / freeStep * freeStep
	if whole <= f.freed {
		return
	}
	err := unix.Fallocate(int(f.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, f.freed, whole-f.freed)
	if err == nil { // not all file systems can: the folder goes with the instance
		f.freed = whole
	}
}
