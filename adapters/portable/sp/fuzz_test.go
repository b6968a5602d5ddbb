package sp

import (
	"bufio"
	"bytes"
	"errors"
	"testing"
)

func FuzzRecv(f *testing.F) {
	f.Add(frame([]byte("a")), 16)
	f.Add(append(frame([]byte("long one")), frame(nil)...), 4)
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, 1<<30)
	f.Add([]byte{2, 0, 0, 0, 0, 0, 0, 0, 0}, 0)
	f.Fuzz(func(t *testing.T, data []byte, limit int) {
		if limit < 0 {
			return
		}
		c := &Conn{limit: uint64(limit), read: bufio.NewReader(bytes.NewReader(data))}
		var total int
		for range len(data) + 1 {
			payload, err := c.Recv(nil)
			var large *TooLargeError
			if err != nil && !errors.As(err, &large) {
				return
			}
			if err == nil && len(payload) > limit {
				t.Fatalf("got %d bytes over the limit of %d", len(payload), limit)
			}
			total += len(payload) + frameHeadBytes
		}
		t.Fatalf("read %d bytes of %d without an end", total, len(data))
	})
}

func FuzzGreeting(f *testing.F) {
	for _, p := range []Protocol{Req, Rep, Push, Pull, 0xffff} {
		f.Add(greeting(p))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) != greetingBytes {
			return
		}
		p, err := parseGreeting([greetingBytes]byte(data))
		if err == nil && !bytes.Equal(greeting(p), data) {
			t.Errorf("greeting % x: taken as 0x%x, whose greeting is % x", data, p, greeting(p))
		}
	})
}

func FuzzSplitRequest(f *testing.F) {
	f.Add([]byte("\x80\x00\x00\x01body"))
	f.Add([]byte("\x00\x00\x00\x01\x80\x00\x00\x01body"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		id, body, err := SplitRequest(payload)
		if err != nil {
			return
		}
		if !bytes.Equal(append(bytes.Clone(id), body...), payload) || len(id) == 0 || len(id)%idBytes != 0 {
			t.Errorf("payload % x: got id % x and body % x", payload, id, body)
		}
	})
}
