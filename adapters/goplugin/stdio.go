package goplugin

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	stdioMethod = "/plugin.GRPCStdio/StreamStdio"
	// stdioRetry is the pace of reopening the stream when the connection broke
	// and the plugin lives: it stops once its pipe is full.
	stdioRetry = 100 * time.Millisecond
	// stdioWait is how long the first opening may be put off for the plugin's first
	// answer: in a process that has just started both cost a millisecond, and only the
	// answer is waited for. What is printed meanwhile waits in the plugin's pipe, which
	// stops it when that is full; a plugin that prints that much is read soon.
	stdioWait = 20 * time.Millisecond
	// stderrChannel is StdioData's number; 1 is stdout.
	stderrChannel = 2
)

// drain copies what the plugin prints to the logs until ctx or the plugin ends.
// The stream is opened behind the plugin's first answer, and exists once: go-plugin
// delivers each byte to one reader.
func (g *grpcLink) drain(ctx context.Context, answered <-chan struct{}) {
	select {
	case <-answered:
	case <-ctx.Done():
	case <-time.After(stdioWait):
	}
	for ctx.Err() == nil {
		if err := g.copyOutput(ctx); status.Code(err) == codes.Unimplemented {
			return // a plugin in another language; its files have everything
		}
		select {
		case <-g.Done():
			return
		case <-ctx.Done():
		case <-time.After(stdioRetry):
		}
	}
}

func (g *grpcLink) copyOutput(ctx context.Context) error {
	s, err := g.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, stdioMethod, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	if err := s.SendMsg(&emptypb.Empty{}); err != nil {
		return err
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	for {
		// StdioData{channel = 1, data = 2}, read as fields that Empty does not know.
		var chunk emptypb.Empty
		if err := s.RecvMsg(&chunk); err != nil {
			return err
		}
		if channel, data := stdioData(chunk.ProtoReflect().GetUnknown()); len(data) > 0 {
			_, _ = g.launch.Output.Writer(channel).Write(data)
		}
	}
}

func stdioData(b []byte) (to plugin.LogStream, data []byte) {
	to = plugin.Stdout
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return to, data
		}
		b = b[n:]
		switch {
		case number == 1 && kind == protowire.VarintType:
			channel, _ := protowire.ConsumeVarint(b)
			if channel == stderrChannel {
				to = plugin.Stderr
			}
		case number == 2 && kind == protowire.BytesType:
			data, _ = protowire.ConsumeBytes(b)
		}
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return to, data
		}
		b = b[n:]
	}
	return to, data
}
