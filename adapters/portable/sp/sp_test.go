package sp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.nanomsg.org/mangos/v3"
	"go.nanomsg.org/mangos/v3/protocol/pull"
	"go.nanomsg.org/mangos/v3/protocol/push"
	"go.nanomsg.org/mangos/v3/protocol/req"
	_ "go.nanomsg.org/mangos/v3/transport/ipc"
)

const patience = 10 * time.Second

// listen returns a listener on a short path of the test's own.
func listen(t testing.TB) (*net.UnixListener, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, path
}

// raw returns a greeted Conn and the bare socket at its other end.
func raw(t testing.TB, own Protocol, limit int) (*Conn, net.Conn) {
	t.Helper()
	l, path := listen(t)
	theirs, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close() })
	if _, err := theirs.Write(greeting(own.Peer())); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := Greet(c, own, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.ReadFull(theirs, make([]byte, greetingBytes)); err != nil {
		t.Fatal(err)
	}
	return conn, theirs
}

func frame(payload []byte) []byte {
	out := binary.BigEndian.AppendUint64([]byte{frameMessage}, uint64(len(payload)))
	return append(out, payload...)
}

func TestGreeting_isWhatTheWireHas(t *testing.T) {
	if got, want := fmt.Sprintf("% x", greeting(Rep)), "00 53 50 00 00 31 00 00"; got != want {
		t.Errorf("greeting of REP: got %s, want %s", got, want)
	}
}

func TestGreet_refusesOthers(t *testing.T) {
	for _, tt := range []struct{ name, says string }{
		{"another pattern", string(greeting(Push))},
		{"the same side", string(greeting(Rep))},
		{"http", "GET / HT"},
		{"reserved bytes", "\x00SP\x00\x00\x30\x00\x01"},
		{"nothing", ""},
		{"half", "\x00SP"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			go func() { // ends when theirs is closed
				_, _ = io.ReadFull(theirs, make([]byte, greetingBytes))
				_, _ = io.WriteString(theirs, tt.says)
				theirs.Close()
			}()
			if _, err := Greet(ours, Rep, 100); err == nil {
				t.Errorf("greeting %q: got a connection, want an error", tt.says)
			}
		})
	}
}

func TestRecv_framesInOneWriteAndInBytes(t *testing.T) {
	conn, theirs := raw(t, Pull, 1<<20)
	var sent []byte
	want := [][]byte{[]byte("a"), {}, bytes.Repeat([]byte("x"), 300_000), []byte("end")}
	for _, payload := range want {
		sent = append(sent, frame(payload)...)
	}
	go func() { // ends with the test's data
		for len(sent) > 0 {
			n := min(len(sent), 1+len(sent)%7000)
			_, _ = theirs.Write(sent[:n])
			sent = sent[n:]
		}
		theirs.Close()
	}()
	var buf []byte
	for n, payload := range want {
		got, err := conn.Recv(buf)
		if err != nil || !bytes.Equal(got, payload) {
			t.Fatalf("frame %d: got %d bytes and %v, want %d", n, len(got), err, len(payload))
		}
		buf = got
	}
	if _, err := conn.Recv(nil); err != io.EOF {
		t.Errorf("after the end: got %v, want io.EOF", err)
	}
}

func TestRecv_skipsWhatIsTooLarge(t *testing.T) {
	conn, theirs := raw(t, Rep, 10)
	go func() { // ends with its writes
		_, _ = theirs.Write(append(frame([]byte("\x80\x00\x00\x01"+strings.Repeat("y", 200_000))), frame([]byte("ok"))...))
	}()
	got, err := conn.Recv(nil)
	var large *TooLargeError
	if !errors.As(err, &large) || large.Size != 200_004 {
		t.Fatalf("long frame: got %v, want a TooLargeError of 200004", err)
	}
	if id, _, err := SplitRequest(got); err != nil || string(id) != "\x80\x00\x00\x01" {
		t.Errorf("its request id: got % x and %v", id, err)
	}
	if got, err := conn.Recv(nil); err != nil || string(got) != "ok" {
		t.Errorf("the next: got %q and %v, want ok", got, err)
	}
}

