package provider

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// endingMax is how long a broken connection waits for the process's end to be
// seen, which is its usual reason.
const endingMax = 200 * time.Millisecond

// An instance is one provider that took its configuration.
type instance struct {
	proc.Beside
	process  *proc.Process
	token    string // RS_TOKEN
	host     *host
	link     *link
	socket   string // the provider's, which it does not remove
	def      *definition
	ops      *operations
	hide     redactor
	stopTime time.Duration

	done chan struct{} // closed when everything is gone; exit is set before
	exit plugin.Exit
}

var (
	_ plugin.Instance  = (*instance)(nil)
	_ plugin.Prober    = (*instance)(nil)
	_ plugin.Execer    = (*instance)(nil)
	_ plugin.Stepper   = (*instance)(nil)
	_ plugin.Describer = (*instance)(nil)
	_ plugin.Inspector = (*instance)(nil)
	_ plugin.Survivor  = (*instance)(nil)
	_ plugin.Limited   = (*instance)(nil)
)

// instance makes the instance of a process that was just started or found again.
func (b *birth) instance(p *proc.Process, h *host) *instance {
	spec := b.l.Manifest.Spec
	i := &instance{
		Beside: proc.NewBeside(b.l.Manifest, b.spec(nil, nil, nil)), process: p, token: b.token, host: h,
		socket: b.in(providerSocket), def: b.def, ops: b.ops, hide: b.hide,
		link:     newLink(b.in(providerSocket), b.def.prefix(), int64(spec.Limits.Payload)),
		stopTime: spec.Timeouts.Stop.Std(), done: make(chan struct{}),
	}
	go i.attend() // ends with the process, or when it is left
	return i
}

// attend waits for the process's end, or for its wish to end, and tidies up.
func (i *instance) attend() {
	var wish *fault
	select {
	case <-i.process.Done():
	case f := <-i.host.left:
		wish = &f
		ctx, cancel := context.WithTimeout(context.Background(), i.stopTime)
		_ = i.process.Stop(ctx, i.askToStop)
		cancel()
	}
	exit := i.process.Wait()
	if i.process.Left() {
		i.letGo(exit)
		return
	}
	i.host.close() // every post that was under way is heard
	select {
	case f := <-i.host.left:
		wish = &f
	default:
	}
	if wish != nil {
		exit.Message = "it asked to leave: " + i.hide.text(wish.text())
		if wish.Code == http.StatusForbidden {
			exit.Message = "it asked to be removed (403): " + i.hide.text(wish.text())
		}
	}
	i.link.close()
	_ = os.Remove(i.socket)
	i.exit = exit
	close(i.done)
}

// letGo ends what serves the process, and leaves both sockets to the next daemon.
func (i *instance) letGo(exit plugin.Exit) {
	i.host.leave()
	i.link.close()
	i.exit = exit
	close(i.done)
}

// Wait blocks until the process and both sockets are gone, or it was left.
func (i *instance) Wait() plugin.Exit {
	<-i.done
	return i.exit
}

// Stop posts stop, then walks the ladder of signals.
func (i *instance) Stop(ctx context.Context) error {
	err := i.process.Stop(ctx, i.askToStop)
	if err == nil {
		<-i.done
	}
	return err
}

// StopSteps says how the stop went.
func (i *instance) StopSteps() []plugin.StopStep { return i.process.StopSteps() }

// Limits says what keeps the process to its limits.
func (i *instance) Limits() []plugin.LimitStatus { return i.process.Limits() }

// askToStop never gets an answer from the common library, which exits first: a
// broken line is success. An error makes the ladder go on at once.
func (i *instance) askToStop(ctx context.Context) error {
	got, err := i.link.post(ctx, i.link.stop, []byte("null"))
	var line *net.OpError
	switch {
	case errors.As(err, &line) && line.Op == "dial":
		return fmt.Errorf("stop: %w: %w", plugin.ErrUnavailable, err)
	case err == nil && got.status >= http.StatusBadRequest:
		return fmt.Errorf("stop: %w: the provider answered %d", plugin.ErrUnavailable, got.status)
	}
	return nil
}

