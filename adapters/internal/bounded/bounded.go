// Package bounded reads answers whose length nobody has promised.
package bounded

import (
	"errors"
	"io"
	"sync"
	"time"
)

// ErrTooLong is an answer beyond its limit.
var ErrTooLong = errors.New("the answer is longer than its limit")

// chunkBytes is what is read at once; most answers are one.
const chunkBytes = 64 << 10

type chunk [chunkBytes]byte

// What goes beyond the head of an answer is read at a pace: as fast as they can, a plugin
// whose answers never end and its reader take two processors, in turns longer than
// another plugin's whole call. A good answer of 16 MiB comes 60 ms later for it.
const (
	headBytes = 1 << 20
	bytesRate = 256 << 20 // a second
)

// chunks are reused, so that a plugin whose answers never end makes no garbage: a
// buffer that grows costs five times its size of it, and other plugins' calls wait
// while it is collected.
var chunks = sync.Pool{New: func() any { return new(chunk) }}

// Read returns what r holds. At most limit bytes, and one chunk more, are read:
// beyond them the error is ErrTooLong. Beyond 1 MiB, 256 MiB a second are read at most.
func Read(r io.Reader, limit int64) ([]byte, error) {
	var headRead time.Time
	var full []*chunk
	last := take()
	defer func() {
		for _, c := range append(full, last) {
			chunks.Put(c)
		}
	}()
	used := 0
	for {
		n, err := r.Read(last[used:])
		used += n
		switch total := int64(len(full))*chunkBytes + int64(used); {
		case total > limit:
			return nil, ErrTooLong
		case errors.Is(err, io.EOF):
			return joined(full, last[:used]), nil
		case err != nil:
			return nil, err
		}
		if used == chunkBytes {
			full, last, used = append(full, last), take(), 0
			switch beyond := len(full)*chunkBytes - headBytes; {
			case beyond == 0:
				headRead = time.Now()
			case beyond > 0:
				time.Sleep(time.Until(headRead.Add(time.Duration(beyond) * time.Second / bytesRate)))
			}
		}
	}
}

func take() *chunk { return chunks.Get().(*chunk) } // nothing else is put there

func joined(full []*chunk, last []byte) []byte {
	whole := make([]byte, 0, len(full)*chunkBytes+len(last))
	for _, c := range full {
		whole = append(whole, c[:]...)
	}
	return append(whole, last...)
}
