package starlark

import (
	"fmt"
	"strings"

	"go.starlark.net/lib/math"
	"go.starlark.net/lib/time"
	star "go.starlark.net/starlark"
	"go.starlark.net/starlarkstruct"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// jsonBytesMax bounds what json.encode makes and json.decode reads: as much as
// an argument by default.
const jsonBytesMax = 16 << 20

// failure is what fail() raises.
type failure struct{ text string }

func (f *failure) Error() string { return "fail: " + f.text }

// predeclared returns the names that modules have beside the language's own. It
// is frozen and shared by all instances; builtins find theirs by the thread.
//
// The library's json module is not among them: json.decode("[" * 2000000)
// exhausts the stack, which ends the process.
func predeclared() star.StringDict {
	names := star.StringDict{
		"struct": star.NewBuiltin("struct", starlarkstruct.Make),
		"math":   math.Module,
		"time":   time.Module,
		"fail":   star.NewBuiltin("fail", fail),
		"json": &starlarkstruct.Module{Name: "json", Members: star.StringDict{
			"encode": star.NewBuiltin("json.encode", jsonEncode),
			"decode": star.NewBuiltin("json.decode", jsonDecode),
		}},
		"host": &starlarkstruct.Module{Name: "host", Members: star.StringDict{
			"emit":   star.NewBuiltin("host.emit", hostEmit),
			"invoke": star.NewBuiltin("host.invoke", hostInvoke),
			"env":    star.NewBuiltin("host.env", hostEnv),
		}},
	}
	names.Freeze()
	return names
}

// fail(*args, sep=" ") refuses the invocation with a text.
func fail(_ *star.Thread, b *star.Builtin, args star.Tuple, kwargs []star.Tuple) (star.Value, error) {
	sep := " "
	if err := star.UnpackArgs(b.Name(), nil, kwargs, "sep?", &sep); err != nil {
		return nil, err
	}
	words := make([]string, len(args))
	for i, arg := range args {
		if s, ok := star.AsString(arg); ok {
			words[i] = s
		} else {
			words[i] = arg.String()
		}
	}
	return nil, &failure{strings.Join(words, sep)}
}

// json.encode(x)
func jsonEncode(_ *star.Thread, b *star.Builtin, args star.Tuple, kwargs []star.Tuple) (star.Value, error) {
	var x star.Value
	if err := star.UnpackPositionalArgs(b.Name(), args, kwargs, 1, &x); err != nil {
		return nil, err
	}
	out, err := encodeJSON(nil, x, jsonBytesMax)
	if err != nil {
		return nil, fmt.Errorf("json.encode: %w", err)
	}
	return star.String(out), nil
}

// json.decode(x, default=None): with a default, what is not JSON gives it.
func jsonDecode(_ *star.Thread, b *star.Builtin, args star.Tuple, kwargs []star.Tuple) (star.Value, error) {
	var text string
	var otherwise star.Value
	if err := star.UnpackArgs(b.Name(), args, kwargs, "x", &text, "default?", &otherwise); err != nil {
		return nil, err
	}
	if len(text) > jsonBytesMax {
		return nil, fmt.Errorf("json.decode: more than %d bytes", jsonBytesMax)
	}
	v, err := decodeJSON(text)
	if err != nil && otherwise != nil {
		return otherwise, nil
	}
	if err != nil {
		return nil, fmt.Errorf("json.decode: %w", err)
	}
	return v, nil
}

// current returns the invocation that runs on the thread.
func current(thread *star.Thread, b *star.Builtin) (*call, error) {
	c, _ := thread.Local(callKey).(*call)
	if c == nil || c.loading {
		return nil, fmt.Errorf("%s: not while the module loads; call it in an operation", b.Name())
	}
	return c, nil
}

// host.emit(type, data=None) publishes an event of this plugin.
func hostEmit(thread *star.Thread, b *star.Builtin, args star.Tuple, kwargs []star.Tuple) (star.Value, error) {
	var kind string
	var data star.Value = star.None
	if err := star.UnpackArgs(b.Name(), args, kwargs, "type", &kind, "data?", &data); err != nil {
		return nil, err
	}
	c, err := current(thread, b)
	if err != nil {
		return nil, err
	}
	text, err := encodeJSON(nil, data, plugin.EventDataBytesMax)
	if err != nil {
		return nil, fmt.Errorf("host.emit: data: %w", err)
	}
	if err := c.instance.host.Emit(c.ctx, plugin.Event{Type: kind, Data: text}); err != nil {
		return nil, fmt.Errorf("host.emit: %w", err)
	}
	return star.None, nil
}

// host.invoke(plugin, operation, data=None) calls another plugin and returns its
// answer. Its refusal ends this invocation too, as it is.
func hostInvoke(thread *star.Thread, b *star.Builtin, args star.Tuple, kwargs []star.Tuple) (star.Value, error) {
	var name, operation string
	var data star.Value
	if err := star.UnpackArgs(b.Name(), args, kwargs, "plugin", &name, "operation", &operation, "data?", &data); err != nil {
		return nil, err
	}
	c, err := current(thread, b)
	if err != nil {
		return nil, err
	}
	in := plugin.Invocation{Plugin: name, Operation: operation, ContentType: "application/json", Caller: "plugin:" + c.instance.plugin}
	if data != nil {
		if in.Data, err = encodeJSON(nil, data, plugin.PayloadBytesMax); err != nil {
			return nil, fmt.Errorf("host.invoke: data: %w", err)
		}
	}
	result, err := c.instance.host.Invoke(c.ctx, in)
	if err != nil {
		return nil, fmt.Errorf("host.invoke: %s: %w", name, err)
	}
	return answer(result)
}

// answer turns a result into a value: JSON decoded, anything else as bytes.
func answer(result plugin.Result) (star.Value, error) {
	if result.ContentType != "" && !strings.Contains(result.ContentType, "json") {
		return star.Bytes(result.Data), nil
	}
	if len(result.Data) == 0 {
		return star.None, nil
	}
	v, err := decodeJSON(string(result.Data))
	if err != nil {
		return nil, fmt.Errorf("host.invoke: answer: %w", err)
	}
	return v, nil
}

// host.env(name, default=None) reads spec.env.
func hostEnv(thread *star.Thread, b *star.Builtin, args star.Tuple, kwargs []star.Tuple) (star.Value, error) {
	var name string
	var otherwise star.Value = star.None
	if err := star.UnpackArgs(b.Name(), args, kwargs, "name", &name, "default?", &otherwise); err != nil {
		return nil, err
	}
	c, _ := thread.Local(callKey).(*call)
	if c == nil {
		return otherwise, nil
	}
	if value, ok := c.instance.env[name]; ok {
		return star.String(value), nil
	}
	return otherwise, nil
}
