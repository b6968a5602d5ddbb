// Command sink is a plugin of sdk/go/goplugin that has an operation of every form, for the
// tests.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/patchbay-dev/patchbay/sdk/go/goplugin"
)

type node struct {
	Name     string         `json:"name" required:"true" doc:"What it is called."`
	Kind     string         `json:"kind,omitempty" enum:"leaf,branch"`
	Size     int64          `json:"size"`
	At       *time.Time     `json:"at,omitempty"`
	Labels   map[string]int `json:"labels,omitempty"`
	Children []*node        `json:"children,omitempty"`
	Extra    any            `json:"extra,omitempty"`
}

type text struct {
	Text string `json:"text"`
}

type amount struct {
	_ struct{} `doc:"How much."`
	N int      `json:"n"`
}

// sink has an operation of every form.
type sink struct{}

func (*sink) String() string { return "no operation" }

// Close is the last that the plugin does.
func (*sink) Close() error {
	slog.Info("closed")
	return nil
}

func (*sink) Echo(_ context.Context, in node) (*node, error) { return &in, nil }
func (*sink) Nothing(context.Context) error                  { return nil }
func (*sink) Plain(_ context.Context, in []string) (map[string]int, error) {
	return map[string]int{"words": len(in)}, nil
}

func (*sink) Print(ctx context.Context, in text) error {
	slog.DebugContext(ctx, in.Text, "group", slog.GroupValue(slog.Int("n", 1)))
	fmt.Println("stdout: " + in.Text)
	return nil
}

func (*sink) Exit(_ context.Context, in amount) error {
	os.Exit(in.N)
	return nil
}

func (*sink) Wait(ctx context.Context, in amount) error {
	select {
	case <-time.After(time.Duration(in.N) * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Fail ends with an error of each kind.
func (*sink) Fail(_ context.Context, in text) error {
	switch in.Text {
	case "plain":
		return errors.New("it broke")
	case "status":
		return fmt.Errorf("wrapped: %w", status.Error(codes.AlreadyExists, "twice"))
	case "refusal":
		return fmt.Errorf("wrapped: %w", goplugin.Refuse(codes.NotFound, "no %s", "such"))
	case "details":
		return goplugin.Refuse(codes.FailedPrecondition, "not now").With(map[string]any{"retry": 5})
	case "list":
		return goplugin.Refuse(codes.FailedPrecondition, "not now").With([]int{1})
	case "bad details":
		return goplugin.Refuse(codes.FailedPrecondition, "not now").With(make(chan int))
	case "nil":
		var n *node
		return errors.New(n.Name)
	}
	panic(in.Text)
}

func (*sink) Bad(context.Context) ([]*node, error)  { return []*node{{Extra: func() {}}}, nil }
func (*sink) BadNode(context.Context) (node, error) { return node{Children: []*node{nil}}, nil }
func (*sink) Metadata(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	return fmt.Sprint(md.Get("who")), nil
}

func (*sink) Count(_ context.Context, in amount) iter.Seq2[amount, error] {
	return func(yield func(amount, error) bool) {
		for n := range in.N {
			if !yield(amount{N: n + 1}, nil) {
				return
			}
		}
	}
}

func (*sink) CountSent(ctx context.Context, in amount, send func(amount) error) error {
	for n := range in.N {
		if err := send(amount{N: n + 1}); err != nil {
			return err
		}
	}
	if in.N == 2 {
		return goplugin.Refuse(codes.OutOfRange, "two is enough")
	}
	return nil
}

// Forever ends when nobody listens.
func (*sink) Forever(ctx context.Context) iter.Seq2[amount, error] {
	return func(yield func(amount, error) bool) {
		defer slog.InfoContext(ctx, "nobody listens")
		for yield(amount{}, nil) {
		}
	}
}

func (*sink) Sum(_ context.Context, in iter.Seq2[*amount, error]) (amount, error) {
	sum := amount{}
	for part, err := range in {
		if err != nil {
			return sum, err
		}
		if sum.N += part.N; part.N == 0 {
			break // the rest is not asked for
		}
	}
	return sum, nil
}

func (*sink) Chat(_ context.Context, in iter.Seq2[text, error]) iter.Seq2[text, error] {
	return func(yield func(text, error) bool) {
		for part, err := range in {
			if part.Text == "panic" {
				panic("in the middle")
			}
			if !yield(text{"you said " + part.Text}, err) {
				return
			}
		}
	}
}

// Keep does all that a host can be asked.
func (*sink) Keep(ctx context.Context, in text) (json.RawMessage, error) {
	h := goplugin.HostOf(ctx)
	if err := h.Put(ctx, "a/"+in.Text, []byte(in.Text)); err != nil {
		return nil, err
	}
	value, err := h.Get(ctx, "a/"+in.Text)
	if err != nil {
		return nil, err
	}
	keys, err := h.List(ctx, "a/")
	if err != nil {
		return nil, err
	}
	if err := h.Delete(ctx, "a/"+in.Text); err != nil {
		return nil, err
	}
	_, missing := h.Get(ctx, "a/"+in.Text)
	if err := h.Publish(ctx, "sink.kept", in); err != nil {
		return nil, err
	}
	var answer any
	invoked := h.Invoke(ctx, "other", "Op", map[string]int{"n": 1}, &answer)
	return json.Marshal(map[string]any{
		"value": string(value), "keys": keys, "missing": fmt.Sprint(missing), "invoked": fmt.Sprint(invoked), "answer": answer,
	})
}

var _ io.Closer = (*sink)(nil)

func main() {
	goplugin.Serve(&sink{}, goplugin.Name("acme.sink.v1.Sink"), goplugin.Doc("Takes all."),
		goplugin.Operation("Echo", "Answers its argument."), goplugin.Level(slog.LevelDebug))
}