// A length is a peer's word: memory is taken as bytes arrive.
func TestRecv_allocatesOnlyWhatArrives(t *testing.T) {
	conn, theirs := raw(t, Pull, 1<<30)
	_, _ = theirs.Write(append(binary.BigEndian.AppendUint64([]byte{frameMessage}, 1<<29), "few"...))
	theirs.Close()
	got, err := conn.Recv(nil)
	if err != io.ErrUnexpectedEOF || cap(got) > 2*growBytes {
		t.Errorf("cut frame: got %d bytes and %v, want io.ErrUnexpectedEOF", cap(got), err)
	}
}

// A receive that its deadline cut short goes on where it was.
func TestRecv_goesOnAfterDeadline(t *testing.T) {
	for _, limit := range []int{1 << 20, 10} {
		conn, theirs := raw(t, Pull, limit)
		payload := strings.Repeat("0123456789", 10_000)
		whole := frame([]byte(payload))
		cuts := []int{3, 9, 20, 45, 70_000, len(whole)}
		for n, from := 0, 0; n < len(cuts); n++ {
			sent, part := make(chan struct{}), whole[from:cuts[n]]
			go func() { // ends when it is read
				_, _ = theirs.Write(part)
				close(sent)
			}()
			from = cuts[n]
			if n == len(cuts)-1 {
				break
			}
			_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if _, err := conn.Recv(nil); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("limit %d, up to byte %d: got %v, want that the deadline passed", limit, cuts[n], err)
			}
			<-sent
		}
		_ = conn.SetReadDeadline(time.Time{})
		got, err := conn.Recv(nil)
		var large *TooLargeError
		switch {
		case limit < len(payload) && (!errors.As(err, &large) || string(got) != payload[:keepBytes]):
			t.Errorf("limit %d: got %q and %v, want a TooLargeError", limit, got, err)
		case limit >= len(payload) && (err != nil || string(got) != payload):
			t.Errorf("limit %d: got %d bytes and %v, want %d", limit, len(got), err, len(payload))
		}
	}
}

func TestSplitRequest(t *testing.T) {
	for _, tt := range []struct{ name, payload, id, body string }{
		{"direct", "\x80\x00\x00\x01body", "\x80\x00\x00\x01", "body"},
		{"no body", "\xff\xff\xff\xff", "\xff\xff\xff\xff", ""},
		{"through a device", "\x00\x00\x00\x07\x80\x00\x00\x01body", "\x00\x00\x00\x07\x80\x00\x00\x01", "body"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id, body, err := SplitRequest([]byte(tt.payload))
			if err != nil || string(id) != tt.id || string(body) != tt.body {
				t.Errorf("got % x, %q, %v; want % x, %q", id, body, err, tt.id, tt.body)
			}
		})
	}
	for _, bad := range []string{"", "\x80", "\x80\x00\x00", strings.Repeat("\x00\x00\x00\x01", 20)} {
		if _, _, err := SplitRequest([]byte(bad)); !errors.Is(err, ErrNoRequestID) {
			t.Errorf("payload % x: got %v, want ErrNoRequestID", bad, err)
		}
	}
}

func TestServe_admitsAndCloses(t *testing.T) {
	l, path := listen(t)
	refused := make(chan error, 1)
	s := Serve(l, Handler{
		Own: Pull, Limit: 10, Handle: func(*Conn) { t.Error("handled what was not admitted") },
		Admit:   func(*net.UnixConn) error { return errors.New("not you") },
		Refused: func(err error) { refused <- err },
	})
	if _, err := Dial(t.Context(), path, Handler{Own: Push}); err == nil {
		t.Error("dial: got a connection, want that it is closed")
	}
	if err := <-refused; err.Error() != "not you" {
		t.Errorf("refused: got %v, want not you", err)
	}
	s.Close()
	s.Close()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("socket after close: got %v, want that it is gone", err)
	}
}

