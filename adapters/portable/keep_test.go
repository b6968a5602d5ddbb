package portable

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/adapters/portable/sp"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// passed is a link that another daemon's link has become: its peer's connection
// and its mark went on.
func passed(t *testing.T, p *peer, m *mark, old *sp.Server) *link {
	t.Helper()
	l := newLink("passed", slog.New(slog.DiscardHandler))
	l.resume(m)
	ours, theirs := socketPair(t)
	server := sp.Serve(closedListener(t), sp.Handler{Own: sp.Rep, Limit: 1 << 10, Handle: l.serve})
	t.Cleanup(server.Close)
	old.Close()
	server.Resume(ours, sp.Past{Whole: true})
	p.conn = sp.Resume(theirs, 1<<20, sp.Past{Whole: true})
	return l
}

func closedListener(t *testing.T) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: t.TempDir() + "/s", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func socketPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for n, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		conn, err := net.FileConn(file)
		if err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
		conns[n] = conn.(*net.UnixConn)
		t.Cleanup(func() { _ = conn.Close() })
	}
	return conns[0], conns[1]
}

// resumed is a link that goes on after one that stood like that with its peer, at
// request 5.
func resumed(t *testing.T, s standing) (*link, *peer) {
	t.Helper()
	var m mark
	m.write(binary.BigEndian.AppendUint32(nil, 5|1<<31), s)
	p := &peer{t: t}
	old := sp.Serve(closedListener(t), sp.Handler{})
	return passed(t, p, &m, old), p
}

