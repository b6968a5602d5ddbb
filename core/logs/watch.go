package logs

import (
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// watcher wakes followers of quiet files, with one inotify instance for all of
// them (a user has 128 by default) and one goroutine, which ends with the last
// follower. A watch is good for one event: an armed one costs the writer half of
// its speed, so a file that grows is looked at by the clock instead.
type watcher struct {
	mu      sync.Mutex
	users   int
	inotify *os.File // nil: the machine has no instance left
	fd      int      // inotify's own: os.File.Fd would make it block
	wakes   map[int32]chan struct{}
}

// join is called by each follower before its first arm, and leave after its last.
func (w *watcher) join() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.users++; w.users > 1 {
		return
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return
	}
	w.fd, w.inotify, w.wakes = fd, os.NewFile(uintptr(fd), "inotify"), map[int32]chan struct{}{}
	go w.read(w.inotify) // ends when the last follower leaves
}

func (w *watcher) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.users--; w.users > 0 || w.inotify == nil {
		return
	}
	go func(inotify *os.File) { _ = inotify.Close() }(w.inotify) // the kernel takes 15 ms for it
	w.inotify = nil
}

// arm has wake told once when the file grows from now on. It reports false when
// the machine cannot watch it.
func (w *watcher) arm(path string, wake chan struct{}) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.inotify == nil {
		return false
	}
	wd, err := unix.InotifyAddWatch(w.fd, path, unix.IN_MODIFY|unix.IN_ONESHOT)
	if err != nil {
		return false
	}
	w.wakes[int32(wd)] = wake
	return true
}

func (w *watcher) read(inotify *os.File) {
	buf := make([]byte, 64*unix.SizeofInotifyEvent)
	for {
		n, err := inotify.Read(buf)
		if err != nil {
			return // closed
		}
		for at := 0; at+unix.SizeofInotifyEvent <= n; {
			event := (*unix.InotifyEvent)(unsafe.Pointer(&buf[at]))
			at += unix.SizeofInotifyEvent + int(event.Len)
			w.wake(inotify, event)
		}
	}
}

func (w *watcher) wake(inotify *os.File, event *unix.InotifyEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case inotify != w.inotify: // an event of the instance before
	case event.Mask&unix.IN_Q_OVERFLOW != 0:
		for id, c := range w.wakes {
			poke(c)
			delete(w.wakes, id)
		}
	default:
		if c, ok := w.wakes[event.Wd]; ok {
			poke(c)
			delete(w.wakes, event.Wd)
		}
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is told already
	}
}
