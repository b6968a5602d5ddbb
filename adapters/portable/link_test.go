package portable

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.nanomsg.org/mangos/v3"
	"go.nanomsg.org/mangos/v3/protocol/req"
	_ "go.nanomsg.org/mangos/v3/transport/ipc"

	"github.com/patchbay-dev/patchbay/adapters/portable/sp"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

const patience = 10 * time.Second

// peer is the plugin's end of a link, driven by the test.
type peer struct {
	t    *testing.T
	path string
	conn *sp.Conn
}

// newPeer returns a link that listens, and a peer that has not connected yet.
func newPeer(t *testing.T) (*link, *peer) {
	t.Helper()
	dir, err := os.MkdirTemp("", "link")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l := newLink("test", slog.New(slog.DiscardHandler))
	server := sp.Serve(listener, sp.Handler{Own: sp.Rep, Limit: 1 << 10, Handle: l.serve})
	t.Cleanup(func() {
		server.Close()
		os.RemoveAll(dir)
	})
	return l, &peer{t: t, path: path}
}

func (p *peer) connect() {
	p.t.Helper()
	if p.conn != nil {
		p.conn.Close()
	}
	conn, err := sp.Dial(p.t.Context(), p.path, sp.Handler{Own: sp.Req, Limit: 1 << 20})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	p.conn = conn
}

func (p *peer) say(id uint32, body string) {
	p.t.Helper()
	if err := p.conn.Send(binary.BigEndian.AppendUint32(nil, id|1<<31), []byte(body)); err != nil {
		p.t.Fatal(err)
	}
}

// hear fails unless the next frame is that command as the reply to that request.
func (p *peer) hear(id uint32, body string) {
	p.t.Helper()
	got, err := p.conn.Recv(nil)
	want := append(binary.BigEndian.AppendUint32(nil, id|1<<31), body...)
	if err != nil || !bytes.Equal(got, want) {
		p.t.Fatalf("command: got % .40x (%.40q) and %v, want % .40x", got, got, err, want)
	}
}

// asked waits until the link has read the newest request.
func asked(t *testing.T, l *link, id uint32) {
	t.Helper()
	want := binary.BigEndian.AppendUint32(nil, id|1<<31)
	eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return bytes.Equal(l.last, want) && l.heard
	})
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	tick, end := time.NewTicker(time.Millisecond), time.After(patience)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("still not after " + patience.String())
		}
	}
}

type outcome struct {
	body string
	err  error
}

func calling(ctx context.Context, l *link, body string) <-chan outcome {
	done := make(chan outcome, 1)
	go func() { // ends with ctx or the answer
		got, err := l.call(ctx, []byte(body))
		done <- outcome{string(got), err}
	}()
	return done
}

func wantAnswer(t *testing.T, done <-chan outcome, want string) {
	t.Helper()
	select {
	case got := <-done:
		if got.err != nil || got.body != want {
			t.Fatalf("answer: got %q and %v, want %q", got.body, got.err, want)
		}
	case <-time.After(patience):
		t.Fatalf("answer: none, want %q", want)
	}
}

func TestLink_callsAndAnswers(t *testing.T) {
	l, p := newPeer(t)
	p.connect()
	p.say(1, handshake)
	if err := l.await(t.Context()); err != nil {
		t.Fatal(err)
	}
	for id := uint32(1); id < 20; id++ {
		done := calling(t.Context(), l, fmt.Sprint("do ", id))
		p.hear(id, fmt.Sprint("do ", id))
		p.say(id+1, fmt.Sprint("did ", id))
		wantAnswer(t, done, fmt.Sprint("did ", id))
	}
}

func TestLink_callBeforeThePluginAsks(t *testing.T) {
	l, p := newPeer(t)
	done := calling(t.Context(), l, "early")
	p.connect()
	p.say(1, handshake)
	p.hear(1, "early")
	p.say(2, "ok")
	wantAnswer(t, done, "ok")
}

