package provider

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"
	"strings"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// systemSet is the command set of actions that belong to no kind of object.
const systemSet = "system"

// Shape of an argument, as Describe's schemas tell it:
//
//	action on the system      the argument is the object of its parameters
//	action on a kind of object {"Model": the object, "Params": the parameters}
const (
	modelKey  = "Model"
	paramsKey = "Params"
)

// An operation is an action as it can be invoked.
type operation struct {
	action
	name string
	def  *definition
	// head and tail are what stands around Model and Params in a request.
	head, tail []byte
}

// operations is the directory of one provider's actions: "command", or
// "model/command" when several kinds of object have the command. The long form
// of an action on a kind of object is always understood.
type operations struct {
	byName map[string]*operation
	listed []*operation // sorted by name
}

func newOperations(d *definition, instance string) (*operations, error) {
	commands := map[string]int{}
	for _, a := range d.AvailableActions {
		if a.Model != "" {
			commands[a.Command]++
		}
	}
	all := &operations{byName: map[string]*operation{}}
	for _, a := range d.AvailableActions {
		op, err := newOperation(d, a, instance)
		if err != nil {
			return nil, err
		}
		long := a.Model + "/" + a.Command
		plain := a.Model == "" || commands[a.Command] == 1 && !d.onSystem(a.Command)
		if op.name = long; plain {
			op.name = a.Command
		}
		if _, ok := all.byName[op.name]; ok {
			return nil, fmt.Errorf("define: %w: it declares the action %q twice", plugin.ErrInvalid, op.name)
		}
		all.byName[op.name] = op
		all.byName[strings.TrimPrefix(long, "/")] = op
		all.listed = append(all.listed, op)
	}
	sort.Slice(all.listed, func(i, j int) bool { return all.listed[i].name < all.listed[j].name })
	return all, nil
}

// onSystem reports whether the command exists on the system too.
func (d *definition) onSystem(command string) bool {
	for _, a := range d.AvailableActions {
		if a.Model == "" && a.Command == command {
			return true
		}
	}
	return false
}

func newOperation(d *definition, a action, instance string) (*operation, error) {
	set := a.Model
	if set == "" {
		set = systemSet
	}
	head, err := json.Marshal(struct{ Plugin, Command, CommandSet string }{instance, a.Command, set})
	if err != nil {
		return nil, fmt.Errorf("define: %w: action %q: %w", plugin.ErrInvalid, a.Command, err)
	}
	return &operation{action: a, def: d, head: append(head[:len(head)-1], `,"Model":`...), tail: []byte("}")}, nil
}

// request writes the body of the action post. The argument goes in as it is,
// unless a default must be added to it.
func (op *operation) request(argument []byte) ([]byte, error) {
	model, params := []byte("null"), argument
	if len(bytes.TrimSpace(params)) == 0 {
		params = []byte("{}")
	}
	var err error
	if op.Model != "" {
		if model, params, err = split(params); err != nil {
			return nil, fmt.Errorf("operation %s: %w: %w", op.name, plugin.ErrInvalid, err)
		}
	} else if err := wantObject(params); err != nil {
		return nil, fmt.Errorf("operation %s: %w: the argument %w", op.name, plugin.ErrInvalid, err)
	}
	if params, err = op.expand(model, params); err != nil {
		return nil, err
	}
	const between = `,"Params":`
	body := make([]byte, 0, len(op.head)+len(model)+len(between)+len(params)+len(op.tail))
	body = append(append(append(body, op.head...), model...), between...)
	return append(append(body, params...), op.tail...), nil
}

// split takes an argument of an action on an object apart.
func split(argument []byte) (model, params []byte, err error) {
	var parts map[string]plugin.RawJSON
	if err := json.Unmarshal(argument, &parts); err != nil {
		return nil, nil, fmt.Errorf("the argument is not a JSON object: %w", err)
	}
	for key := range parts {
		if key != modelKey && key != paramsKey {
			return nil, nil, fmt.Errorf("the argument has %q; it is {%q: the object, %q: {...}}", key, modelKey, paramsKey)
		}
	}
	if err := wantObject(parts[modelKey]); err != nil {
		return nil, nil, fmt.Errorf("%s %w", modelKey, err)
	}
	if parts[paramsKey] == nil {
		return parts[modelKey], []byte("{}"), nil
	}
	if err := wantObject(parts[paramsKey]); err != nil {
		return nil, nil, fmt.Errorf("%s %w", paramsKey, err)
	}
	return parts[modelKey], parts[paramsKey], nil
}

