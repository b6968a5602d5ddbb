package container

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/client"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// execEngine is the part of an engine that runs commands: "hang" runs for ever,
// any other prints itself twice and exits with its number of words.
type execEngine struct {
	mu      sync.Mutex
	command []string
	running bool
	made    int
}

func newExecEngine(t *testing.T) (*execEngine, *service) {
	t.Helper()
	e := &execEngine{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1.47/containers/box/exec", e.make)
	mux.HandleFunc("POST /v1.47/exec/{id}/start", e.start)
	mux.HandleFunc("GET /v1.47/exec/{id}/json", e.inspect)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	docker, err := client.NewClientWithOpts(client.WithHost("tcp://"+server.Listener.Addr().String()), client.WithVersion("1.47"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = docker.Close() })
	return e, &service{instance: &instance{engine: docker, id: "box"}, spec: Spec{Port: 80}, base: "http://127.0.0.1:32768"}
}

func (e *execEngine) make(w http.ResponseWriter, r *http.Request) {
	var asked struct{ Cmd []string }
	_ = json.NewDecoder(r.Body).Decode(&asked)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.made++
	e.command, e.running = asked.Cmd, true
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, `{"Id":"e%d"}`, e.made)
}

func (e *execEngine) start(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprint(conn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	e.mu.Lock()
	words := strings.Join(e.command, " ")
	e.mu.Unlock()
	if words == "hang" {
		_, _ = io.Copy(io.Discard, conn) // until the other end leaves
		return
	}
	for stream := byte(1); stream <= 2; stream++ {
		writeFrame(conn, stream, strings.Repeat(words, 1000))
	}
	e.mu.Lock()
	e.running = false
	e.mu.Unlock()
}

// writeFrame writes what a command printed as the engine does.
func writeFrame(conn net.Conn, stream byte, text string) {
	head := [8]byte{stream}
	binary.BigEndian.PutUint32(head[4:], uint32(len(text)))
	_, _ = conn.Write(append(head[:], text...))
}

func (e *execEngine) inspect(w http.ResponseWriter, _ *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fmt.Fprintf(w, `{"Running":%t,"ExitCode":%d,"Pid":1073741825}`, e.running, len(e.command)) // a number beyond what Linux gives
}

func TestExec(t *testing.T) {
	_, v := newExecEngine(t)
	code, output, err := v.Exec(t.Context(), []string{"a", "b"})
	if code != 2 || len(output) != plugin.ExecOutputBytesMax || !strings.HasPrefix(string(output), "a ba b") || err != nil {
		t.Errorf("got %d, %d bytes, %v, want 2 and the head of both streams", code, len(output), err)
	}
}

func TestExec_doesNotPileUp(t *testing.T) {
	e, v := newExecEngine(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, _, err := v.Exec(ctx, []string{"hang"}); !errors.Is(err, plugin.ErrDeadline) {
		t.Errorf("one that hangs: got %v, want deadline", err)
	}
	if _, _, err := v.Exec(t.Context(), []string{"a"}); err == nil || !strings.Contains(err.Error(), "still runs in the container") || e.made != 1 {
		t.Errorf("beside one that cannot be killed: got %v after %d commands", err, e.made)
	}
	e.mu.Lock()
	e.running = false
	e.mu.Unlock()
	if code, _, err := v.Exec(t.Context(), []string{"a"}); code != 1 || err != nil {
		t.Errorf("after it: got %d %v", code, err)
	}
}

func TestAddress(t *testing.T) {
	_, v := newExecEngine(t)
	if got, err := v.Address(80); got != "127.0.0.1:32768" || err != nil {
		t.Errorf("got %q %v", got, err)
	}
	if _, err := v.Address(81); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("a port that is not published: got %v", err)
	}
}
