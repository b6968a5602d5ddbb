package goplugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/pbwire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// A binding is a method that the plugin may call.
type binding struct {
	// method is seen from the daemon: what comes from the plugin is its out.
	method *grpcMethod
	act    action
	kind   string // of the callback, for metrics
}

// An action answers one call of the plugin. Both messages are JSON.
type action func(ctx context.Context, host plugin.Host, request []byte) (answer []byte, err error)

// bind finds the methods that callbacks name. What only the preset names may be
// missing: versions of a family differ.
func (c *catalog) bind(t *transcoder, callbacks, own map[string]Callback) (map[string]*binding, error) {
	bound, plans := map[string]*binding{}, pbwire.NewCompiler()
	for _, name := range sortedKeys(callbacks) { // a service comes before its methods
		methods, err := c.called(name)
		if _, given := own[name]; err != nil && !given {
			continue
		}
		for _, d := range methods {
			if err == nil {
				err = bindOne(bound, plans, t, d, callbacks[name])
			}
		}
		if err != nil {
			return nil, fmt.Errorf("spec.goplugin.callbacks.%s: %w: %w", name, plugin.ErrInvalid, err)
		}
	}
	return bound, nil
}

// called returns the methods of a service, or one of them, that can be answered: of
// those in one message.
func (c *catalog) called(name string) ([]protoreflect.MethodDescriptor, error) {
	service, method, one := strings.Cut(name, "/")
	d, err := c.files.FindDescriptorByName(protoreflect.FullName(service))
	described, ok := d.(protoreflect.ServiceDescriptor)
	if err != nil || !ok {
		return nil, fmt.Errorf("the plugin describes no service %s", service)
	}
	var methods []protoreflect.MethodDescriptor
	for i := range described.Methods().Len() {
		m := described.Methods().Get(i)
		if one && string(m.Name()) != method {
			continue
		}
		seen := map[protoreflect.FullName]bool{}
		if m.IsStreamingClient() || m.IsStreamingServer() || !whole(m.Input(), seen) || !whole(m.Output(), seen) {
			if one {
				return nil, errors.New("it streams, or its messages are not described in full")
			}
			continue
		}
		methods = append(methods, m)
	}
	if one && len(methods) == 0 {
		return nil, fmt.Errorf("%s has no method %s", service, method)
	}
	return methods, nil
}

func bindOne(bound map[string]*binding, plans *pbwire.Compiler, t *transcoder, d protoreflect.MethodDescriptor, b Callback) error {
	full := string(d.Parent().FullName()) + "/" + string(d.Name())
	m := &grpcMethod{
		path: "/" + full, full: full, in: d.Output(), out: d.Input(),
		inPlan: plans.Compile(d.Output()), outPlan: plans.Compile(d.Input()),
	}
	act, err := b.action(t, m)
	if err != nil {
		return err
	}
	bound[m.path] = &binding{m, act, b.kind()}
	return nil
}

func (b Callback) action(t *transcoder, m *grpcMethod) (action, error) {
	switch {
	case b.KV != nil:
		return b.KV.action(m)
	case b.Bus != nil && b.Bus.Request != "":
		return ask(b.Bus.Request), nil
	case b.Bus != nil:
		return b.Bus.publish(m)
	case b.Invoke != nil:
		return b.Invoke.action(m)
	case b.Deny != "":
		code := codes.PermissionDenied
		if err := code.UnmarshalJSON(fmt.Appendf(nil, "%q", screaming(b.Deny))); err != nil {
			return nil, err
		}
		return func(context.Context, plugin.Host, []byte) ([]byte, error) {
			return nil, status.Errorf(code, "patchbay: %s is denied by spec.goplugin.callbacks", m.full)
		}, nil
	}
	if _, err := t.wire(m, b.Static); err != nil {
		return nil, fmt.Errorf("static: %w", err)
	}
	return func(context.Context, plugin.Host, []byte) ([]byte, error) { return b.Static, nil }, nil
}

// screaming writes PermissionDenied as PERMISSION_DENIED.
func screaming(code string) string {
	var b strings.Builder
	for i, c := range code {
		if i > 0 && c >= 'A' && c <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(c)
	}
	return strings.ToUpper(b.String())
}

