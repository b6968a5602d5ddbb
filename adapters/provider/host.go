package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// logBytesMax is kept of one log post.
	logBytesMax = 1 << 20
	// drainBytesMax is read and thrown away of a longer one: a log post that is
	// cut off counts as failed with the provider, and that must not happen.
	drainBytesMax = 256 << 20
	// leavingBytesMax is an error with a few messages.
	leavingBytesMax = 64 << 10
	// closeMax is how long handlers that are still at work when the process is
	// gone may take: what it said last is kept, and its end is not told late.
	closeMax = 50 * time.Millisecond
	// apiPath begins every call of the Digital Rebar REST API.
	apiPath = "/api/v3/"
)

// hostPrefixes are the paths of our server: what the library posts to, what its
// documentation says, and both of protocol version 2.
var hostPrefixes = [...]string{
	"/api-server-plugin/v4", "/api-plugin-server/v4", "/api-server-plugin/v3", "/api-plugin-server/v3",
}

// A host serves the socket that one provider posts to.
type host struct {
	socket string
	server *http.Server
	served chan struct{} // closed when the server has ended

	out  io.Writer
	hide redactor
	emit func(context.Context, plugin.Event) error
	// stored are the object types that the provider declared.
	stored map[string]plugin.RawJSON
	left   chan fault // what the first leaving post said; more are ignored
}

// bind opens the socket. The file is blocking, so that it can be inherited.
func bind(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("host socket: %w: %w", plugin.ErrUnavailable, err)
	}
	file := os.NewFile(uintptr(fd), path)
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err == nil {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("host socket: %w: %w", plugin.ErrUnavailable, err)
	}
	return file, nil
}

// serve answers the socket until close or leave. The caller closes file.
func (h *host) serve(file *os.File) error {
	listener, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("host socket: %w: %w", plugin.ErrUnavailable, err)
	}
	h.left, h.served = make(chan fault, 1), make(chan struct{})
	// No timeout for idle connections: a provider that posts a log line on one
	// that we just closed would count that as failed.
	// What net/http would log is about connections of a process that ends.
	h.server = &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), ReadHeaderTimeout: time.Minute}
	go func() { // ends with close
		defer close(h.served)
		_ = h.server.Serve(listener)
	}()
	return nil
}

// close is for when the process is gone.
func (h *host) close() {
	h.leave()
	_ = os.Remove(h.socket)
}

// leave ends the server and keeps the socket, in which the process's connections
// wait for the next daemon.
func (h *host) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), closeMax)
	defer cancel()
	if h.server.Shutdown(ctx) != nil {
		_ = h.server.Close()
	}
	<-h.served
}

// ServeHTTP answers one post of the provider.
func (h *host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	for _, prefix := range hostPrefixes {
		if rest, ok := strings.CutPrefix(path, prefix); ok {
			path = rest
			break
		}
	}
	switch {
	case path == "/log":
		h.log(w, r)
	case path == "/publish" && r.Method == http.MethodPost:
		h.publish(w, r)
	case path == "/leaving" && r.Method == http.MethodPost:
		h.leaving(w, r)
	case strings.HasPrefix(path, "/objects/") && r.Method == http.MethodGet:
		h.objects(w, r, strings.TrimPrefix(path, "/objects/"))
	case strings.HasPrefix(path, apiPath):
		writeFault(w, r, http.StatusNotImplemented, "patchbay does not serve the Digital Rebar API to providers yet")
	default:
		writeFault(w, r, http.StatusNotFound)
	}
}

// log takes one line. Whatever happens, the answer is 204.
func (h *host) log(w http.ResponseWriter, r *http.Request) {
	defer w.WriteHeader(http.StatusNoContent)
	data, _ := io.ReadAll(io.LimitReader(r.Body, logBytesMax))
	_, _ = io.CopyN(io.Discard, r.Body, drainBytesMax)
	if line := h.line(data); line != nil {
		_, _ = h.out.Write(line)
	}
}

// An event is what we read of the protocol's.
type event struct {
	Time              time.Time
	Type, Action, Key string
}

func (h *host) publish(w http.ResponseWriter, r *http.Request) {
	data, err := readBody(r.Body, r.ContentLength, plugin.EventDataBytesMax)
	switch {
	case errors.Is(err, errTooLong):
		writeFault(w, r, http.StatusRequestEntityTooLarge, fmt.Sprintf("an event has at most %d bytes", plugin.EventDataBytesMax))
		return
	case err != nil:
		writeFault(w, r, http.StatusBadRequest, err.Error())
		return
	}
	e, err := parseEvent(data)
	if err != nil {
		writeFault(w, r, http.StatusBadRequest, err.Error())
		return
	}
	if err := h.emit(r.Context(), e); err != nil {
		writeFault(w, r, http.StatusConflict, h.hide.text(err.Error()))
		return
	}
	writeFault(w, r, http.StatusOK)
}

// parseEvent keeps the provider's event whole as data; its type becomes
// "TYPE.ACTION" and its key the subject.
func parseEvent(data []byte) (plugin.Event, error) {
	var e event
	if err := json.Unmarshal(data, &e); err != nil {
		return plugin.Event{}, fmt.Errorf("not an event: %w", err)
	}
	if e.Type == "" || e.Action == "" {
		return plugin.Event{}, errors.New("not an event: Type or Action is empty")
	}
	return plugin.Event{
		Type: word(e.Type) + "." + word(e.Action), Subject: e.Key, Time: e.Time,
		ContentType: "application/json", Data: bytes.TrimSpace(data),
	}, nil
}

// word makes a text fit for a subject's token.
func word(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' {
			return r
		}
		return '_'
	}, s)
}

// leaving answers first: the caller is what is to be stopped.
func (h *host) leaving(w http.ResponseWriter, r *http.Request) {
	data, _ := io.ReadAll(io.LimitReader(r.Body, leavingBytesMax))
	why, _ := parseFault(data)
	w.WriteHeader(http.StatusNoContent)
	_ = http.NewResponseController(w).Flush()
	select {
	case h.left <- why:
	default:
	}
}

// objects answers for a store that holds nothing: patchbay keeps no Digital
// Rebar objects yet.
func (h *host) objects(w http.ResponseWriter, r *http.Request, of string) {
	if _, ok := h.stored[of]; !ok {
		writeFault(w, r, http.StatusNotFound, "no such object")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, "[]")
}

// writeFault answers with the protocol's error body, which is its success body too.
func writeFault(w http.ResponseWriter, r *http.Request, code int, messages ...string) {
	body, err := json.Marshal(fault{Key: r.URL.Path, Type: r.Method, Messages: messages, Code: code})
	if err != nil {
		code, body = http.StatusInternalServerError, []byte(`{"Code":500}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(body)
}
