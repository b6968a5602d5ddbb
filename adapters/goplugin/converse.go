package goplugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// parts gives an argument part by part, as plugin.Invocation.Parts does.
type parts func(context.Context) ([]byte, error)

var (
	errSpoken = errors.New("the argument ended the call")
	errHeard  = errors.New("the call is over")
)

// converse makes a call that streams one way or both. What it holds is one part of
// each direction and grpc's windows: a reader that is slow to take parts slows the
// plugin, and a plugin that is slow slows the caller.
func (g *grpcLink) converse(ctx context.Context, m *grpcMethod, in plugin.Invocation, send func([]byte) error) error {
	next, err := argument(m, in)
	if err != nil {
		return fmt.Errorf("%s: %w: argument: %w", m.full, plugin.ErrInvalid, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errHeard)
	s, err := g.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: m.serverStreams, ClientStreams: m.clientStreams}, m.path)
	if err != nil {
		return g.failed(ctx, m.full, err)
	}
	var fault error
	said := make(chan struct{})
	go func() { // ends with ctx, which the end of the call ends
		defer close(said)
		if fault = g.say(ctx, s, m, next); fault != nil {
			cancel(errSpoken)
		}
	}()
	err = g.hear(ctx, s, m, in.Told, send)
	cancel(errHeard)
	<-said
	if context.Cause(ctx) == errSpoken {
		return fault
	}
	return err
}

// say sends the argument's parts. That the plugin takes no more is not an error: hear
// says why.
func (g *grpcLink) say(ctx context.Context, s grpc.ClientStream, m *grpcMethod, next parts) error {
	for count := 1; ; count++ {
		part, err := next(ctx)
		if errors.Is(err, io.EOF) {
			_ = s.CloseSend() // always nil
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: argument: %w", m.full, err)
		}
		wire, err := g.wire(m, part)
		if err != nil {
			return fmt.Errorf("%s: %w: argument: part %d: %w", m.full, plugin.ErrInvalid, count, err)
		}
		if count == 1 {
			if wire, err = g.lend(ctx, m, wire); err != nil {
				return err
			}
		}
		if err := s.SendMsg(&request{wire}); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return g.failed(ctx, m.full, err)
		}
	}
}

// hear hands over the answer's parts until it ends.
func (g *grpcLink) hear(ctx context.Context, s grpc.ClientStream, m *grpcMethod, tell func(map[string]string), send func([]byte) error) error {
	if tell != nil {
		defer func() { tell(flat(s.Trailer())) }() // after the last RecvMsg
	}
	for first := true; ; first = false {
		part := &answer{transcoder: g.transcoder, method: m}
		err := s.RecvMsg(part)
		if first && tell != nil {
			header, _ := s.Header() // err tells
			tell(flat(header))
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return g.failed(ctx, m.full, err)
		}
		data, err := part.value()
		if err != nil {
			return err
		}
		if err := send(data); err != nil || !m.serverStreams {
			return err
		}
	}
}

// argument returns the parts of an argument: what the caller streams, the elements of
// a JSON array, or the one message there is.
func argument(m *grpcMethod, in plugin.Invocation) (parts, error) {
	if !m.clientStreams {
		return list(in.Data), nil
	}
	if in.Parts != nil {
		return in.Parts, nil
	}
	switch data := bytes.TrimSpace(in.Data); {
	case len(data) == 0 || string(data) == "null":
		return list[[]byte](), nil
	case data[0] == '[':
		var elements []json.RawMessage
		if err := json.Unmarshal(data, &elements); err != nil {
			return nil, fmt.Errorf("a list of messages: %w", err)
		}
		return list(elements...), nil
	default:
		return list(in.Data), nil
	}
}

func list[B ~[]byte](rest ...B) parts {
	return func(context.Context) ([]byte, error) {
		if len(rest) == 0 {
			return nil, io.EOF
		}
		part := rest[0]
		rest = rest[1:]
		return part, nil
	}
}