func (b *BusCallback) publish(m *grpcMethod) (action, error) {
	var named, data field
	var err error
	if b.Type != "" {
		if named, err = fieldOf(m.out, b.Type, protoreflect.StringKind); err != nil {
			return nil, fmt.Errorf("bus.type: %w", err)
		}
	}
	if b.Data != "" {
		if data, err = fieldOf(m.out, b.Data, 0); err != nil {
			return nil, fmt.Errorf("bus.data: %w", err)
		}
	}
	return func(ctx context.Context, host plugin.Host, request []byte) ([]byte, error) {
		e := plugin.Event{Type: b.Publish}
		var err error
		if b.Type != "" {
			if e.Type, err = named.text(request); err != nil {
				return nil, err
			}
		}
		if e.Data, err = data.pick(request); err != nil { // all of it where there are no names
			return nil, err
		}
		return nil, host.Emit(ctx, e)
	}, nil
}

// action joins the method's messages to operations of other plugins.
func (b *InvokeCallback) action(m *grpcMethod) (action, error) {
	var at [4]field
	for i, f := range []struct {
		name, path string
		of         protoreflect.MessageDescriptor
		kind       protoreflect.Kind
	}{
		{"plugin", or(b.Plugin, "plugin"), m.out, protoreflect.StringKind},
		{"operation", or(b.Operation, "operation"), m.out, protoreflect.StringKind},
		{"data", or(b.Data, "data"), m.out, 0}, {"value", or(b.Value, "data"), m.in, 0},
	} {
		var err error
		if at[i], err = fieldOf(f.of, f.path, f.kind); err != nil {
			return nil, fmt.Errorf("invoke.%s: %w", f.name, err)
		}
	}
	k := &invokeAction{plugins: b.Plugins, plugin: at[0], operation: at[1], data: at[2], value: at[3]}
	return k.do, nil
}

type invokeAction struct {
	plugins                        []string
	plugin, operation, data, value field
}

func (k *invokeAction) do(ctx context.Context, host plugin.Host, request []byte) ([]byte, error) {
	var in plugin.Invocation
	var err error
	if in.Plugin, err = k.plugin.text(request); err != nil {
		return nil, err
	}
	if in.Operation, err = k.operation.text(request); err != nil {
		return nil, err
	}
	if !slices.Contains(k.plugins, in.Plugin) {
		return nil, fmt.Errorf("%w: plugin %q is not in spec.goplugin.callbacks' invoke.plugins", plugin.ErrDenied, cut(in.Plugin))
	}
	if in.Data, err = k.data.pick(request); err != nil {
		return nil, err
	}
	in.Metadata = traceOf(ctx)
	result, err := host.Invoke(ctx, in)
	if err != nil || len(result.Data) == 0 {
		return nil, err
	}
	return k.value.nest(result.Data), nil
}

// traceOf is the trace that a call of the plugin is part of.
func traceOf(ctx context.Context) map[string]string {
	md, _ := metadata.FromIncomingContext(ctx)
	trace := map[string]string{}
	for _, key := range []string{"traceparent", "tracestate"} {
		if values := md.Get(key); len(values) > 0 {
			trace[key] = values[0]
		}
	}
	return trace
}

func ask(name string) action {
	return func(ctx context.Context, host plugin.Host, request []byte) ([]byte, error) {
		r, ok := host.(plugin.Requester)
		if !ok {
			return nil, fmt.Errorf("%w: this daemon asks nobody", plugin.ErrUnavailable)
		}
		return r.Request(ctx, name, request)
	}
}

// action joins the method's messages to the plugin's values. A value is kept as the
// JSON of its field.
func (b *KVCallback) action(m *grpcMethod) (action, error) {
	defaults := map[string][2]string{"get": {"key", "value"}, "put": {"key", "value"}, "delete": {"key", ""}, "list": {"prefix", "keys"}}[b.Do]
	key, err := fieldOf(m.out, or(b.Key, defaults[0]), protoreflect.StringKind)
	if err != nil {
		return nil, fmt.Errorf("kv.key: %w", err)
	}
	var value field
	switch b.Do {
	case "get":
		value, err = fieldOf(m.in, or(b.Value, defaults[1]), 0)
	case "list":
		value, err = fieldOf(m.in, or(b.Value, defaults[1]), protoreflect.StringKind)
		if err == nil && !value.repeated {
			err = fmt.Errorf("%s has one text, where list has several", value)
		}
	case "put":
		value, err = fieldOf(m.out, or(b.Value, defaults[1]), 0)
	}
	if err != nil {
		return nil, fmt.Errorf("kv.value: %w", err)
	}
	k := &kvAction{KVCallback: *b, key: key, value: value}
	return k.do, nil
}

func or(given, otherwise string) string {
	if given == "" {
		return otherwise
	}
	return given
}

type kvAction struct {
	KVCallback
	key, value field
}

