package gobwire

import (
	"bufio"
	"fmt"
	"io"
	"slices"
)

// A Reader reads the messages of one incoming stream. After an error the stream
// cannot be read on.
type Reader struct {
	in    *bufio.Reader
	table *Table
	max   int
	types map[int64]*wireType
	told  int    // bytes of definitions that types was made of
	buf   []byte // the message being read: its storage
	msg   []byte // what is left of it
	left  int    // bytes that the value being read may still take
	// apart is a field of the top struct that is not written with the others, but
	// to taken.
	apart string
	taken []byte
}

// A Header is net/rpc's answer header.
type Header struct {
	Method string
	Seq    uint64
	// Error is the plugin's own no; a body without meaning follows it too.
	Error string
}

// NewReader returns the reader of a new stream whose values t describes. A value
// may take at most max bytes on the wire, and as much again as JSON.
func NewReader(in io.Reader, t *Table, max int) *Reader {
	return &Reader{in: bufio.NewReader(in), table: t, max: max, types: map[int64]*wireType{}}
}

// Header reads the next value as an answer header.
func (r *Reader) Header() (h Header, err error) {
	id, err := r.begin()
	if err != nil {
		return h, err
	}
	wt := r.types[id]
	if wt == nil || wt.kind != wireStruct {
		return h, fmt.Errorf("%w: the answer does not begin with a header", errCorrupt)
	}
	err = r.members(func(n int) error {
		if n >= len(wt.fields) {
			return errCorrupt
		}
		return r.headerField(&h, wt.fields[n])
	})
	return h, r.end(err)
}

func (r *Reader) headerField(h *Header, f wireField) (err error) {
	switch string(f.name) {
	case "ServiceMethod":
		h.Method, err = r.text(f.id)
	case "Error":
		h.Error, err = r.text(f.id)
	case "Seq":
		if f.id != idUint {
			return errCorrupt
		}
		h.Seq, err = r.uint()
	default:
		return errCorrupt
	}
	return err
}

func (r *Reader) text(id int64) (string, error) {
	if id != idString {
		return "", errCorrupt
	}
	b, err := r.bytes()
	return string(b), err
}

// JSON reads the next value and appends it to dst as JSON. of describes it: what
// the plugin left out because it is zero is filled in. nil reads it raw.
func (r *Reader) JSON(dst []byte, of *Type) ([]byte, error) {
	dst, _, err := r.Answer(dst, of, "")
	return dst, err
}

// Answer is JSON, with one field of the struct that is read kept apart: its value
// is returned as taken, nil when it did not arrive because it is zero.
func (r *Reader) Answer(dst []byte, of *Type, apart string) (out, taken []byte, err error) {
	id, err := r.begin()
	if err != nil {
		return nil, nil, err
	}
	r.apart, r.taken = apart, nil
	v := valuer{r: r, start: len(dst)}
	out, err = v.top(dst, id, of, 0)
	return out, r.taken, r.end(err)
}

// Discard reads the next value and forgets it.
func (r *Reader) Discard() error {
	_, err := r.JSON(nil, nil)
	return err
}

// begin reads up to the first byte of the next value, taking in the types that
// are defined before it, and returns the value's type.
func (r *Reader) begin() (int64, error) {
	r.left = r.max
	return r.sequence(topLevel)
}

// end checks that a value was the whole of its message.
func (r *Reader) end(err error) error {
	if err == nil && len(r.msg) != 0 {
		err = fmt.Errorf("%w: %d bytes too many", errCorrupt, len(r.msg))
	}
	if cap(r.buf) > keepBytesMax {
		r.buf = nil
	}
	return err
}

type place bool

const (
	topLevel        place = false
	insideInterface place = true
)

// sequence takes in type definitions until a value begins, and returns its type.
// A definition inside an interface may be followed by a byte count, or end its
// message; the value then goes on in the next one.
func (r *Reader) sequence(where place) (int64, error) {
	for {
		if len(r.msg) == 0 {
			if err := r.next(); err != nil {
				return 0, err
			}
		}
		id, err := r.int()
		if err != nil {
			return 0, err
		}
		if id >= 0 {
			return id, nil
		}
		if err := r.define(-id); err != nil {
			return 0, err
		}
		if len(r.msg) > 0 {
			if where == topLevel {
				return 0, fmt.Errorf("%w: a type definition is too long", errCorrupt)
			}
			if _, err := r.uint(); err != nil {
				return 0, err
			}
		}
	}
}

// next reads one message.
func (r *Reader) next() error {
	n, err := r.length()
	if err != nil {
		return err
	}
	if n > uint64(r.left) {
		return fmt.Errorf("answer %w of %d bytes", ErrTooLarge, r.max)
	}
	r.left -= int(n)
	r.buf = r.buf[:0]
	for len(r.buf) < int(n) { // believe an announced length only as far as it arrives
		step := min(int(n)-len(r.buf), growBytes)
		at := len(r.buf)
		r.buf = slices.Grow(r.buf, step)[:at+step]
		if _, err := io.ReadFull(r.in, r.buf[at:]); err != nil {
			return unexpected(err)
		}
	}
	r.msg = r.buf
	return nil
}

// length reads the byte count before a message. io.EOF means that the stream
// ended between two messages.
func (r *Reader) length() (uint64, error) {
	first, err := r.in.ReadByte()
	if err != nil || first < 0x80 {
		return uint64(first), err
	}
	n := 256 - int(first)
	if n > 8 {
		return 0, errCorrupt
	}
	var x uint64
	for range n {
		c, err := r.in.ReadByte()
		if err != nil {
			return 0, unexpected(err)
		}
		x = x<<8 | uint64(c)
	}
	return x, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (r *Reader) uint() (uint64, error) {
	if len(r.msg) == 0 {
		return 0, errCorrupt
	}
	first := r.msg[0]
	if first < 0x80 {
		r.msg = r.msg[1:]
		return uint64(first), nil
	}
	n := 256 - int(first)
	if n > 8 || len(r.msg) <= n {
		return 0, errCorrupt
	}
	var x uint64
	for _, c := range r.msg[1 : 1+n] {
		x = x<<8 | uint64(c)
	}
	r.msg = r.msg[1+n:]
	return x, nil
}

func (r *Reader) int() (int64, error) {
	x, err := r.uint()
	return toInt(x), err
}

// bytes returns counted bytes, valid until the next message is read.
func (r *Reader) bytes() ([]byte, error) {
	n, err := r.uint()
	if err != nil || n > uint64(len(r.msg)) {
		return nil, errCorrupt
	}
	b := r.msg[:n]
	r.msg = r.msg[n:]
	return b, nil
}

// members reads the fields of a struct: the distance from the last field, then
// its value, until a distance of zero.
func (r *Reader) members(field func(n int) error) error {
	n := -1
	for {
		delta, err := r.uint()
		if err != nil {
			return err
		}
		if delta == 0 {
			return nil
		}
		if delta > 1<<20 || n+int(delta) > 1<<20 {
			return errCorrupt
		}
		n += int(delta)
		if err := field(n); err != nil {
			return err
		}
	}
}
