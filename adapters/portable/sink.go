package portable

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"syscall"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/portable/sp"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// dialMost is how long a started sink may take to listen: the SDKs try for
	// 3.1 s (Go) and 0.5 s (Python) themselves.
	dialMost = 5 * time.Second
	// dialPace is between two attempts.
	dialPace = 10 * time.Millisecond
	// ackBytesMax holds {"error":"..."} with any reasonable text.
	ackBytesMax = 64 << 10
)

// sink starts a sink, or takes up one that is parked, and feeds it from the bus.
func (i *instance) sink(ctx context.Context, s plugin.Stream, pipe plugin.Pipe) error {
	out, err := i.openOutlet(ctx, s)
	if err != nil {
		return err
	}
	err = out.feed(ctx, pipe)
	i.leave(out, err)
	return err
}

// An outlet is a sink that runs in the plugin, with its acknowledgements read.
type outlet struct {
	key    string // the sink and its configuration
	symbol symbol
	acks   *sp.Server
	log    *slog.Logger
	dial   func(context.Context) (*sp.Conn, error)
	most   int // the longest message that the plugin takes
}

func (i *instance) openOutlet(ctx context.Context, s plugin.Stream) (*outlet, error) {
	key := s.Sink + "\x00" + string(s.Config)
	i.mu.Lock()
	out := i.parked[key]
	delete(i.parked, key)
	i.mu.Unlock()
	if out != nil {
		return out, nil
	}
	return i.newOutlet(ctx, key, s)
}

// newOutlet listens for acknowledgements, which the SDKs insist on, and starts
// the sink, unless an earlier daemon did.
func (i *instance) newOutlet(ctx context.Context, key string, s plugin.Stream) (*outlet, error) {
	sym, running, err := i.symbolFor(kindSink, s.Sink, s.Config)
	if err != nil {
		return nil, err
	}
	out := &outlet{key: key, symbol: sym, log: i.log, most: math.MaxInt}
	if i.spec.Language == languageGo {
		out.most = 1 << 20
	}
	out.dial = func(ctx context.Context) (*sp.Conn, error) {
		return i.sockets.dial(ctx, dataSocket(sym.opID), i.admitting(sp.Handler{Own: sp.Push, Limit: ackBytesMax}))
	}
	out.acks, err = i.serve(ackSocket(sym.opID), sp.Handler{Own: sp.Pull, Limit: ackBytesMax, Handle: out.readAcks})
	if err != nil {
		return nil, err
	}
	if running {
		return out, nil
	}
	if err := i.startSymbol(ctx, sym); err != nil {
		i.stopSymbol(i.life, sym)
		i.release(out.acks)
		return nil, err
	}
	return out, nil
}

// leave ends the use of an outlet. A Python sink is stopped. A Go sink is not,
// because its SDK would leak: it is parked if it works, and otherwise left to the
// end of the process, where everything is stopped.
func (i *instance) leave(out *outlet, broke error) {
	if i.spec.Language == languageGo {
		if broke == nil {
			i.mu.Lock()
			i.parked[out.key] = out
			i.mu.Unlock()
		}
		return
	}
	i.stopSymbol(i.life, out.symbol)
	i.release(out.acks)
}

// readAcks reads one connection's acknowledgements: {} and {"error":""} are good.
// A sink whose acknowledgements nobody reads stops.
func (o *outlet) readAcks(conn *sp.Conn) {
	var buf []byte
	for {
		data, err := conn.Recv(buf)
		var large *sp.TooLargeError
		if err != nil && !errors.As(err, &large) {
			return
		}
		buf = data
		if why := ackFault(data); why != "" {
			o.log.Error("message not taken: "+why, "sink", o.symbol.name)
		}
	}
}

// ackFault says why the sink could not take a message; empty when it could.
func ackFault(data []byte) string {
	var ack struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(data, &ack) != nil {
		return fmt.Sprintf("%.200q", data)
	}
	return ack.Error
}

// feed gives the sink message after message until ctx ends (nil) or it has
// stopped listening.
func (o *outlet) feed(ctx context.Context, pipe plugin.Pipe) error {
	var unsent []byte // the message during which a connection broke
	for {
		conn, err := o.connect(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("sink %s: %w: it does not listen: %w", o.symbol.name, plugin.ErrUnavailable, err)
		}
		unsent, err = o.pump(ctx, conn, pipe, unsent)
		if err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// connect dials until the sink listens.
func (o *outlet) connect(ctx context.Context) (*sp.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialMost)
	defer cancel()
	tick := time.NewTicker(dialPace)
	defer tick.Stop()
	for {
		conn, err := o.dial(ctx)
		if err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
			return conn, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// pump feeds one connection until it breaks, and returns the message that did
// not leave; an error is the pipe's.
func (o *outlet) pump(ctx context.Context, conn *sp.Conn, pipe plugin.Pipe, unsent []byte) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { // ends with the connection, which is closed with ctx
		defer close(ended)
		defer cancel()
		_, _ = conn.Recv(nil) // a sink never writes: this returns when it is gone
	}()
	defer func() { <-ended }()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	defer cancel()
	for {
		data := unsent
		if data == nil {
			var err error
			if data, err = pipe.Next(ctx); err != nil {
				return nil, o.pipeError(ctx, err)
			}
		}
		if unsent = nil; len(data) > o.most {
			o.log.Error("message dropped: a Go plugin takes at most 1 MiB", "sink", o.symbol.name, "bytes", len(data))
			continue
		}
		if err := conn.Send(nil, data); err != nil {
			return data, nil
		}
	}
}

// pipeError is nil when it was the connection or the caller that ended the wait.
func (o *outlet) pipeError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("sink %s: %w", o.symbol.name, err)
}
