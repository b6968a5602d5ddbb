package bounded_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/internal/bounded"
)

const chunk = 64 << 10

func TestRead(t *testing.T) {
	readers := map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "halves": iotest.HalfReader, "data with the end": iotest.DataErrReader,
	}
	for name, reader := range readers {
		for _, size := range []int{0, 1, chunk - 1, chunk, chunk + 1, 3 * chunk, 3*chunk + 7} {
			want := make([]byte, size)
			for i := range want {
				want[i] = byte(i / 251)
			}
			for limit, wantErr := range map[int]error{size: nil, size + 1: nil, 10 * chunk: nil, size - 1: bounded.ErrTooLong} {
				got, err := bounded.Read(reader(bytes.NewReader(want)), int64(limit))
				if !errors.Is(err, wantErr) {
					t.Errorf("%s, %d bytes, limit %d: got %v, want %v", name, size, limit, err, wantErr)
				}
				if wantErr == nil && !bytes.Equal(got, want) {
					t.Errorf("%s, %d bytes, limit %d: got %d other bytes", name, size, limit, len(got))
				}
			}
		}
	}
}

func TestRead_broken(t *testing.T) {
	broken := errors.New("broken")
	got, err := bounded.Read(io.MultiReader(bytes.NewReader(make([]byte, chunk+1)), iotest.ErrReader(broken)), 1<<20)
	if !errors.Is(err, broken) || got != nil {
		t.Errorf("got %d bytes, %v, want %v", len(got), err, broken)
	}
}

// endless counts what is taken of it.
type endless struct{ taken int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.taken += int64(len(p))
	return len(p), nil
}

// TestRead_endless: little more than the limit is read.
func TestRead_endless(t *testing.T) {
	const limit = 1 << 20
	var e endless
	if _, err := bounded.Read(&e, limit); !errors.Is(err, bounded.ErrTooLong) {
		t.Errorf("got %v, want %v", err, bounded.ErrTooLong)
	}
	if e.taken > limit+chunk {
		t.Errorf("%d bytes were read, want at most %d", e.taken, limit+chunk)
	}
}

// TestRead_pace: beyond its head an answer is not read faster than is said, whoever waits.
func TestRead_pace(t *testing.T) {
	const beyond, rate = 16 << 20, 256 << 20
	began := time.Now()
	if _, err := bounded.Read(&endless{}, 1<<20+beyond); !errors.Is(err, bounded.ErrTooLong) {
		t.Errorf("got %v, want %v", err, bounded.ErrTooLong)
	}
	if least, took := time.Duration(beyond)*time.Second/rate, time.Since(began); took < least {
		t.Errorf("it took %v, want at least %v", took, least)
	}
}

// BenchmarkRead_endless has the garbage that a refused answer makes.
func BenchmarkRead_endless(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := bounded.Read(&endless{}, 16<<20); err == nil {
			b.Fatal("it was taken")
		}
	}
}
