package goplugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/describe"
	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/gobwire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

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
	if err := d.readDescription(ctx); err != nil {
		return nil, err
	}
	d.choose(d.choices()[0])
	if d.Plugin == "" || len(d.described.Operations) == 0 {
		return nil, fmt.Errorf("connect: %w: the plugin speaks net/rpc, which cannot tell its methods; give spec.goplugin.plugin and describe", plugin.ErrInvalid)
	}
	d.causes = newCauses(d.openStderr)
	n := &netrpc{dialer: d, turn: make(chan struct{}, 1)}
	n.end, n.cancel = context.WithCancel(context.Background())
	n.turn <- struct{}{}
	s, err := n.session(ctx)
	if err == nil {
		err = n.dispenseAny(ctx, s)
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
	answer, err := n.call(ctx, in)
	if err != nil {
		return err
	}
	return send(answer)
}

func (n *netrpc) call(ctx context.Context, in plugin.Invocation) ([]byte, error) {
	o := n.described.Operations[in.Operation]
	if o == nil {
		return nil, fmt.Errorf("%q: %w: not described under spec.goplugin.describe.methods", cut(in.Operation), plugin.ErrNotFound)
	}
	if o.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.Timeout)
		defer cancel()
	}
	argument, err := o.Argument(in.Data)
	if err != nil {
		return nil, callError(ctx, o.Name, err)
	}
	answer, err := n.once(ctx, o, argument, (*session).take)
	if n.again(ctx, o, err) {
		answer, err = n.once(ctx, o, argument, (*session).fresh)
	}
	if err != nil {
		return nil, callError(ctx, o.Name, err)
	}
	return answer, nil
}

// once makes a call once.
func (n *netrpc) once(ctx context.Context, o *describe.Operation, argument []byte, take taker) ([]byte, error) {
	s, err := n.session(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnsent, err)
	}
	mark := n.causes.mark()
	answer, err := s.call(ctx, o, argument, take)
	if err != nil && ctx.Err() == nil {
		err = n.explain(s, mark, err)
	}
	return answer, err
}

// again reports that a failed call is to be made once more: the line broke, the
// plugin lives, and it has not seen the call or may see it twice.
func (n *netrpc) again(ctx context.Context, o *describe.Operation, err error) bool {
	if err == nil || ctx.Err() != nil || !o.Idempotent && !errors.Is(err, errUnsent) {
		return false
	}
	select {
	case <-n.Done():
		return false
	default:
	}
	var fault *gobwire.Fault
	var no *plugin.Refusal
	return errors.Is(err, errSeveral) || !errors.As(err, &fault) && !errors.As(err, &no) && !errors.Is(err, gobwire.ErrTooLarge) && !errors.Is(err, errUnsendable)
}

// deadMost is how long the end of a process is waited for that lost its
// connection: the kernel closes its sockets first.
const deadMost = 100 * time.Millisecond

var (
	// errSeveral says that several calls failed at once, and not which one how.
	errSeveral = errors.New("several calls failed at once")
	// errUnsendable says that the same call will fail again.
	errUnsendable = errors.New("the plugin could not encode its answer")
)

// explain finds out why a stream ended.
func (n *netrpc) explain(s *session, mark int64, err error) error {
	if errors.Is(err, errUncoded) && !s.mux.IsClosed() {
		return explained(n.causes.since(mark), err)
	}
	if !s.mux.IsClosed() {
		return err
	}
	select {
	case <-n.Done():
		return fmt.Errorf("the plugin ended: %s", n.Wait())
	case <-time.After(deadMost):
		return err
	}
}

// explained turns what the plugin printed into the error of a call.
func explained(classes []cause, err error) error {
	switch {
	case len(classes) == 0:
		return fmt.Errorf("%w: it could not encode its answer; what it prints says why", err)
	case len(classes) > 1:
		var names []string
		for _, one := range classes {
			names = append(names, cmp.Or(one.class, one.text))
		}
		return fmt.Errorf("%w: %w: it could not encode its answer because of one of: %s", err, errSeveral, strings.Join(names, ", "))
	case strings.Contains(classes[0].class, "."):
		return unregistered(classes[0].class)
	}
	return fmt.Errorf("%w: %s", errUnsendable, classes[0].text)
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
	case strings.HasPrefix(text, "gob: "), strings.HasPrefix(text, `value for "`) && strings.HasSuffix(text, " out of range"):
		return fmt.Errorf("%s: %w: the description of its args is not what the plugin takes: %s", operation, plugin.ErrInvalid, cut(text))
	}
	return no
}

func (*netrpc) facts() map[string]string { return nil }

func (*netrpc) streams(string) bool { return false }

func (*netrpc) takesParts(string) bool { return false }

func (n *netrpc) operations() []plugin.Operation { return n.described.Offers() }

func (n *netrpc) probe(ctx context.Context) error { return n.ask(ctx, "Control.Ping") }

func (n *netrpc) quit(ctx context.Context) error { return n.ask(ctx, "Control.Quit") }

func (n *netrpc) ask(ctx context.Context, what string) error {
	s, err := n.session(ctx)
	if err == nil {
		_, err = s.control.call(ctx, what, n.described.Table.Bool(), []byte("true"))
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