// The Go SDK sends its unanswered request again every 60 s: upstream then loses
// the next command.
func TestLink_sameRequestAgainAfterIdle(t *testing.T) {
	l, p := newPeer(t)
	p.connect()
	for range 5 {
		p.say(7, "ok")
	}
	done := calling(t.Context(), l, "start")
	p.hear(7, "start")
	p.say(7, "ok") // crossed with the command
	p.say(8, "ok, started")
	wantAnswer(t, done, "ok, started")
	done = calling(t.Context(), l, "stop")
	p.hear(8, "stop")
	p.say(9, "ok, stopped")
	wantAnswer(t, done, "ok, stopped")
}

// Unread keepalives fill the socket after 23 minutes, and upstream's function is
// lost for good.
func TestLink_reads300Keepalives(t *testing.T) {
	l, p := newPeer(t)
	p.connect()
	for id := range uint32(300) {
		p.say(id, handshake)
	}
	asked(t, l, 299)
	done := calling(t.Context(), l, "exec")
	p.hear(299, "exec")
	p.say(300, "result")
	wantAnswer(t, done, "result")
}

func TestLink_keepaliveCrossesCommand(t *testing.T) {
	l, p := newPeer(t)
	p.connect()
	p.say(1, handshake)
	done := calling(t.Context(), l, "exec")
	p.hear(1, "exec") // the plugin had stopped waiting for it, and drops it
	p.say(2, handshake)
	p.hear(2, "exec")
	p.say(3, "result")
	wantAnswer(t, done, "result")
}

func TestLink_reconnect(t *testing.T) {
	for _, tt := range []struct {
		name  string
		after func(p *peer) // what the plugin does on its new connection
	}{
		{"before the command arrived", func(p *peer) {
			p.say(1, handshake)
			p.hear(1, "exec")
			p.say(2, "result")
		}},
		{"with the answer", func(p *peer) { p.say(2, "result") }},
		{"after a keepalive was lost", func(p *peer) {
			p.say(2, handshake)
			p.hear(2, "exec")
			p.say(3, "result")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, p := newPeer(t)
			p.connect()
			p.say(1, handshake)
			done := calling(t.Context(), l, "exec")
			p.hear(1, "exec")
			p.connect()
			tt.after(p)
			wantAnswer(t, done, "result")
		})
	}
}

// A living plugin that redials repeats its last words, which answer nothing.
func TestLink_reconnectWhileIdle(t *testing.T) {
	for _, id := range []uint32{2, 3} {
		l, p := newPeer(t)
		p.connect()
		p.say(1, handshake)
		done := calling(t.Context(), l, "first")
		p.hear(1, "first")
		p.say(2, "old answer")
		wantAnswer(t, done, "old answer")
		p.connect()
		p.say(id, "old answer")
		asked(t, l, id)
		done = calling(t.Context(), l, "second")
		p.hear(id, "second")
		p.say(9, "new answer")
		wantAnswer(t, done, "new answer")
	}
}

// Both connections are open for a moment: the newest counts.
func TestLink_newestConnectionWins(t *testing.T) {
	l, p := newPeer(t)
	p.connect()
	p.say(1, handshake)
	asked(t, l, 1)
	old := p.conn
	p.conn = nil
	p.connect()
	p.say(5, handshake)
	asked(t, l, 5)
	if _, err := old.Recv(nil); err == nil {
		t.Error("the older connection is still open")
	}
	done := calling(t.Context(), l, "exec")
	p.hear(5, "exec")
	p.say(6, "result")
	wantAnswer(t, done, "result")
}

func TestLink_lateAnswerIsDropped(t *testing.T) {
	l, p := newPeer(t)
	p.connect()
	p.say(1, handshake)
	short, cancel := context.WithCancel(t.Context())
	slow := calling(short, l, "slow")
	p.hear(1, "slow")
	cancel()
	if got := <-slow; !errors.Is(got.err, context.Canceled) {
		t.Errorf("cancelled call: got %v, want context.Canceled", got.err)
	}
	if err := l.health(); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("health with a call unanswered: got %v, want ErrUnavailable", err)
	}
	next := calling(t.Context(), l, "next")
	p.say(2, "slow's answer")
	p.hear(2, "next")
	p.say(3, "next's answer")
	wantAnswer(t, next, "next's answer")
	if err := l.health(); err != nil {
		t.Errorf("health afterwards: got %v, want nil", err)
	}
}

