package portable

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/portable/sp"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// sourceGrace is how long a source may be without a connection, at its start and
// when its socket was lost. Both SDKs connect before they answer the start, and
// redial within a second.
const sourceGrace = 3 * time.Second

// source starts a source, or goes on with one that runs, and publishes what it sends until ctx ends or it leaves.
func (i *instance) source(ctx context.Context, s plugin.Stream, pipe plugin.Pipe) error {
	sym, running, err := i.symbolFor(kindSource, s.Source, s.Config)
	if err != nil {
		return err
	}
	in := &intake{name: s.Source, pipe: pipe, log: i.log, moved: make(chan struct{}, 1)}
	server, err := i.serve(dataSocket(sym.opID), sp.Handler{
		Own: sp.Pull, Limit: int(i.manifest.Spec.Limits.Payload) + envelopeBytes, Handle: in.serve,
	})
	if err != nil {
		return err
	}
	defer i.release(server)
	defer i.stopSymbol(i.life, sym) // while its data is still read
	if !running {
		if err := i.startSymbol(ctx, sym); err != nil {
			return err
		}
	}
	return in.watch(ctx, sourceGrace)
}

// An intake takes the tuples of one source. It never makes the source wait.
type intake struct {
	name  string
	pipe  plugin.Pipe
	log   *slog.Logger
	conns atomic.Int32
	last  atomic.Pointer[string] // the newest error that the source reported
	moved chan struct{}          // cap 1: conns has changed
}

// serve reads one connection until it ends.
func (in *intake) serve(conn *sp.Conn) {
	in.conns.Add(1)
	signal(in.moved)
	defer func() {
		in.conns.Add(-1)
		signal(in.moved)
	}()
	var buf []byte
	for {
		data, err := conn.Recv(buf)
		var large *sp.TooLargeError
		switch {
		case errors.As(err, &large):
			in.log.Warn("tuple dropped", "source", in.name, "error", err.Error())
		case err != nil:
			return
		default:
			in.take(data)
		}
		if cap(data) <= keepBufferBytes {
			buf = data
		}
	}
}

// keepBufferBytes is the largest buffer that waits for the next tuple; a rare
// long one does not occupy memory for ever.
const keepBufferBytes = 256 << 10

// take publishes one tuple, or logs the error that it is.
func (in *intake) take(data []byte) {
	message, fault := parseTuple(data)
	if fault != "" {
		in.last.Store(&fault)
		in.log.Error(fault, "source", in.name)
		return
	}
	if err := in.pipe.Publish(message); err != nil {
		in.log.Warn("tuple not published", "source", in.name, "error", err.Error())
	}
}

// watch returns nil when ctx ends, and an error when the source has had no
// connection for as long as grace.
func (in *intake) watch(ctx context.Context, grace time.Duration) error {
	for {
		var missed <-chan time.Time
		if in.conns.Load() == 0 {
			missed = time.After(grace)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-in.moved:
		case <-missed:
			return in.left()
		}
	}
}

func (in *intake) left() error {
	why := "it closed its connection"
	if last := in.last.Load(); last != nil {
		why += "; its last error: " + *last
	}
	return fmt.Errorf("source %s: %w: %s", in.name, plugin.ErrUnavailable, why)
}

// parseTuple reads what a source sends: {"message":...,"meta":...}; {"error":...}
// of the Python SDK; or the same as a JSON text, which is how the Go SDK sends
// an error.
func parseTuple(data []byte) (message []byte, fault string) {
	data = bytes.TrimSpace(data)
	if len(data) > 0 && data[0] == '"' {
		var text string
		if json.Unmarshal(data, &text) == nil {
			return nil, errorText([]byte(text))
		}
	}
	var t struct {
		Message plugin.RawJSON `json:"message"`
	}
	if err := json.Unmarshal(data, &t); err != nil {
		return nil, fmt.Sprintf("not a tuple: %.200q", data)
	}
	if len(t.Message) == 0 || string(t.Message) == "null" {
		return nil, errorText(data)
	}
	return t.Message, ""
}

// errorText is the error in {"error":"..."}; text itself when it is none.
func errorText(text []byte) string {
	var e struct {
		Error *string `json:"error"`
	}
	if json.Unmarshal(text, &e) == nil && e.Error != nil {
		return "error: " + lastLine(*e.Error)
	}
	return fmt.Sprintf("not a tuple: %.200q", text)
}
