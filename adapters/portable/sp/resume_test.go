package sp

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// handed cuts what is sent after n bytes: those are read by the first owner.
func handed(t *testing.T, limit int, sent []byte, n int) (first *Conn, second *Conn) {
	t.Helper()
	conn, theirs := raw(t, Pull, limit)
	if _, err := theirs.Write(sent[:n]); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := conn.Recv(nil); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("up to byte %d: got %v, want that the deadline passed", n, err)
	}
	past := conn.Past()
	_ = conn.SetReadDeadline(time.Time{})
	_, _ = theirs.Write(sent[n:])
	theirs.Close()
	return conn, Resume(conn.Unix(), limit, past)
}

func TestPast_losesNothing(t *testing.T) {
	payload := bytes.Repeat([]byte("0123456789"), 1000)
	sent := append(frame(payload), frame([]byte("next"))...)
	for _, n := range []int{1, 8, 9, 10, 5000} {
		_, second := handed(t, 1<<20, sent, n)
		if got, err := second.Recv(nil); err != nil || !bytes.Equal(got, payload) || !second.Resumed() {
			t.Errorf("cut after %d: got %d bytes and %v", n, len(got), err)
		}
		if got, err := second.Recv(nil); err != nil || string(got) != "next" {
			t.Errorf("cut after %d, the next: got %q and %v", n, got, err)
		}
	}
}

// Of a frame that is too large the next owner learns nothing: it finds the one
// behind.
func TestPast_ofWhatIsTooLarge(t *testing.T) {
	sent := append(frame(bytes.Repeat([]byte("x"), 1000)), frame([]byte("next"))...)
	_, second := handed(t, 100, sent, 500)
	if got, err := second.Recv(nil); err != nil || string(got) != "next" {
		t.Errorf("got %q and %v, want next", got, err)
	}
}

// Whoever is killed takes what it had read with it.
func TestResume_findsTheNextFrame(t *testing.T) {
	sent := append(frame([]byte(`{"message":{"n":1}}`)), frame([]byte(`{"message":{"n":2}}`))...)
	for n := range len(sent) / 2 {
		ours, theirs := net.Pipe()
		go func() { // ends with its write
			_, _ = theirs.Write(sent[n:])
			theirs.Close()
		}()
		c := Resume(ours, 1<<10, Past{})
		got, err := c.Recv(nil)
		if n == 0 && err == nil {
			got, err = c.Recv(nil)
		}
		if err != nil || string(got) != `{"message":{"n":2}}` {
			t.Errorf("without the first %d bytes: got %q and %v", n, got, err)
		}
		if _, err := c.Recv(nil); err != io.EOF {
			t.Errorf("without the first %d bytes, the end: got %v, want io.EOF", n, err)
		}
		ours.Close()
	}
}

func FuzzResume(f *testing.F) {
	f.Add([]byte("tail"), frame([]byte("a")), false)
	f.Add([]byte{1, 0, 0, 0}, []byte{0, 0, 0, 0, 1, 'x'}, true)
	f.Fuzz(func(t *testing.T, rest, more []byte, whole bool) {
		ours, theirs := net.Pipe()
		go func() { // ends with its write, or when ours is closed
			_, _ = theirs.Write(more)
			theirs.Close()
		}()
		c := Resume(ours, 1<<10, Past{Rest: rest, Whole: whole})
		for {
			data, err := c.Recv(nil)
			var large *TooLargeError
			if err != nil && !errors.As(err, &large) {
				break
			}
			if len(data) > 1<<10 {
				t.Fatalf("got %d bytes over the limit", len(data))
			}
		}
		ours.Close()
	})
}