// A peer that says nothing holds nobody up.
func TestServe_silentPeer(t *testing.T) {
	l, path := listen(t)
	handled := make(chan struct{})
	s := Serve(l, Handler{Own: Pull, Limit: 10, Handle: func(*Conn) { close(handled) }})
	defer s.Close()
	silent, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	conn, err := Dial(t.Context(), path, Handler{Own: Push})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	<-handled
}

func mangosSocket(t *testing.T, s mangos.Socket, err error) mangos.Socket {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for name, value := range map[string]any{mangos.OptionRecvDeadline: patience, mangos.OptionSendDeadline: patience} {
		if err := s.SetOption(name, value); err != nil && !errors.Is(err, mangos.ErrBadOption) {
			t.Fatal(err)
		}
	}
	return s
}

func TestInterop_mangosPushToUs(t *testing.T) {
	const messages = 1000
	l, path := listen(t)
	got := make(chan string, messages)
	s := Serve(l, Handler{Own: Pull, Limit: 1 << 20, Handle: func(c *Conn) {
		for {
			data, err := c.Recv(nil)
			if err != nil {
				return
			}
			got <- string(data)
		}
	}})
	defer s.Close()
	sock, err := push.NewSocket()
	peer := mangosSocket(t, sock, err)
	if err := peer.Dial("ipc://" + path); err != nil {
		t.Fatal(err)
	}
	for n := range messages {
		if err := peer.Send(fmt.Appendf(nil, "%d", n)); err != nil {
			t.Fatal(err)
		}
	}
	for n := range messages {
		if message := <-got; message != fmt.Sprint(n) {
			t.Fatalf("message %d: got %q", n, message)
		}
	}
}

func TestInterop_weToMangosPull(t *testing.T) {
	const messages = 1000
	_, path := listen(t)
	sock, err := pull.NewSocket()
	peer := mangosSocket(t, sock, err)
	if err := peer.Listen("ipc://" + path + "2"); err != nil {
		t.Fatal(err)
	}
	conn, err := Dial(t.Context(), path+"2", Handler{Own: Push})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	long := bytes.Repeat([]byte("z"), 100_000)
	go func() { // ends with its messages
		for n := range messages {
			_ = conn.Send(nil, fmt.Appendf(nil, "%d", n))
		}
		_ = conn.Send([]byte("long"), long)
	}()
	for n := range messages {
		if data, err := peer.Recv(); err != nil || string(data) != fmt.Sprint(n) {
			t.Fatalf("message %d: got %q and %v", n, data, err)
		}
	}
	if data, err := peer.Recv(); err != nil || len(data) != 100_004 {
		t.Errorf("long message: got %d bytes and %v, want 100004", len(data), err)
	}
}

func TestInterop_mangosReqToUs(t *testing.T) {
	l, path := listen(t)
	s := Serve(l, Handler{Own: Rep, Limit: 1 << 20, Handle: func(c *Conn) {
		for {
			payload, err := c.Recv(nil)
			if err != nil {
				return
			}
			id, body, err := SplitRequest(payload)
			if err != nil || c.Send(id, append([]byte("re: "), body...)) != nil {
				return
			}
		}
	}})
	defer s.Close()
	sock, err := req.NewSocket()
	peer := mangosSocket(t, sock, err)
	if err := peer.Dial("ipc://" + path); err != nil {
		t.Fatal(err)
	}
	for n := range 100 {
		if err := peer.Send(fmt.Appendf(nil, "%d", n)); err != nil {
			t.Fatal(err)
		}
		if data, err := peer.Recv(); err != nil || string(data) != fmt.Sprintf("re: %d", n) {
			t.Fatalf("request %d: got %q and %v", n, data, err)
		}
	}
}
