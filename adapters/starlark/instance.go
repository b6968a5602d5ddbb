package starlark

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	star "go.starlark.net/starlark"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// instance is one plugin's frozen globals. It has no goroutine but its calls'; ten thousand of
// them must be cheap, so it keeps of its launch only what it needs.
type instance struct {
	adapter *Adapter
	code    *code
	// functions stand in the order of code.exported; nil where a global is none.
	functions []*star.Function
	allowed   []string
	plugin    string
	env       map[string]string
	output    plugin.Output
	host      plugin.Host
	steps     uint64
	payload   int // bytes of a result

	mu       sync.Mutex
	running  []*call
	left     int // of running: those whose callers have gone
	stopping bool
	exit     *plugin.Exit  // set before gone is closed
	gone     chan struct{} // closed once it is stopping and nothing runs
}

var (
	_ plugin.Instance  = (*instance)(nil)
	_ plugin.Describer = (*instance)(nil)
	_ plugin.Inspector = (*instance)(nil)
)

// begin enters c into the running calls.
func (i *instance) begin(c *call) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.stopping {
		return fmt.Errorf("starlark: %w: the plugin was stopped", plugin.ErrUnavailable)
	}
	if i.left >= leftMax {
		return fmt.Errorf("starlark: %w: builtins of %d earlier calls are still at work", plugin.ErrBusy, i.left)
	}
	c.index = len(i.running)
	i.running = append(i.running, c)
	return nil
}

// end takes c out of the running calls; the last one to end closes gone.
func (i *instance) end(c *call) {
	i.mu.Lock()
	defer i.mu.Unlock()
	last := len(i.running) - 1
	i.running[c.index] = i.running[last]
	i.running[c.index].index = c.index
	i.running[last] = nil
	i.running = i.running[:last]
	c.over = true
	if c.left {
		i.left--
	}
	if i.stopping {
		c.spent = true // it was cancelled
		if last == 0 {
			i.close()
		}
	}
}

// leave notes that nobody waits for c any more; false when it has just ended.
func (i *instance) leave(c *call) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if c.over {
		return false
	}
	c.left = true
	i.left++
	return true
}

// close ends the instance; mu is held.
func (i *instance) close() {
	i.exit = &plugin.Exit{At: time.Now(), Message: "stopped"}
	close(i.gone)
}

// Stop cancels what runs and waits for it. A builtin that is under way cannot be
// interrupted; when ctx ends before it does, Stop returns an ErrDeadline.
func (i *instance) Stop(ctx context.Context) error {
	i.mu.Lock()
	if !i.stopping {
		i.stopping = true
		for _, c := range i.running {
			c.thread.Cancel("the plugin is being stopped")
		}
		if len(i.running) == 0 {
			i.close()
		}
	}
	i.mu.Unlock()
	select {
	case <-i.gone:
		return nil
	default:
	}
	select {
	case <-i.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("starlark: stop: %w: a builtin is still under way", plugin.ErrDeadline)
	}
}

// Wait blocks until the instance was stopped: nothing else ends it.
func (i *instance) Wait() plugin.Exit {
	<-i.gone
	return *i.exit
}

// Ended is closed once the instance was stopped.
func (i *instance) Ended() <-chan struct{} { return i.gone }

var _ plugin.Ender = (*instance)(nil)

// function returns an operation's function, nil when there is none.
func (i *instance) function(name string) *star.Function {
	n, ok := slices.BinarySearch(i.code.exported, name)
	if !ok || len(i.allowed) > 0 && !slices.Contains(i.allowed, name) {
		return nil
	}
	return i.functions[n]
}

func (i *instance) operations() []string {
	var names []string
	for _, name := range i.code.exported {
		if i.function(name) != nil {
			names = append(names, name)
		}
	}
	return names
}

// Invoke calls the function of that name.
func (i *instance) Invoke(ctx context.Context, in plugin.Invocation) (plugin.Result, error) {
	f := i.function(in.Operation)
	if f == nil {
		return plugin.Result{}, fmt.Errorf("starlark: %w: operation %q; there are: %s", plugin.ErrNotFound, shorten(in.Operation), strings.Join(i.operations(), ", "))
	}
	args, kwargs, err := arguments(f, in.Data)
	if err != nil {
		return plugin.Result{}, fmt.Errorf("starlark: %w: argument of %s %w", plugin.ErrInvalid, in.Operation, err)
	}
	c := i.adapter.calls.Get().(*call)
	waited, err := c.run(ctx, i, func(c *call) error {
		v, err := star.Call(&c.thread, f, args, kwargs)
		if err != nil {
			return err
		}
		c.scratch, err = encodeJSON(c.scratch[:0], v, i.payload)
		if err != nil {
			return fmt.Errorf("result of %s: %w", in.Operation, err)
		}
		return nil
	})
	var result plugin.Result
	if err == nil {
		result = plugin.Result{Data: slices.Clone(c.scratch), ContentType: "application/json"}
	}
	if waited {
		i.adapter.release(c)
	}
	return result, err
}