func wantObject(data []byte) error {
	if text := bytes.TrimLeft(data, " \t\r\n"); len(text) == 0 || text[0] != '{' || !json.Valid(data) {
		return fmt.Errorf("is not a JSON object")
	}
	return nil
}

// expand resolves the declared parameters: the argument's own, else the object's
// (its Params), else the declared default. Without declared ones nothing is parsed.
func (op *operation) expand(model, params []byte) ([]byte, error) {
	if len(op.RequiredParams)+len(op.OptionalParams) == 0 {
		return params, nil
	}
	var all map[string]plugin.RawJSON
	if err := json.Unmarshal(params, &all); err != nil {
		return nil, fmt.Errorf("operation %s: %w: %w", op.name, plugin.ErrInvalid, err)
	}
	before := len(all)
	op.fromObject(all, model)
	if missing := op.def.complete(all, op.RequiredParams, op.OptionalParams); len(missing) > 0 {
		return nil, fmt.Errorf("operation %s: %w: missing required parameter %s", op.name, plugin.ErrInvalid, quoted(missing))
	}
	if len(all) == before {
		return params, nil
	}
	return json.Marshal(all)
}

// fromObject takes declared parameters from the object's own Params.
func (op *operation) fromObject(all map[string]plugin.RawJSON, model []byte) {
	var object struct{ Params map[string]plugin.RawJSON }
	if json.Unmarshal(model, &object) != nil {
		return
	}
	for _, names := range [][]string{op.RequiredParams, op.OptionalParams} {
		for _, name := range names {
			if _, ok := all[name]; ok {
				continue
			}
			if value, ok := object.Params[name]; ok {
				all[name] = value
			}
		}
	}
}

// describe gives the argument's schema.
func (op *operation) describe() (plugin.Operation, error) {
	properties := map[string]plugin.RawJSON{}
	for _, names := range [][]string{op.RequiredParams, op.OptionalParams} {
		for _, name := range names {
			properties[name] = op.def.params[name].Schema
			if properties[name] == nil {
				properties[name] = plugin.RawJSON("true")
			}
		}
	}
	schema := map[string]any{"type": "object", "properties": properties}
	if needed := op.withoutDefault(); len(needed) > 0 {
		schema["required"] = needed
	}
	summary := "Action of the provider " + op.def.Name + "; the argument is its parameters."
	if op.Model != "" {
		delete(schema, "required") // the object may have them
		schema = map[string]any{
			"type": "object", "additionalProperties": false, "required": []string{modelKey},
			"properties": map[string]any{modelKey: map[string]string{"type": "object"}, paramsKey: schema},
		}
		summary = fmt.Sprintf("Action of the provider %s on an object of %s; the argument is {%s: the object, %s: its parameters}.",
			op.def.Name, op.Model, modelKey, paramsKey)
	}
	input, err := json.Marshal(schema)
	if err != nil {
		return plugin.Operation{}, fmt.Errorf("describe %s: %w: %w", op.name, plugin.ErrInvalid, err)
	}
	return plugin.Operation{Name: op.name, Summary: summary, Input: input}, nil
}

func (op *operation) withoutDefault() (names []string) {
	for _, name := range op.RequiredParams {
		if op.def.params[name].Default == nil {
			names = append(names, name)
		}
	}
	return names
}

func (all *operations) names() []string {
	names := make([]string, len(all.listed))
	for i, op := range all.listed {
		names[i] = op.name
	}
	return names
}

func quoted(names []string) string {
	texts := make([]string, len(names))
	for i, name := range names {
		texts[i] = fmt.Sprintf("%q", name)
	}
	return strings.Join(texts, ", ")
}
