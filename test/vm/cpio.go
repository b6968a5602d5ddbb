//go:build vm

package vm

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
)

// archiveOf writes an initramfs to w: a cpio archive in the format "newc" (the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst). files maps paths in
// the guest to files of this machine, which become executable; folders above them
// are made.
func archiveOf(w io.Writer, files map[string]string) error {
	a := archive{w: bufio.NewWriter(w), made: map[string]bool{".": true, "/": true}}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		a.dir(path.Dir(name))
		a.file(name, files[name])
	}
	a.header("TRAILER!!!", 0, 0)
	if a.err != nil {
		return a.err
	}
	return a.w.Flush()
}

// archive keeps the first error, after which nothing is written.
type archive struct {
	w     *bufio.Writer
	made  map[string]bool // folders
	inode int
	err   error
}

const (
	modeDir  = 0o040755
	modeFile = 0o100755
)

func (a *archive) dir(name string) {
	if a.made[name] {
		return
	}
	a.dir(path.Dir(name))
	a.made[name] = true
	a.header(name, modeDir, 0)
}

func (a *archive) file(name, from string) {
	if a.err != nil {
		return
	}
	var in *os.File
	if in, a.err = os.Open(from); a.err != nil {
		return
	}
	defer in.Close()
	var info fs.FileInfo
	if info, a.err = in.Stat(); a.err != nil {
		return
	}
	a.header(name, modeFile, info.Size())
	if a.err == nil {
		_, a.err = io.CopyN(a.w, in, info.Size())
	}
	a.pad(info.Size())
}

// header writes thirteen numbers of eight hexadecimal digits and the name, which,
// as contents do, ends at a multiple of four.
func (a *archive) header(name string, mode, size int64) {
	const fixed = 110
	a.inode++
	a.print("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		a.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	a.pad(int64(fixed + len(name) + 1))
}

func (a *archive) pad(size int64) {
	a.print("%s", make([]byte, (4-size%4)%4))
}

func (a *archive) print(format string, v ...any) {
	if a.err == nil {
		_, a.err = fmt.Fprintf(a.w, format, v...)
	}
}