// A command that the plugin never read must not be done once nobody waits for it.
func TestLink_abandonedIsNotSentAgain(t *testing.T) {
	l, p := newPeer(t)
	p.connect()
	p.say(1, handshake)
	short, cancel := context.WithCancel(t.Context())
	first := calling(short, l, "first")
	p.hear(1, "first")
	cancel()
	<-first
	p.say(2, handshake)
	next := calling(t.Context(), l, "next")
	p.hear(2, "next")
	p.say(3, "ok")
	wantAnswer(t, next, "ok")
}

func TestLink_queueHonoursDeadlines(t *testing.T) {
	l, p := newPeer(t)
	p.connect()
	p.say(1, handshake)
	first := calling(t.Context(), l, "first")
	p.hear(1, "first")
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if got := <-calling(short, l, "second"); !errors.Is(got.err, plugin.ErrDeadline) || !strings.Contains(got.err.Error(), "earlier calls") {
		t.Errorf("second: got %v, want ErrDeadline that says why", got.err)
	}
	if done, err := l.tryCall(t.Context(), nil); done || err != nil {
		t.Errorf("try: got %v and %v, want false: it is in a call", done, err)
	}
	p.say(2, "ok")
	wantAnswer(t, first, "ok")
}

func TestLink_closeEndsCalls(t *testing.T) {
	l, p := newPeer(t)
	p.connect()
	p.say(1, handshake)
	sent := calling(t.Context(), l, "sent")
	p.hear(1, "sent")
	waiting := calling(t.Context(), l, "waiting")
	l.close()
	for _, done := range []<-chan outcome{sent, waiting, calling(t.Context(), l, "late")} {
		if got := <-done; !errors.Is(got.err, plugin.ErrUnavailable) {
			t.Errorf("call: got %v, want ErrUnavailable", got.err)
		}
	}
}

func TestLink_answerTooLarge(t *testing.T) {
	l, p := newPeer(t)
	p.connect()
	p.say(1, handshake)
	done := calling(t.Context(), l, "big")
	p.hear(1, "big")
	p.say(2, strings.Repeat("x", 5000))
	var large *sp.TooLargeError
	if got := <-done; !errors.As(got.err, &large) {
		t.Fatalf("big answer: got %v, want a TooLargeError", got.err)
	}
	done = calling(t.Context(), l, "small")
	p.hear(2, "small")
	p.say(3, "ok")
	wantAnswer(t, done, "ok")
}

// A plugin that does not read, and a command longer than its socket holds.
func TestLink_stuckPluginDoesNotHoldTheCaller(t *testing.T) {
	l, p := newPeer(t)
	p.connect()
	p.say(1, handshake)
	asked(t, l, 1)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	got := <-calling(short, l, strings.Repeat("x", 4<<20))
	if !errors.Is(got.err, plugin.ErrDeadline) {
		t.Fatalf("long command: got %v, want ErrDeadline", got.err)
	}
	p.connect()
	p.say(1, handshake)
	done := calling(t.Context(), l, "next")
	p.hear(1, "next")
	p.say(2, "ok")
	wantAnswer(t, done, "ok")
}

// The Go SDK's own library, with its 60 s re-send made 5 ms.
func TestLink_mangosResendsAreDoneOnce(t *testing.T) {
	l, p := newPeer(t)
	sock, err := req.NewSocket()
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	for name, value := range map[string]any{
		mangos.OptionRetryTime: 5 * time.Millisecond, mangos.OptionRecvDeadline: patience,
	} {
		if err := sock.SetOption(name, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := sock.Dial("ipc://" + p.path); err != nil {
		t.Fatal(err)
	}
	if err := sock.Send([]byte(handshake)); err != nil {
		t.Fatal(err)
	}
	for n := range 20 {
		<-time.After(12 * time.Millisecond) // an idle spell, in which mangos repeats its request
		want := fmt.Sprint("do ", n)
		done := calling(t.Context(), l, want)
		if got, err := sock.Recv(); err != nil || string(got) != want {
			t.Fatalf("command: got %q and %v, want %q", got, err, want)
		}
		if err := sock.Send([]byte("did " + want)); err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, done, "did "+want)
	}
}
