package portable

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/adapters/portable/sp"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// takeEnd and putEnd are the two ends among the plugin's descriptors: the first
	// after the standard ones.
	takeEnd, putEnd = 3, 4
	// keptMax bounds the connections that are kept: a message has at most 253
	// descriptors, and two are taken.
	keptMax = 250
	// restsBytesMax bounds what records hold of unread data.
	restsBytesMax = 4 << 20
	// messagesMax bounds the messages that are found: one, and one more when the
	// daemon was killed while it replaced it. A plugin can add to them.
	messagesMax = 8
)

// A keep is what outlives the daemon of an instance: the connections, which the
// Python SDK does not survive the loss of, and the record of what they are. It is
// one message in a pair of sockets. The plugin has both ends among its descriptors
// and does not touch them; the kernel keeps what is in them as long as it lives. A
// nil keep keeps nothing.
type keep struct {
	log       *slog.Logger
	take, put *os.File
	marks     *marks

	mu      sync.Mutex
	kept    []*kept
	written bool // a message is there
	frozen  bool // nothing changes any more
}

// A kept connection is one that the next daemon goes on with.
type kept struct {
	name   string // of its socket
	socket *net.UnixConn
	conn   *sp.Conn // whoever reads it; nil: nobody yet
	past   sp.Past  // while nobody reads it
}

// newKeep makes a keep for n links.
func newKeep(n int, log *slog.Logger) (*keep, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	k := &keep{log: log, take: os.NewFile(uintptr(ends[0]), "keep"), put: os.NewFile(uintptr(ends[1]), "keep")}
	if k.marks, err = newMarks(n); err != nil {
		k.closeEnds()
		return nil, err
	}
	return k, nil
}

func (k *keep) closeEnds() {
	_ = k.take.Close()
	_ = k.put.Close()
}

// close lets go of it; the plugin has it still.
func (k *keep) close() {
	if k == nil {
		return
	}
	k.closeEnds()
	k.marks.close()
	for _, one := range k.kept {
		if one.conn == nil {
			_ = one.socket.Close()
		}
	}
}

// mark is that of link n.
func (k *keep) mark(n int) *mark {
	if k == nil {
		return nil
	}
	return k.marks.at(n)
}

// add keeps a connection until it is removed.
func (k *keep) add(name string, conn *sp.Conn) {
	if k == nil || conn.Unix() == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.frozen {
		k.kept = append(k.kept, &kept{name: name, socket: conn.Unix(), conn: conn})
	}
}

func (k *keep) remove(conn *sp.Conn) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.frozen {
		k.kept = slices.DeleteFunc(k.kept, func(o *kept) bool { return o.conn == conn })
	}
}

// claim takes those connections of a socket that nobody reads yet.
func (k *keep) claim(name string) []*kept {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var found []*kept
	k.kept = slices.DeleteFunc(k.kept, func(o *kept) bool {
		if o.conn != nil || o.name != name {
			return false
		}
		found = append(found, o)
		return true
	})
	return found
}

// freeze holds on to the connections: they can be closed now, and are written last.
// The sockets that it returns are the caller's.
func (k *keep) freeze() []*os.File {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.frozen = true
	var files []*os.File
	k.kept = slices.DeleteFunc(k.kept, func(o *kept) bool {
		file, err := o.socket.File()
		if err == nil {
			files = append(files, file)
		}
		return err != nil
	})
	return files
}

// write replaces the message; what it says of symbols is asked of the instance.
func (k *keep) write(symbols func() record) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.frozen {
		return
	}
	r := symbols()
	var files []*os.File
	for _, one := range k.kept {
		file, err := one.socket.File()
		if err != nil || len(files) == keptMax { // it has just been closed
			continue
		}
		defer file.Close()
		files = append(files, file)
		r.Sockets = append(r.Sockets, recordedSocket{Name: one.name, Rest: one.past.Rest, Whole: one.past.Whole})
	}
	k.replace(r, files)
}

// writeLast is write for what was frozen, and is read by nobody any more.
func (k *keep) writeLast(r record, files []*os.File) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	rests := 0
	for _, one := range k.kept {
		past := one.past
		if one.conn != nil {
			past = one.conn.Past()
		}
		if rests += len(past.Rest); rests > restsBytesMax {
			past = sp.Past{}
		}
		r.Sockets = append(r.Sockets, recordedSocket{Name: one.name, Rest: past.Rest, Whole: past.Whole})
	}
	most := min(len(files), keptMax)
	r.Sockets = r.Sockets[:most]
	k.replace(r, files[:most])
}

