package main

import (
	"context"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/patchbay-dev/patchbay/test/plugins/goplugin/tiny"
)

// tally counts what streams did, so that a test sees what reached the plugin.
type tally struct{ sent, taken, cancelled, open atomic.Int64 }

// stream counts a stream in, and out again when the function it returns is called.
func (t *tally) stream(ctx context.Context) (end func()) {
	t.open.Add(1)
	return func() {
		if ctx.Err() != nil {
			t.cancelled.Add(1)
		}
		t.open.Add(-1)
	}
}

func (s service) Tally(context.Context, *emptypb.Empty) (*tiny.Pairs, error) {
	text := func(n *atomic.Int64) string { return strconv.FormatInt(n.Load(), 10) }
	t := s.tally
	return &tiny.Pairs{Pairs: map[string]string{
		"sent": text(&t.sent), "taken": text(&t.taken), "cancelled": text(&t.cancelled), "open": text(&t.open),
	}}, nil
}

func (s service) Count(in *tiny.Number, to grpc.ServerStreamingServer[tiny.Number]) error {
	defer s.tally.stream(to.Context())()
	for n := range in.GetN() {
		if err := to.Send(&tiny.Number{N: n + 1}); err != nil {
			return err
		}
		s.tally.sent.Add(1)
	}
	return nil
}

func (s service) Flood(in *tiny.Number, to grpc.ServerStreamingServer[tiny.Text]) error {
	defer s.tally.stream(to.Context())()
	text := &tiny.Text{Text: strings.Repeat("x", int(in.GetN()))}
	for {
		if err := to.Send(text); err != nil {
			return err
		}
		s.tally.sent.Add(1)
	}
}

func (s service) Sum(from grpc.ClientStreamingServer[tiny.Number, tiny.Number]) error {
	defer s.tally.stream(from.Context())()
	var sum int32
	for {
		in, err := from.Recv()
		switch {
		case err == io.EOF:
			return from.SendAndClose(&tiny.Number{N: sum})
		case err != nil:
			return err
		case in.GetN() < 0:
			return status.Error(codes.OutOfRange, "a number is negative")
		}
		s.tally.taken.Add(1)
		sum += in.GetN()
	}
}

func (s service) Chat(with grpc.BidiStreamingServer[tiny.Text, tiny.Text]) error {
	defer s.tally.stream(with.Context())()
	for {
		in, err := with.Recv()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		s.tally.taken.Add(1)
		if in.GetText() == "bye" {
			return nil
		}
		if err := with.Send(in); err != nil {
			return err
		}
		s.tally.sent.Add(1)
	}
}

func (s service) Hold(with grpc.BidiStreamingServer[tiny.Text, tiny.Text]) error {
	defer s.tally.stream(with.Context())()
	<-with.Context().Done()
	return with.Context().Err()
}

func (service) Metadata(ctx context.Context, _ *emptypb.Empty) (*tiny.Pairs, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	pairs := map[string]string{}
	for key, values := range md {
		pairs[key] = strings.Join(values, ",")
	}
	if end, ok := ctx.Deadline(); ok {
		pairs["deadline"] = time.Until(end).String()
	}
	if err := grpc.SetHeader(ctx, metadata.Pairs("tiny-header", "first", "tiny-bin", "\x00\x01")); err != nil {
		return nil, err
	}
	if err := grpc.SetTrailer(ctx, metadata.Pairs("tiny-trailer", "last")); err != nil {
		return nil, err
	}
	return &tiny.Pairs{Pairs: pairs}, nil
}

// Fail ends with any status; the detail's type need not exist.
func (service) Fail(_ context.Context, in *tiny.Failure) (*emptypb.Empty, error) {
	no := status.New(codes.Code(in.GetCode()), in.GetMessage()).Proto()
	if in.GetDetailType() != "" {
		no.Details = append(no.Details, &anypb.Any{TypeUrl: in.GetDetailType(), Value: in.GetDetail()})
	}
	return nil, status.ErrorProto(no)
}
