package portable

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/manifest"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// handleBytesMax is far above a process's handle.
const handleBytesMax = 64 << 10

// A handle finds the process again; everything else is in its keep.
type handle struct {
	Process proc.Handle `json:"process"`
}

func parseHandle(data []byte) (h handle, err error) {
	if len(data) > handleBytesMax {
		return h, fmt.Errorf("handle: %w: %d bytes, more than %d", plugin.ErrInvalid, len(data), handleBytesMax)
	}
	if err := json.Unmarshal(data, &h); err != nil {
		return h, fmt.Errorf("handle: %w: %w", plugin.ErrInvalid, err)
	}
	return h, nil
}

// Handle is for a process that is detached.
func (i *instance) Handle(ctx context.Context) (plugin.RawJSON, error) {
	p, err := i.process.Handle(ctx)
	if err != nil {
		return nil, err
	}
	return json.Marshal(handle{Process: p})
}

// Leave returns once nothing in the daemon serves the process any more. What
// streams in it goes on.
func (i *instance) Leave() {
	i.process.Leave()
	<-i.gone
}

// detach makes the keep, and gives its ends to the process that is to be started.
func (i *instance) detach(command *proc.Spec) (err error) {
	if i.keep, err = newKeep(1+len(i.spec.Functions), i.log); err != nil {
		return fmt.Errorf("keep: %w: %w", plugin.ErrUnavailable, err)
	}
	command.Detached = true
	command.ExtraFiles = []*os.File{i.keep.take, i.keep.put}
	i.control.mark = i.keep.mark(0)
	for n, name := range i.spec.Functions {
		i.functions[name].link.mark = i.keep.mark(1 + n)
	}
	return nil
}

// record is what the next daemon must know and cannot see.
func (i *instance) record() record {
	i.mu.Lock()
	defer i.mu.Unlock()
	r := record{Functions: i.spec.Functions, OpIDs: i.opIDs}
	for _, s := range i.started {
		r.Symbols = append(r.Symbols, recordedSymbol{Kind: s.kind, Name: s.name, OpID: s.opID, Source: s.source, Config: s.config})
	}
	return r
}

// Adopt takes over a plugin of an earlier daemon, with its connections.
func (a *Adapter) Adopt(ctx context.Context, l plugin.Launch, text plugin.RawJSON) (plugin.Instance, error) {
	h, err := parseHandle(text)
	if err == nil && !h.Process.Bears(l) {
		err = errors.New("it is another instance's")
	}
	if err != nil {
		return nil, fmt.Errorf("adopt: %w: %w", plugin.ErrNotFound, err)
	}
	p, err := proc.Adopt(h.Process)
	if err != nil {
		return nil, err
	}
	i, err := adopted(l, p)
	if err != nil {
		p.Kill()
		p.Wait()
		return nil, fmt.Errorf("adopt: %w", err)
	}
	if err := i.goOn(ctx); err != nil {
		p.Kill()
		i.Wait()
		return nil, fmt.Errorf("adopt: %w", err)
	}
	return i, nil
}

// adopted makes the instance of a proved process.
func adopted(l plugin.Launch, p *proc.Process) (*instance, error) {
	var spec Spec
	if err := manifest.Decode(l.Manifest, &spec); err != nil {
		return nil, err
	}
	program, err := l.Manifest.Path(spec.Executable)
	if err != nil {
		return nil, err
	}
	i := newInstance(l, spec)
	i.Beside = proc.NewBeside(l.Manifest, proc.Spec{Env: environ(l), Dir: filepath.Dir(program), PrivateTmp: l.Dir})
	i.process = p
	if err := i.restore(); err != nil {
		return nil, err
	}
	control, err := i.listenAgain(l.Dir)
	if err != nil {
		i.keep.close()
		return nil, fmt.Errorf("control socket: %w: %w", plugin.ErrUnavailable, err)
	}
	i.begin(control)
	return i, nil
}

// listenAgain opens the control socket for the case that the plugin connects anew.
func (i *instance) listenAgain(dir string) (_ *net.UnixListener, err error) {
	if i.sockets, err = openSockets(dir); err != nil {
		return nil, err
	}
	control, err := i.sockets.listenAnew(controlSocket(i.spec.name(i.manifest)))
	if err != nil {
		i.sockets.close()
	}
	return control, err
}

// restore takes up what an earlier daemon kept and noted.
func (i *instance) restore() error {
	take, err := i.process.Descriptor(takeEnd)
	if err != nil {
		return err
	}
	put, err := i.process.Descriptor(putEnd)
	if err != nil {
		_ = take.Close()
		return err
	}
	k, r, err := openKeep(take, put, i.spec.Functions, i.log)
	if err != nil {
		return err
	}
	i.keep, i.opIDs = k, r.OpIDs
	for _, s := range r.Symbols {
		known := symbol{kind: s.Kind, name: s.Name, opID: s.OpID, source: s.Source, config: s.Config}
		i.started[s.OpID] = known
		i.found = append(i.found, known)
	}
	i.control.resume(k.mark(0))
	for n, name := range i.spec.Functions {
		i.functions[name].link.resume(k.mark(1 + n))
	}
	return nil
}

// noCommand is what no SDK knows: any answer is a sign of life.
const noCommand = `{"cmd":"patchbay","arg":"{}"}`

// goOn serves every function again, and returns once the plugin answers. A function
// that is in a call of the earlier daemon is busy and is not asked.
func (i *instance) goOn(ctx context.Context) error {
	if _, err := i.control.call(ctx, []byte(noCommand)); err != nil {
		return lateIs(err)
	}
	for _, name := range i.spec.Functions {
		f := i.functions[name]
		if err := i.serveFunction(f); err != nil {
			return err
		}
		if err := i.keepInTouch(f); err != nil {
			return err
		}
		if err := f.link.await(ctx); err != nil {
			return lateIs(err)
		}
		if _, err := f.link.tryCall(ctx, []byte(isAggregate)); err != nil {
			return lateIs(err)
		}
	}
	return nil
}

// lateIs makes a plugin that does not answer in time one that is not there.
func lateIs(err error) error {
	if errors.Is(err, plugin.ErrDeadline) {
		return fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	}
	return err
}

// Strays lists the processes of portable plugins that nobody knows.
func (*Adapter) Strays(_ context.Context, node string, keep func(instance string) bool) ([]plugin.Stray, error) {
	return proc.Strays(node, "portable", keep)
}

// Sweep kills those that are still what Strays listed.
func (a *Adapter) Sweep(_ context.Context, strays []plugin.Stray) ([]plugin.Stray, error) {
	return proc.Sweep(a.options.Node, strays)
}
