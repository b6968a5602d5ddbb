package goplugin

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/gobwire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// netrpcMethod is a described method, ready to be called.
type netrpcMethod struct {
	name    string // of the operation
	remote  string // Service.Method
	summary string
	args    *gobwire.Type
	reply   *gobwire.Type
	needs   []int64
}

// netrpc is the link to a net/rpc plugin: one yamux session, made anew when it
// broke and the process lives on.
type netrpc struct {
	*dialer
	turn    chan struct{} // holds one token: whoever has it may change current
	current *session
	end     context.Context // ended by close
	cancel  context.CancelFunc
}

func connectNetRPC(ctx context.Context, d *dialer) (link, error) {
	if len(d.methods) == 0 {
		return nil, fmt.Errorf("connect: %w: the plugin speaks net/rpc, which cannot tell its methods; give spec.goplugin.plugin and describe", plugin.ErrInvalid)
	}
	n := &netrpc{dialer: d, turn: make(chan struct{}, 1)}
	n.end, n.cancel = context.WithCancel(context.Background())
	n.turn <- struct{}{}
	s, err := n.session(ctx)
	if err == nil {
		err = s.ready(ctx)
	}
	if err != nil {
		n.close()
		return nil, connectError(err)
	}
	return n, nil
}

// connectError tells a plugin that will never have the name from a broken line.
func connectError(err error) error {
	var no *plugin.Refusal
	if errors.As(err, &no) {
		return fmt.Errorf("dispense: %w: %s; check spec.goplugin.plugin", plugin.ErrInvalid, no.Message)
	}
	if errors.Is(err, plugin.ErrInvalid) || errors.Is(err, plugin.ErrUnavailable) {
		return err
	}
	return startFailed("connect", err)
}

// session returns the session in use, or a new one when that has ended.
func (n *netrpc) session(ctx context.Context) (*session, error) {
	select {
	case <-n.turn:
		defer func() { n.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if n.end.Err() != nil {
		return nil, errClosed
	}
	if n.current != nil && !n.current.mux.IsClosed() {
		return n.current, nil
	}
	if n.current != nil {
		n.current.close()
		n.current = nil
	}
	s, err := openSession(ctx, n.dialer)
	if err == nil {
		n.current = s
	}
	return s, err
}

func (n *netrpc) invoke(ctx context.Context, in plugin.Invocation, send func([]byte) error) error {
	m := n.methods[in.Operation]
	if m == nil {
		return fmt.Errorf("%q: %w: not described under spec.goplugin.describe.methods", cut(in.Operation), plugin.ErrNotFound)
	}
	s, err := n.session(ctx)
	if err != nil {
		return broken(ctx, m.name, err)
	}
	answer, err := s.call(ctx, m, in.Data)
	if err != nil {
		return callError(ctx, m.name, err)
	}
	return send(answer)
}

// callError sorts what a call can end with.
func callError(ctx context.Context, operation string, err error) error {
	var fault *gobwire.Fault
	var no *plugin.Refusal
	switch {
	case errors.As(err, &fault):
		return fmt.Errorf("%s: %w: %w", operation, plugin.ErrInvalid, err)
	case errors.As(err, &no):
		return refusal(operation, no)
	case errors.Is(err, gobwire.ErrTooLarge):
		return fmt.Errorf("%s: %w: %w", operation, plugin.ErrInvalid, err)
	}
	return broken(ctx, operation, err)
}

// refusal tells what net/rpc's own server says from what the plugin says: both
// arrive as the text of an error.
func refusal(operation string, no *plugin.Refusal) error {
	switch text := no.Message; {
	case strings.HasPrefix(text, "rpc: can't find "):
		return fmt.Errorf("%s: %w: the plugin has no such method: %s", operation, plugin.ErrNotFound, cut(text))
	case strings.HasPrefix(text, "gob: "):
		return fmt.Errorf("%s: %w: the description of its args is not what the plugin takes: %s", operation, plugin.ErrInvalid, cut(text))
	}
	return no
}

func (*netrpc) streams(string) bool { return false }

func (n *netrpc) operations() []plugin.Operation {
	list := make([]plugin.Operation, 0, len(n.methods))
	for _, m := range n.methods {
		list = append(list, plugin.Operation{Name: m.name, Summary: m.summary, Input: m.args.Schema(nil, ""), Output: m.reply.Schema(nil, "")})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list
}

func (n *netrpc) probe(ctx context.Context) error { return n.ask(ctx, "Control.Ping") }

func (n *netrpc) quit(ctx context.Context) error { return n.ask(ctx, "Control.Quit") }

func (n *netrpc) ask(ctx context.Context, what string) error {
	s, err := n.session(ctx)
	if err == nil {
		_, err = s.control.call(ctx, what, n.table.Bool(), []byte("true"))
	}
	if err != nil {
		return broken(ctx, what, err)
	}
	return nil
}

func (n *netrpc) drained() <-chan struct{} {
	select {
	case <-n.turn:
		defer func() { n.turn <- struct{}{} }()
	case <-n.end.Done():
		return n.end.Done()
	}
	if n.current == nil {
		n.cancel()
		return n.end.Done()
	}
	return n.current.drained
}

func (n *netrpc) close() {
	n.cancel()
	<-n.turn
	if n.current != nil {
		n.current.close()
	}
	n.turn <- struct{}{}
}
