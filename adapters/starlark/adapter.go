package starlark

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	star "go.starlark.net/starlark"

	"github.com/patchbay-dev/patchbay/core/manifest"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// stepsDefault is about 0.12 s of bytecode.
	stepsDefault = 10_000_000
	// stepsMax keeps a script from building values so deep that hashing or
	// freezing them exhausts the stack of the process: that takes 90 million.
	stepsMax = 50_000_000
)

// Block is what stands under spec.starlark.
type Block struct {
	Module     string   `json:"module,omitempty" doc:"Path of the module's file, such as greeter.star."`
	Source     string   `json:"source,omitempty" doc:"The module's text itself, instead of module."`
	Steps      int      `json:"steps,omitempty" doc:"Bytecode steps of one invocation (default 10000000, about 0.12 s)." min:"1000" max:"50000000"`
	Operations []string `json:"operations,omitempty" doc:"Only these functions are operations; all that do not begin with an underscore when left out."`
}

// Adapter runs Starlark modules inside the daemon. It is safe for concurrent use.
type Adapter struct {
	names   star.StringDict
	library library
	calls   sync.Pool // of *call: threads keep their stacks
}

var (
	_ plugin.Adapter   = (*Adapter)(nil)
	_ plugin.Specifier = (*Adapter)(nil)
)

// New returns an adapter with no modules compiled yet.
func New() *Adapter {
	a := &Adapter{names: predeclared()}
	a.calls.New = func() any { return newCall() }
	return a
}

// Name returns "starlark".
func (a *Adapter) Name() string { return "starlark" }

// Spec returns a new *Block.
func (a *Adapter) Spec() any { return &Block{} }

// Check compiles the module, but does not run it.
func (a *Adapter) Check(m plugin.Manifest) error {
	_, _, err := a.prepare(m)
	return err
}

// prepare reads and compiles what m names. The error is plugin.Faults.
func (a *Adapter) prepare(m plugin.Manifest) (Block, *code, error) {
	var b Block
	if err := manifest.Decode(m, &b); err != nil {
		return b, nil, err
	}
	var faults plugin.Faults
	unsupported(&faults, m.Spec)
	path := "spec.starlark.module"
	switch {
	case b.Module != "" && b.Source != "":
		faults.Add("spec.starlark.source", "stands beside module; keep one of them")
	case b.Module == "" && b.Source == "":
		faults.Add(path, "is missing; give the path of a .star file, or its text as source")
	case b.Module == "":
		path = "spec.starlark.source"
	}
	if len(faults) > 0 {
		return b, nil, faults.Err()
	}
	s, err := read(m, b)
	if err != nil {
		faults.Add(path, "%s", err)
		return b, nil, faults
	}
	if m.Spec.Digest != "" && m.Spec.Digest != s.digest() {
		faults.Add("spec.digest", "the module is %s; it was changed, or the digest is of another file", s.digest())
		return b, nil, faults
	}
	c := a.library.load(s, a.names)
	for _, text := range c.faults {
		faults.Add(path, "%s", text)
	}
	for i, name := range b.Operations {
		if len(c.faults) == 0 && !slices.Contains(c.exported, name) {
			faults.Add(fmt.Sprintf("spec.starlark.operations[%d]", i), "%q is no function of the module that could be an operation", name)
		}
	}
	return b, c, faults.Err()
}

// unsupported refuses what code inside the daemon cannot have.
func unsupported(faults *plugin.Faults, s plugin.Spec) {
	// Defaults are written in when a manifest is stored, those of then.
	usual, probe := plugin.Manifest{}.WithDefaults().Spec.Probe, plugin.Manifest{Spec: s}.WithDefaults().Spec.Probe
	if probe != usual {
		faults.Add("spec.probe", "a module lives inside the daemon and is not probed; leave it out")
	}
	if s.Mode == plugin.Job {
		faults.Add("spec.mode", "job: not supported for starlark; leave it out")
	}
	for _, limit := range [...]struct {
		name string
		set  bool
	}{{"memory", s.Limits.Memory != 0}, {"cpu", s.Limits.CPU != 0}, {"pids", s.Limits.Pids != 0},
		{"openFiles", s.Limits.OpenFiles != 0}} {
		if limit.set {
			faults.Add("spec.limits."+limit.name, "not enforced for starlark; leave it out, and bound spec.starlark.steps")
		}
	}
	if len(s.Streams) > 0 {
		faults.Add("spec.streams", "not supported for starlark; leave it out, and publish by host.emit")
	}
}

// Launch runs the module's body and freezes its globals.
func (a *Adapter) Launch(ctx context.Context, l plugin.Launch) (plugin.Instance, error) {
	b, c, err := a.prepare(l.Manifest)
	if err != nil {
		return nil, fmt.Errorf("starlark: %w", err)
	}
	i := &instance{
		adapter: a, code: c, plugin: l.Manifest.Metadata.Name, allowed: b.Operations,
		steps: uint64(b.Steps), payload: int(l.Manifest.Spec.Limits.Payload),
		env: l.Env, output: l.Output, host: l.Host, gone: make(chan struct{}),
	}
	if i.steps == 0 {
		i.steps = stepsDefault
	}
	if i.payload == 0 {
		i.payload = int(plugin.Manifest{}.WithDefaults().Spec.Limits.Payload)
	}
	globals, err := i.load(ctx)
	if err != nil {
		return nil, err
	}
	i.functions = make([]*star.Function, len(c.exported))
	for n, name := range c.exported {
		i.functions[n], _ = globals[name].(*star.Function)
	}
	for _, name := range b.Operations {
		if i.function(name) == nil {
			return nil, fmt.Errorf("starlark: %w: operation %q is not a function", plugin.ErrInvalid, name)
		}
	}
	return i, nil
}

// load runs the module's body.
func (i *instance) load(ctx context.Context) (star.StringDict, error) {
	c := i.adapter.calls.Get().(*call)
	c.loading = true
	made := make(chan star.StringDict, 1)
	waited, err := c.run(ctx, i, func(c *call) error {
		globals, err := i.code.program.Init(&c.thread, i.adapter.names)
		globals.Freeze()
		made <- globals
		return err
	})
	var globals star.StringDict
	if waited && err == nil {
		globals = <-made
	}
	if waited {
		i.adapter.release(c)
	}
	var refusal *plugin.Refusal
	if errors.As(err, &refusal) {
		err = fmt.Errorf("module: %w: %w", plugin.ErrInvalid, refusal)
	}
	return globals, err
}

// Resident says that instances live inside the daemon.
func (a *Adapter) Resident() {}

var _ plugin.Resident = (*Adapter)(nil)