func (k *kvAction) do(ctx context.Context, host plugin.Host, request []byte) ([]byte, error) {
	keeper, ok := host.(plugin.Keeper)
	if !ok {
		return nil, fmt.Errorf("%w: this daemon keeps no values", plugin.ErrUnavailable)
	}
	key, err := k.key.text(request)
	if err != nil {
		return nil, err
	}
	switch values := keeper.Values(); k.Do {
	case "put":
		value, err := k.value.pick(request)
		if err != nil {
			return nil, err
		}
		return nil, values.Put(ctx, key, value)
	case "delete":
		return nil, values.Delete(ctx, key)
	case "list":
		return k.list(ctx, values, key)
	default:
		return k.get(ctx, values, key)
	}
}

// get answers with the value; a field that was not set when it was put is not set
// again.
func (k *kvAction) get(ctx context.Context, values plugin.Values, key string) ([]byte, error) {
	value, err := values.Get(ctx, key)
	switch {
	case errors.Is(err, plugin.ErrNotFound) && k.Missing != "NotFound", err == nil && len(value) == 0:
		return nil, nil
	case err != nil:
		return nil, err
	}
	return k.value.nest(value), nil
}

func (k *kvAction) list(ctx context.Context, values plugin.Values, prefix string) ([]byte, error) {
	keys, err := values.List(ctx, prefix)
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	if k.Delimiter != "" {
		keys = folders(keys, len(prefix), k.Delimiter)
	}
	text, err := json.Marshal(keys)
	if err != nil {
		return nil, err
	}
	return k.value.nest(text), nil
}

// folders cuts sorted keys behind the prefix and at the delimiter after that.
func folders(keys []string, prefix int, delimiter string) []string {
	var names []string
	for _, key := range keys {
		name := key[prefix:]
		if i := strings.Index(name, delimiter); i >= 0 {
			name = name[:i+len(delimiter)]
		}
		if len(names) == 0 || names[len(names)-1] != name {
			names = append(names, name)
		}
	}
	return names
}

// A field is the way to one, in the names of the JSON form.
type field struct {
	names    []string
	numbers  []protoreflect.FieldNumber
	kind     protoreflect.Kind
	repeated bool
}

func (f field) String() string { return strings.Join(f.names, ".") }

// fieldOf follows a path from a message, by the names of the JSON form or of the
// declaration; kind 0 is any.
func fieldOf(d protoreflect.MessageDescriptor, path string, kind protoreflect.Kind) (field, error) {
	var f field
	for rest, more := path, true; more; {
		var name string
		name, rest, more = strings.Cut(rest, ".")
		next := d.Fields().ByJSONName(name)
		if next == nil {
			next = d.Fields().ByName(protoreflect.Name(name))
		}
		if next == nil {
			return f, fmt.Errorf("%s has no field %s", d.FullName(), name)
		}
		if more && (next.Message() == nil || next.IsList() || next.IsMap()) {
			return f, fmt.Errorf("%s.%s is no message", d.FullName(), name)
		}
		f.names, f.numbers = append(f.names, next.JSONName()), append(f.numbers, next.Number())
		f.kind, f.repeated = next.Kind(), next.IsList()
		d = next.Message()
	}
	if kind != 0 && f.kind != kind {
		return f, fmt.Errorf("%s is a %s; it has to be a %s", f, f.kind, kind)
	}
	return f, nil
}

// pick returns the field's JSON in that of the message, nil when it is not set.
func (f field) pick(message []byte) (json.RawMessage, error) {
	text, err := pick(message, f.names)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", plugin.ErrInvalid, f, err)
	}
	return text, nil
}

// text returns the field's text, empty when it is not set.
func (f field) text(message []byte) (text string, err error) {
	raw, err := f.pick(message)
	if err == nil && raw != nil {
		if err = json.Unmarshal(raw, &text); err != nil {
			err = fmt.Errorf("%w: %s: %w", plugin.ErrInvalid, f, err)
		}
	}
	return text, err
}

func pick(text json.RawMessage, names []string) (json.RawMessage, error) {
	for _, name := range names {
		var members map[string]json.RawMessage
		if err := json.Unmarshal(text, &members); err != nil {
			return nil, err
		}
		if text = members[name]; text == nil {
			return nil, nil
		}
	}
	return text, nil
}

// nest returns the JSON of a message in which the field is set.
func (f field) nest(value []byte) []byte {
	var b []byte
	for _, name := range f.names {
		b = fmt.Appendf(b, "{%q:", name)
	}
	b = append(b, value...)
	for range f.names {
		b = append(b, '}')
	}
	return b
}
