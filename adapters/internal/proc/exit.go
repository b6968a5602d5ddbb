package proc

import (
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// pidfdInfo is struct pidfd_info of linux/pidfd.h, in its first size. Linux 6.15 and
// later fill in the exit of a process that is somebody else's child, once that has
// reaped it.
type pidfdInfo struct {
	mask, cgroup uint64
	_            [11]uint32
	exit         int32
}

const (
	pidfdInfoExit = 1 << 3
	pidfdGetInfo  = 3<<30 | 64<<16 | 0xff<<8 | 11 // _IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)
	// exitInfoMax bounds the wait for whoever reaps orphans, exitInfoStep is the
	// pace: process 1 does so at once, if it does so at all.
	exitInfoMax  = 50 * time.Millisecond
	exitInfoStep = time.Millisecond
	// exitUnknown is the whole truth where the kernel tells a parent only, and that
	// was quick.
	exitUnknown = "its exit code is not known: an earlier daemon started it, and before Linux 6.15 the kernel tells only who reaps it"
)

// exitOfOther says how a process that is not our child has ended, if the kernel
// tells: of what is reaped by its pidfd, of what is not reaped yet by /proc. It is
// for a process that has ended.
func exitOfOther(pid int, start uint64, pidfd int) plugin.Exit {
	for deadline := time.Now().Add(exitInfoMax); pidfd >= 0 && time.Now().Before(deadline); time.Sleep(exitInfoStep) {
		status, told, err := reapedExit(pidfd)
		if told {
			return exitOf(status, nil)
		}
		// Zero is also what is said to who may not know.
		if s := readStat(strconv.Itoa(pid)); s.start == start && s.state == 'Z' && s.exit != 0 {
			return exitOf(syscall.WaitStatus(s.exit), nil)
		}
		if err != nil {
			break // an older kernel
		}
	}
	return plugin.Exit{Code: -1, At: time.Now(), Message: exitUnknown}
}

// reapedExit asks a pidfd how its process ended; told is false until that is reaped.
// An error: this kernel never tells.
func reapedExit(pidfd int) (status syscall.WaitStatus, told bool, err error) {
	info := pidfdInfo{mask: pidfdInfoExit}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
	switch {
	case errno == unix.ESRCH:
		return 0, false, nil
	case errno != 0:
		return 0, false, errno
	}
	return syscall.WaitStatus(info.exit), info.mask&pidfdInfoExit != 0, nil
}
