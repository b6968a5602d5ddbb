package logs

import (
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pollEvery is how often files are looked at when the machine has no inotify
// instance or watch left.
const pollEvery = 20 * time.Millisecond

// watcher tells when files grow, with one inotify instance for all of them (a
// user has 128 by default) and one goroutine, which ends with the last file.
type watcher struct {
	mu      sync.Mutex
	inotify *os.File
	fd      int // inotify's own: os.File.Fd would make it block
	wakes   map[int32]chan struct{}
}

// add watches a file. wake is told when it may have grown; false means that the
// caller has to look by itself every pollEvery.
func (w *watcher) add(path string, wake chan struct{}) (id int32, watched bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.inotify == nil && !w.open() {
		return 0, false
	}
	wd, err := unix.InotifyAddWatch(w.fd, path, unix.IN_MODIFY)
	if err != nil {
		w.closeIfUnused()
		return 0, false
	}
	w.wakes[int32(wd)] = wake
	return int32(wd), true
}

func (w *watcher) open() bool {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return false
	}
	w.fd, w.inotify = fd, os.NewFile(uintptr(fd), "inotify")
	w.wakes = map[int32]chan struct{}{}
	go w.read(w.inotify) // ends when the last file is removed
	return true
}

// remove forgets a file.
func (w *watcher) remove(id int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.wakes[id]; ok {
		_, _ = unix.InotifyRmWatch(w.fd, uint32(id)) // the file may be gone already
		delete(w.wakes, id)
		w.closeIfUnused()
	}
}

func (w *watcher) closeIfUnused() {
	if len(w.wakes) == 0 && w.inotify != nil {
		_ = w.inotify.Close()
		w.inotify = nil
	}
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
			w.wake(event)
		}
	}
}

func (w *watcher) wake(event *unix.InotifyEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if event.Mask&unix.IN_Q_OVERFLOW != 0 {
		for _, c := range w.wakes {
			poke(c)
		}
		return
	}
	if c, ok := w.wakes[event.Wd]; ok {
		poke(c)
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is told already
	}
}