func TestLink_goesOnWithWhatAwaitsAReply(t *testing.T) {
	l, p := resumed(t, awaiting)
	if err := l.await(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := calling(t.Context(), l, "do")
	p.hear(5, "do")
	p.say(6, "did")
	wantAnswer(t, done, "did")
}

func TestLink_dropsTheAnswerToAnEarlierDaemon(t *testing.T) {
	l, p := resumed(t, replied)
	done := calling(t.Context(), l, "new")
	p.say(6, "old answer")
	p.hear(6, "new")
	p.say(7, "new answer")
	wantAnswer(t, done, "new answer")
}

// The daemon was killed between its note and the command: the plugin asks again,
// with the same id or with a keepalive.
func TestLink_wasKilledBeforeItSent(t *testing.T) {
	for name, id := range map[string]uint32{"same id": 5, "keepalive": 6} {
		t.Run(name, func(t *testing.T) {
			l, p := resumed(t, replied)
			done := calling(t.Context(), l, "new")
			p.say(id, handshake)
			p.hear(id, "new")
			p.say(id, handshake) // once more is the SDK's re-send, and changes nothing
			p.say(7, "did")
			wantAnswer(t, done, "did")
		})
	}
}

// A new connection after the adoption repeats the request: it is answered there.
func TestLink_reconnectsAfterTheAdoption(t *testing.T) {
	var m mark
	m.write(binary.BigEndian.AppendUint32(nil, 5|1<<31), awaiting)
	l, p := newPeer(t)
	l.resume(&m)
	done := calling(t.Context(), l, "do")
	p.connect()
	p.say(5, "the answer to a command of the dead")
	p.hear(5, "do")
	p.say(6, "did")
	wantAnswer(t, done, "did")
}

func TestMark_isWhatWasNoted(t *testing.T) {
	id := []byte{0x80, 1, 2, 3}
	for _, tt := range []struct {
		id   []byte
		s    standing
		want standing
	}{{id, awaiting, awaiting}, {id, replied, replied}, {append([]byte{0, 0, 0, 1}, id...), awaiting, unheard}} {
		var m mark
		m.write(tt.id, tt.s)
		got, s := m.read()
		if s != tt.want || s != unheard && !bytes.Equal(got, tt.id) {
			t.Errorf("mark of % x, %d: got % x, %d", tt.id, tt.s, got, s)
		}
	}
	var none *mark
	none.write(id, awaiting)
	if _, s := none.read(); s != unheard {
		t.Errorf("no mark: got %d", s)
	}
}

// handedOver is what openKeep makes of a keep as another process has it.
func handedOver(t *testing.T, k *keep, functions []string) (*keep, record, error) {
	t.Helper()
	var ends [2]*os.File
	for n, file := range []*os.File{k.take, k.put} {
		fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		ends[n] = os.NewFile(uintptr(fd), "end")
	}
	k.close()
	return openKeep(ends[0], ends[1], functions, slog.New(slog.DiscardHandler))
}

func newTestKeep(t *testing.T, links int) *keep {
	t.Helper()
	k, err := newKeep(links, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeep_handsOverConnectionsAndRecord(t *testing.T) {
	k := newTestKeep(t, 2)
	k.mark(1).write([]byte{0x80, 0, 0, 9}, awaiting)
	want := record{Functions: []string{"f"}, OpIDs: 3, Symbols: []recordedSymbol{{Kind: kindSource, Name: "s", OpID: "s_3", Config: plugin.RawJSON(`{}`)}}}
	var peers []*net.UnixConn
	for n := range 5 { // the last three stay
		ours, theirs := socketPair(t)
		conn := sp.Resume(ours, 100, sp.Past{Whole: true})
		k.add(fmt.Sprint("socket ", n), conn)
		k.write(func() record { return want })
		if n < 2 {
			k.remove(conn)
			_ = ours.Close()
			k.write(func() record { return want })
			if _, err := theirs.Read(make([]byte, 1)); err == nil {
				t.Error("a connection that was closed is kept open")
			}
			continue
		}
		peers = append(peers, theirs)
	}
	second, got, err := handedOver(t, k, []string{"f"})
	if err != nil {
		t.Fatal(err)
	}
	defer second.close()
	if _, s := second.mark(1).read(); s != awaiting || got.OpIDs != 3 || len(got.Symbols) != 1 || got.Symbols[0].OpID != "s_3" {
		t.Errorf("got %+v, standing %d", got, s)
	}
	for n, theirs := range peers {
		found := second.claim(fmt.Sprint("socket ", n+2))
		if len(found) != 1 {
			t.Fatalf("socket %d: got %d connections", n+2, len(found))
		}
		if _, err := found[0].socket.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if b := make([]byte, 1); func() bool { _, err := theirs.Read(b); return err != nil || b[0] != 'x' }() {
			t.Errorf("socket %d: it is not the connection", n+2)
		}
		_ = found[0].socket.Close()
	}
}

// What the next daemon finds can be made by the plugin: it takes no harm.
func TestOpenKeep_refusesWhatIsStrange(t *testing.T) {
	plain, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	good, err := memory([]byte(`{"functions":["f"]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer good.Close()
	for name, tamper := range map[string]func(*keep) error{
		"nothing":         func(*keep) error { return nil },
		"no descriptors":  func(k *keep) error { return unix.Sendmsg(int(k.put.Fd()), []byte{1}, nil, nil, 0) },
		"another message": func(k *keep) error { return unix.Sendmsg(int(k.put.Fd()), []byte("xx"), nil, nil, 0) },
		"plain files": func(k *keep) error {
			return unix.Sendmsg(int(k.put.Fd()), []byte{1}, unix.UnixRights(int(plain.Fd()), int(plain.Fd())), nil, 0)
		},
		"marks that can shrink": func(k *keep) error {
			return unix.Sendmsg(int(k.put.Fd()), []byte{1}, unix.UnixRights(int(plain.Fd()), int(good.Fd())), nil, 0)
		},
		"few marks": func(k *keep) error {
			few, err := newMarks(1)
			if err != nil {
				return err
			}
			defer few.close()
			return unix.Sendmsg(int(k.put.Fd()), []byte{1}, unix.UnixRights(int(few.file.Fd()), int(good.Fd())), nil, 0)
		},
		"too many messages": func(k *keep) error {
			for range messagesMax + 1 {
				k.write(func() record { return record{Functions: []string{"f"}} })
				k.written = false
			}
			return nil
		},
		"of other functions": func(k *keep) error {
			k.write(func() record { return record{Functions: []string{"g"}} })
			return nil
		},
	} {
		k := newTestKeep(t, 2)
		if err := tamper(k); err != nil {
			t.Fatal(err)
		}
		if _, _, err := handedOver(t, k, []string{"f"}); !errors.Is(err, plugin.ErrUnavailable) {
			t.Errorf("%s: got %v, want plugin.ErrUnavailable", name, err)
		}
	}
}

// A connection that is none is left out.
func TestOpenKeep_connectionsThatAreNone(t *testing.T) {
	k := newTestKeep(t, 1)
	text, err := json.Marshal(record{Sockets: []recordedSocket{{Name: "x"}}})
	if err != nil {
		t.Fatal(err)
	}
	written, err := memory(text)
	if err != nil {
		t.Fatal(err)
	}
	defer written.Close()
	rights := unix.UnixRights(int(k.marks.file.Fd()), int(written.Fd()), int(written.Fd()))
	if err := unix.Sendmsg(int(k.put.Fd()), []byte{1}, rights, nil, 0); err != nil {
		t.Fatal(err)
	}
	second, _, err := handedOver(t, k, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer second.close()
	if found := second.claim("x"); len(found) != 0 {
		t.Errorf("got %d connections", len(found))
	}
}

func TestKeep_nilKeepsNothing(t *testing.T) {
	var k *keep
	k.add("x", sp.Resume(nil, 1, sp.Past{}))
	k.write(func() record { panic("asked for nothing") })
	if k.claim("x") != nil || k.freeze() != nil || k.mark(0) != nil {
		t.Error("it keeps something")
	}
	k.close()
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"functions":["f"],"opIds":2,"symbols":[{"kind":"source","name":"s","opId":"s_1","config":{}}],"sockets":[{"name":"x","rest":"AQ==","whole":true}]}`), 1)
	f.Add([]byte(`{"functions":["f"],"symbols":[{"kind":"sink","name":"../x","opId":"../x"}]}`), 0)
	f.Fuzz(func(t *testing.T, text []byte, sockets int) {
		r, err := parseRecord(text, []string{"f"}, sockets)
		if err != nil {
			return
		}
		if !slices.Equal(r.Functions, []string{"f"}) || len(r.Sockets) != sockets {
			t.Errorf("record %q: got %+v", text, r)
		}
		for _, s := range r.Symbols {
			if _, err := (symbol{kind: s.Kind, name: s.Name, opID: s.OpID, source: s.Source, config: s.Config}).encode("stop"); err != nil {
				t.Errorf("record %q: %v", text, err)
			}
			if socket := ackSocket(s.OpID); strings.ContainsAny(socket, "/\x00") {
				t.Errorf("record %q: socket %q", text, socket)
			}
		}
	})
}

func FuzzHandle(f *testing.F) {
	f.Add([]byte(`{"process":{"pid":7,"boot":"b","start":1,"executable":"e","mark":"n/portable/i"}}`))
	f.Add([]byte(`{"process":{"pid":1e99}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := parseHandle(data); err != nil && !errors.Is(err, plugin.ErrInvalid) {
			t.Errorf("handle %q: got %v", data, err)
		}
	})
}
