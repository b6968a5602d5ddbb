package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// followPace is how often a file is looked at when the machine has no inotify
// instance left (a user has 128 by default); a handshake is not delayed much.
const followPace = 10 * time.Millisecond

// A Tail is a file that grows, and where in it to begin: behind what earlier
// processes have printed.
type Tail struct {
	Path string
	From int64
}

// Follow reads the lines of a growing file and hands each to line,
// without its newline; the bytes are valid during the call. It returns nil when
// line returns false, or when stop is closed and everything written before has
// been read, an unfinished last line included; and ctx's error when that ends
// first. A line is cut at plugin.LogLineBytesMax and its rest skipped.
func Follow(ctx context.Context, of Tail, stop <-chan struct{}, line func([]byte) bool) error {
	file, err := os.Open(of.Path)
	if err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	defer func() { _ = file.Close() }()
	if _, err := file.Seek(of.From, io.SeekStart); err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	w, err := watchFile(of.Path)
	if err != nil {
		return err
	}
	defer w.close()
	defer w.wakeWhenDone(ctx, stop)()

	c := cutter{line: line}
	for {
		last := closed(stop) // asked before reading: what comes later is not promised
		more, err := c.readAll(file)
		switch {
		case err != nil:
			return fmt.Errorf("follow: %w", err)
		case !more:
			return nil
		case last:
			c.finish()
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("follow: %w", ctx.Err())
		}
		w.wait()
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// A cutter cuts bytes into lines.
type cutter struct {
	line    func([]byte) bool
	rest    []byte // begun and not finished; at most plugin.LogLineBytesMax
	skipped bool   // the unfinished line was longer, and handed over already
}

// readAll hands over the complete lines up to the present end of r. It reports
// false when line wants no more.
func (c *cutter) readAll(r io.Reader) (more bool, err error) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if !c.write(buf[:n]) {
			return false, nil
		}
		if err == io.EOF {
			return true, nil
		}
		if err != nil {
			return true, err
		}
	}
}

func (c *cutter) write(data []byte) bool {
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n')
		part, whole := data, false
		if end >= 0 {
			part, whole, data = data[:end], true, data[end+1:]
		} else {
			data = nil
		}
		if !c.add(part, whole) {
			return false
		}
	}
	return true
}

// add takes a part of a line, which may be its end.
func (c *cutter) add(part []byte, whole bool) bool {
	more := true
	if !c.skipped {
		room := plugin.LogLineBytesMax - len(c.rest)
		full := len(part) > room
		c.rest = append(c.rest, part[:min(len(part), room)]...)
		if full || whole {
			more = c.line(c.rest)
			c.rest, c.skipped = c.rest[:0], true
		}
	}
	if whole {
		c.skipped = false
	}
	return more
}

func (c *cutter) finish() {
	if len(c.rest) > 0 {
		c.line(c.rest)
	}
}

// A watcher sleeps until a file may have grown.
type watcher struct {
	inotify *os.File // nil: look every followPace
	wake    chan struct{}
}

func watchFile(path string) (*watcher, error) {
	w := &watcher{wake: make(chan struct{})}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return w, nil
	}
	w.inotify = os.NewFile(uintptr(fd), "inotify")
	_, err = unix.InotifyAddWatch(fd, path, unix.IN_MODIFY|unix.IN_CLOSE_WRITE)
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.ENOMEM):
		w.close()
		w.inotify = nil
	case err != nil:
		w.close()
		return nil, fmt.Errorf("follow: watch: %w", err)
	}
	return w, nil
}

// wakeWhenDone makes the present and every later wait return at once when ctx or
// stop ends. The function it returns takes that back.
func (w *watcher) wakeWhenDone(ctx context.Context, stop <-chan struct{}) func() {
	quit, finished := make(chan struct{}), make(chan struct{})
	go func() { // ends with Follow, which waits for it
		defer close(finished)
		select {
		case <-ctx.Done():
		case <-stop:
		case <-quit:
			return
		}
		close(w.wake)
		if w.inotify != nil {
			_ = w.inotify.SetReadDeadline(time.Unix(1, 0))
		}
	}()
	return func() { close(quit); <-finished }
}

func (w *watcher) wait() {
	if w.inotify == nil {
		select {
		case <-w.wake:
		case <-time.After(followPace):
		}
		return
	}
	var events [16 * unix.SizeofInotifyEvent]byte // what they say does not matter
	_, _ = w.inotify.Read(events[:])
}

// close does not wait for the kernel: closing an inotify descriptor takes its
// grace period, 15 ms, which is longer than most plugins take to start.
func (w *watcher) close() {
	if w.inotify != nil {
		go w.inotify.Close() // ends after that grace period
	}
}