// replace puts the new message behind the old one, and takes that away.
func (k *keep) replace(r record, files []*os.File) {
	err := k.send(r, files)
	if err == nil && k.written {
		_, _, _, _, err = unix.Recvmsg(int(k.take.Fd()), make([]byte, 1), nil, unix.MSG_DONTWAIT)
	}
	if err != nil {
		k.log.Warn("what the next daemon needs could not be kept", "error", err.Error())
		return
	}
	k.written = true
}

func (k *keep) send(r record, files []*os.File) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(text) > recordBytesMax {
		return fmt.Errorf("the record has %d bytes, more than %d", len(text), recordBytesMax)
	}
	written, err := memory(text)
	if err != nil {
		return err
	}
	defer written.Close()
	fds := []int{int(k.marks.file.Fd()), int(written.Fd())}
	for _, file := range files {
		fd, err := number(file)
		if err != nil {
			return err
		}
		fds = append(fds, fd)
	}
	return unix.Sendmsg(int(k.put.Fd()), []byte{1}, unix.UnixRights(fds...), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

func closeAll(files []*os.File) {
	for _, file := range files {
		_ = file.Close()
	}
}

// number is a file's descriptor. File.Fd would make it blocking, for its other
// owners too.
func number(file *os.File) (fd int, err error) {
	conn, err := file.SyscallConn()
	if err != nil {
		return -1, err
	}
	err = conn.Control(func(n uintptr) { fd = int(n) })
	return fd, err
}

// openKeep is the keep of an earlier daemon, by the ends that the plugin has. It
// owns both. The record's symbols are the caller's to take up.
func openKeep(take, put *os.File, functions []string, log *slog.Logger) (*keep, record, error) {
	k := &keep{log: log, take: take, put: put, written: true}
	r, err := k.restore(functions)
	if err != nil {
		k.closeEnds()
		return nil, record{}, fmt.Errorf("what the earlier daemon kept: %w: %w", plugin.ErrUnavailable, err)
	}
	return k, r, nil
}

func (k *keep) restore(functions []string) (r record, err error) {
	files, err := k.newest()
	if err != nil {
		return r, err
	}
	defer closeAll(files)
	if len(files) < 2 {
		return r, errors.New("there is none")
	}
	if r, err = readRecord(files[1], functions, len(files)-2); err != nil {
		return r, err
	}
	if k.marks, err = copyMarks(files[0], 1+len(functions)); err != nil {
		return r, err
	}
	return r, k.takeUp(r, files[2:])
}

// takeUp keeps the connections, which nobody reads yet, and puts the message back.
func (k *keep) takeUp(r record, files []*os.File) error {
	err := k.send(r, files)
	for n, file := range files {
		conn, connErr := net.FileConn(file)
		socket, ok := conn.(*net.UnixConn)
		if connErr != nil || !ok {
			continue // it is no connection that we gave
		}
		s := r.Sockets[n]
		k.kept = append(k.kept, &kept{name: s.Name, socket: socket, past: sp.Past{Rest: s.Rest, Whole: s.Whole}})
	}
	if err != nil {
		k.marks.close()
		for _, one := range k.kept {
			_ = one.socket.Close()
		}
	}
	return err
}

// newest takes all messages, and returns the descriptors of the last.
func (k *keep) newest() ([]*os.File, error) {
	var newest []*os.File
	for range messagesMax {
		files, err := k.receive()
		if errors.Is(err, unix.EAGAIN) {
			return newest, nil
		}
		closeAll(newest)
		if newest = files; err != nil {
			break
		}
	}
	closeAll(newest)
	return nil, errors.New("it is not as it was left")
}

func (k *keep) receive() (files []*os.File, err error) {
	var kind [1]byte
	rights := make([]byte, unix.CmsgSpace(4*(keptMax+2)))
	n, rightsLen, flags, _, err := unix.Recvmsg(int(k.take.Fd()), kind[:], rights, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, err
	}
	controls, err := unix.ParseSocketControlMessage(rights[:rightsLen])
	for _, c := range controls {
		fds, fdsErr := unix.ParseUnixRights(&c)
		err = errors.Join(err, fdsErr)
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "kept"))
		}
	}
	if n != 1 || kind[0] != 1 || flags&unix.MSG_CTRUNC != 0 {
		err = errors.Join(err, errors.New("a strange message"))
	}
	return files, err
}