// arguments turns JSON into what f is called with. A function with one parameter
// gets the whole value; any other takes an object's keys by name.
func arguments(f *star.Function, data []byte) (star.Tuple, []star.Tuple, error) {
	text := string(data)
	if strings.TrimLeft(text, " \t\r\n") == "" {
		return nil, nil, missing(f, nil)
	}
	v, err := decodeJSON(text)
	if err != nil {
		return nil, nil, fmt.Errorf("is not JSON: %w", err)
	}
	if takesWhole(f) {
		return star.Tuple{v}, nil, nil
	}
	if v == star.None {
		return nil, nil, missing(f, nil)
	}
	object, ok := v.(*star.Dict)
	if !ok {
		return nil, nil, fmt.Errorf("is a %s; want an object with the keys %s", v.Type(), strings.Join(parameters(f), ", "))
	}
	return nil, object.Items(), missing(f, object)
}

// takesWhole reports whether f has exactly one parameter, and an ordinary one.
func takesWhole(f *star.Function) bool {
	return f.NumParams() == 1 && f.NumKwonlyParams() == 0 && !f.HasVarargs() && !f.HasKwargs()
}

// named counts the parameters that have names to be called by.
func named(f *star.Function) int {
	n := f.NumParams()
	if f.HasVarargs() {
		n--
	}
	if f.HasKwargs() {
		n--
	}
	return n
}

func parameters(f *star.Function) []string {
	names := make([]string, named(f))
	for n := range names {
		names[n], _ = f.Param(n)
	}
	return names
}

// missing compares the keys of an object with the parameters of f.
func missing(f *star.Function, object *star.Dict) error {
	have := 0
	for n := range named(f) {
		name, _ := f.Param(n)
		given := false
		if object != nil {
			_, given, _ = object.Get(star.String(name))
		}
		switch {
		case given:
			have++
		case f.ParamDefault(n) == nil:
			return fmt.Errorf("lacks %q; it takes: %s", name, strings.Join(parameters(f), ", "))
		}
	}
	if object == nil || have == object.Len() || f.HasKwargs() {
		return nil
	}
	names := parameters(f)
	for _, key := range object.Keys() {
		if name, _ := star.AsString(key); !slices.Contains(names, name) {
			return fmt.Errorf("has the unknown key %q; it takes: %s", shorten(name), strings.Join(names, ", "))
		}
	}
	return nil
}

// Describe lists the operations with the first paragraph of their docstrings.
func (i *instance) Describe(context.Context) ([]plugin.Operation, error) {
	var all []plugin.Operation
	for _, name := range i.operations() {
		f := i.function(name)
		summary, _, _ := strings.Cut(strings.TrimSpace(f.Doc()), "\n\n")
		input, err := json.Marshal(schema(f))
		if err != nil {
			return nil, fmt.Errorf("describe %s: %w", name, err)
		}
		all = append(all, plugin.Operation{Name: name, Summary: strings.Join(strings.Fields(summary), " "), Input: input})
	}
	return all, nil
}

// schema is the JSON Schema of what f takes; Starlark has no types to tell.
func schema(f *star.Function) map[string]any {
	if takesWhole(f) {
		name, _ := f.Param(0)
		s := map[string]any{"title": name}
		if v := f.ParamDefault(0); v != nil {
			s["default"] = rawValue{v}
		}
		return s
	}
	properties := map[string]any{}
	required := []string{}
	for n := range named(f) {
		name, _ := f.Param(n)
		properties[name] = map[string]any{}
		if v := f.ParamDefault(n); v != nil {
			properties[name] = map[string]any{"default": rawValue{v}}
		} else {
			required = append(required, name)
		}
	}
	s := map[string]any{"type": "object", "properties": properties, "additionalProperties": f.HasKwargs()}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

// Inspect names the module.
func (i *instance) Inspect() map[string]string {
	return map[string]string{
		"protocol":   "starlark",
		"module":     i.code.name,
		"digest":     i.code.digest,
		"operations": strings.Join(i.operations(), ", "),
	}
}
