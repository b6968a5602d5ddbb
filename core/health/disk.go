package health

import (
	"context"
	"fmt"
	"slices"
	"syscall"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// diskBytesMin is the least that must be free where the data folder is: below it
	// the bus's streams stop at the next larger write (a block of events has 8 MiB),
	// and plugins' logs soon have no place.
	diskBytesMin = 64 << 20
	// inodesMin: a start of a plugin makes some ten files.
	inodesMin = 1000
)

// Disk asks whether the file system of a folder has room.
func Disk(folder string) Question { return disk(folder, diskBytesMin) }

func disk(folder string, bytesMin uint64) Question {
	return Question{Name: "disk", Ask: func(context.Context) error {
		var fs syscall.Statfs_t
		if err := syscall.Statfs(folder, &fs); err != nil {
			return fmt.Errorf("%s: %w: %w", folder, plugin.ErrUnavailable, err)
		}
		if free := fs.Bavail * uint64(fs.Bsize); free < bytesMin {
			return fmt.Errorf("%s: %w: %d MiB are free, at least %d are needed; make room", folder, plugin.ErrUnavailable, free>>20, bytesMin>>20)
		}
		return nil
	}}
}

// Inodes asks whether the file system of a folder can take more files. Some file
// systems have no limit of their own, and say none.
func Inodes(folder string) Question {
	return Question{Name: "inodes", Ask: func(context.Context) error {
		var fs syscall.Statfs_t
		if err := syscall.Statfs(folder, &fs); err != nil {
			return fmt.Errorf("%s: %w: %w", folder, plugin.ErrUnavailable, err)
		}
		if fs.Files > 0 && fs.Ffree < inodesMin {
			return fmt.Errorf("%s: %w: %d inodes are free, at least %d are needed; remove files", folder, plugin.ErrUnavailable, fs.Ffree, inodesMin)
		}
		return nil
	}}
}

// Daemon makes a Checker of a daemon: what is given, the room in its data folder, and
// its adapters.
func Daemon(folder string, adapters []plugin.Adapter, needed ...Question) *Checker {
	questions := append(slices.Clone(needed), Disk(folder), Inodes(folder))
	for _, a := range adapters {
		questions = append(questions, Adapter(a))
	}
	return New(questions...)
}

// Adapter asks whether an adapter can launch plugins. One that depends on nothing
// outside of the daemon always can.
func Adapter(a plugin.Adapter) Question {
	q := Question{Name: AdapterPrefix + a.Name(), Advisory: true, Ask: func(context.Context) error { return nil }}
	if asked, ok := a.(plugin.Availability); ok {
		q.Ask = asked.Available
	}
	return q
}

// AdapterPrefix begins the names of the answers about adapters.
const AdapterPrefix = "adapter/"