// Invoke posts one action. The provider is not told when ctx ends: what it began
// it finishes, and nobody hears of it.
func (i *instance) Invoke(ctx context.Context, in plugin.Invocation) (plugin.Result, error) {
	if i.ended() {
		return plugin.Result{}, fmt.Errorf("operation %s: %w: the provider has ended: %s", in.Operation, plugin.ErrUnavailable, i.exit)
	}
	op, ok := i.ops.byName[in.Operation]
	if !ok {
		return plugin.Result{}, fmt.Errorf("operation %.100q: %w: the provider has %s", in.Operation, plugin.ErrNotFound, quoted(i.ops.names()))
	}
	body, err := op.request(in.Data)
	if err != nil {
		return plugin.Result{}, err
	}
	got, err := i.link.post(ctx, i.link.action, body)
	if err != nil {
		return plugin.Result{}, i.broken(ctx, op, err)
	}
	if got.status == http.StatusOK {
		return plugin.Result{Data: bytes.TrimSpace(got.body), ContentType: "application/json"}, nil
	}
	return plugin.Result{}, i.refused(op, got)
}

// broken says why there was no answer.
func (i *instance) broken(ctx context.Context, op *operation, err error) error {
	what := "operation " + op.name
	switch {
	case errors.Is(err, errTooLong):
		return fmt.Errorf("%s: %w", what, err)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%s: %w: %w", what, plugin.ErrDeadline, ctx.Err())
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w: %w", what, plugin.ErrUnavailable, ctx.Err())
	case i.ending():
		return fmt.Errorf("%s: %w: the provider ended: %s", what, plugin.ErrUnavailable, i.process.Wait())
	}
	return fmt.Errorf("%s: %w: %w", what, plugin.ErrUnavailable, err)
}

// refused reads an answer that is not 200.
func (i *instance) refused(op *operation, got answer) error {
	f, ok := parseFault(got.body)
	switch {
	case !ok:
		return fmt.Errorf("operation %s: %w: the provider answered %d, and no error body", op.name, plugin.ErrUnavailable, got.status)
	case got.status == http.StatusNotFound && f.Key == i.link.action.Path && len(f.Messages) == 0:
		return fmt.Errorf("operation %s: %w: the provider declares actions and serves none", op.name, plugin.ErrUnavailable)
	}
	return f.refusal(got.status, bytes.TrimSpace(got.body), i.hide)
}

func (i *instance) ended() bool {
	select {
	case <-i.done:
		return true
	default:
		return false
	}
}

// ending reports whether the process ends about now.
func (i *instance) ending() bool {
	select {
	case <-i.process.Done():
		return true
	case <-time.After(endingMax):
		return false
	}
}

// Probe asks for a path that no provider has: the answer proves that its server
// is at work, and has no effect.
func (i *instance) Probe(ctx context.Context) error {
	if i.ended() {
		return fmt.Errorf("probe: %w: %s", plugin.ErrUnavailable, i.exit)
	}
	if err := i.link.alive(ctx); err != nil {
		return late(ctx, "probe", err)
	}
	return nil
}

// Describe lists the actions.
func (i *instance) Describe(context.Context) ([]plugin.Operation, error) {
	all := make([]plugin.Operation, 0, len(i.ops.listed))
	for _, op := range i.ops.listed {
		o, err := op.describe()
		if err != nil {
			return nil, err
		}
		all = append(all, o)
	}
	return all, nil
}

// Inspect tells the process, the protocol and what the provider says it is.
func (i *instance) Inspect() map[string]string {
	return map[string]string{
		"pid": strconv.Itoa(i.process.Pid()), "protocol": i.def.prefix()[1:],
		"provider": i.def.Name, "version": i.def.Version,
	}
}
