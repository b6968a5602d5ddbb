package logs

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// settleAfter is how long ago the bus must have acknowledged a line before its
	// part of the file is freed: the embedded server writes logs a few milliseconds
	// after it has acknowledged them, and a daemon that is killed meanwhile loses
	// them, so that the next one must find them in the file.
	settleAfter = 2 * time.Second
	// lateMax is how much longer it may take before the time does not count: the
	// process was stopped meanwhile, and the server in it.
	lateMax = time.Second
	// settleBytesMax bounds what waits to be freed: of a flood a second's worth has
	// to do, or some gigabytes would lie on the disk.
	settleBytesMax = 128 << 20
	// lastBytes before the place are never freed: the next daemon reads them for
	// Tail.
	lastBytes = 32 << 10
	// placeBytes is the size of a file with a place: three numbers of 20 digits.
	placeBytes = 63
)

// place is a point of a file at which a line begins, and the sequence of the line
// before.
type place struct {
	upto     int64
	sequence uint64
}

// keeper remembers what has been acknowledged until it can be relied on. It is
// guarded by log.mu.
type keeper struct {
	settling place     // acknowledged when timer was set; zero: none
	since    time.Time // when that was
	latest   place
	kept     place // written last
	timer    *time.Timer
	file     *os.File // holds kept
}

// acknowledged is told of each batch that the bus has taken. The caller holds mu.
func (f *follower) acknowledged(p place) {
	k := &f.keeper
	k.latest = p
	f.free(p.upto - settleBytesMax)
	switch {
	case k.settling != place{}:
		return
	case k.timer == nil:
		k.timer = time.AfterFunc(settleAfter, f.settle) // stopped by close
	default:
		k.timer.Reset(settleAfter)
	}
	k.settling, k.since = p, time.Now()
}

// settle frees what was acknowledged long enough ago.
func (f *follower) settle() {
	f.log.mu.Lock()
	defer f.log.mu.Unlock()
	if f.log.closed() {
		return // the rest is Close's
	}
	k := &f.keeper
	if time.Since(k.since) <= settleAfter+lateMax {
		f.keep(k.settling, k.settling.sequence)
		f.free(k.settling.upto)
		if k.settling == k.latest {
			k.settling = place{}
			return
		}
		k.settling = k.latest
	}
	k.since = time.Now()
	k.timer.Reset(settleAfter)
}

// keep writes down where the next daemon may go on, beside the file: the bus alone
// cannot tell once it has dropped an instance's last line for its age. Lines
// between stored and the place are gone. One before the last is not gone back to: a
// flood was skipped since, and is freed. The caller holds mu.
func (f *follower) keep(p place, stored uint64) {
	k := &f.keeper
	if p.upto < k.kept.upto {
		p = k.kept
	}
	k.kept = p
	if k.file == nil {
		file, err := os.OpenFile(placePath(f.log.dir, f.stream.name), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return // a full disk: then the bus's own word counts
		}
		k.file = file
	}
	// One write within one page: a daemon that is killed leaves the old or the new.
	_, _ = k.file.WriteAt(fmt.Appendf(nil, "%020d %020d %020d\n", p.upto, p.sequence, stored), 0)
}

func placePath(dir string, name plugin.LogStream) string {
	return filepath.Join(dir, string(name)+".place")
}

// readPlace reads what keep wrote; zeros when there is nothing to be read.
func readPlace(dir string, name plugin.LogStream) (p place, stored uint64) {
	file, err := os.Open(placePath(dir, name))
	if err != nil {
		return place{}, 0
	}
	defer file.Close()
	buf := make([]byte, placeBytes)
	n, _ := file.ReadAt(buf, 0)
	if _, err := fmt.Sscanf(string(buf[:n]), "%d %d %d\n", &p.upto, &p.sequence, &stored); err != nil || p.upto < 0 {
		return place{}, 0
	}
	return p, stored
}

// close ends what the goroutine of f does not: it is over.
func (f *follower) close(how ending) {
	f.log.mu.Lock()
	defer f.log.mu.Unlock()
	k := &f.keeper
	if k.timer != nil {
		k.timer.Stop()
	}
	if how == gone { // nobody reads it again
		f.free(k.latest.upto)
	}
	if k.file != nil {
		_ = k.file.Close() // what was written is in the kernel
	}
	_ = f.file.Close() // read to its end
}

// free gives the disk back what lies before upto, but for lastBytes. The caller
// holds log.mu. The file keeps its size: whoever appends to it sees no change.
func (f *follower) free(upto int64) {
	whole := (upto - lastBytes) / freeStep * freeStep
	if whole <= f.freed {
		return
	}
	err := unix.Fallocate(int(f.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, f.freed, whole-f.freed)
	if err == nil { // not all file systems can: the folder goes with the instance
		f.freed = whole
	}
}
