package portable

import (
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

// A standing is how a link stands with its plugin.
type standing byte

const (
	unheard  standing = iota // the plugin has not asked
	awaiting                 // it waits for a reply
	replied                  // it has one, or was about to get it
)

const (
	markBytes = 8
	// idBytes is a request id without a path before it, as plugins send it.
	idBytes = 4
)

// Marks are what the links of an instance know, one mark each, in memory that
// outlives the daemon: they change with each call, and what the daemon was about to
// do when it was killed must be known to the next.
type marks struct {
	file   *os.File // its memory, sealed: nobody can take it away
	memory []byte
}

// A mark is one link's place in marks; nil is none. Its link guards it.
type mark [markBytes]byte

// newMarks makes n marks.
func newMarks(n int) (*marks, error) {
	fd, err := unix.MemfdCreate("patchbay-marks", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	m := &marks{file: os.NewFile(uintptr(fd), "marks")}
	if _, err = m.file.Write(make([]byte, n*markBytes)); err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, sizeSeals)
	}
	if err == nil {
		m.memory, err = unix.Mmap(fd, 0, n*markBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		_ = m.file.Close()
		return nil, err
	}
	return m, nil
}

// sizeSeals are of memory whose size does not change any more, so that who reads
// it cannot be hurt by who wrote it.
const sizeSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW

// copyMarks makes marks from n of an earlier daemon. Its memory is not mapped: what
// the plugin may have put in its place could be of a kind that a read ends us by.
func copyMarks(file *os.File, n int) (*marks, error) {
	if err := sealed(file, int64(n)*markBytes); err != nil {
		return nil, err
	}
	m, err := newMarks(n)
	if err != nil {
		return nil, err
	}
	if _, err := file.ReadAt(m.memory, 0); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

func (m *marks) at(n int) *mark {
	if m == nil {
		return nil
	}
	return (*mark)(m.memory[n*markBytes:])
}

// close must come after that of every link.
func (m *marks) close() {
	_ = unix.Munmap(m.memory)
	_ = m.file.Close()
}

// write is one store, which is whole or not at all for whoever reads after this
// process.
func (m *mark) write(id []byte, s standing) {
	if m == nil {
		return
	}
	var value uint64 // unheard: an id with a path is not kept
	if len(id) == idBytes {
		value = uint64(binary.BigEndian.Uint32(id))<<8 | uint64(s)
	}
	binary.NativeEndian.PutUint64(m[:], value)
}

func (m *mark) read() ([]byte, standing) {
	if m == nil {
		return nil, unheard
	}
	value := binary.NativeEndian.Uint64(m[:])
	s := standing(value)
	if s != awaiting && s != replied {
		return nil, unheard
	}
	return binary.BigEndian.AppendUint32(nil, uint32(value>>8)), s
}
