package describe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/gobwire"
	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/jsontext"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// serviceDefault is the name under which go-plugin registers every
	// dispensed object.
	serviceDefault = "Plugin"
	// methodsMax bounds a description; Reva's largest plugin has six methods.
	methodsMax = 1000
	// requiredMax bounds the fields that each call looks for.
	requiredMax = 64
)

// Compiled is a description that was checked.
type Compiled struct {
	Table      *gobwire.Table
	Operations map[string]*Operation
}

// An Operation is a described method, ready to be called.
type Operation struct {
	Name    string
	Remote  string // Service.Method
	Summary string
	Args    *gobwire.Type
	Reply   *gobwire.Type
	Needs   []int64 // the types to be defined before Args
	// ErrorField is the field of the answer that is the plugin's own error; "" when
	// there is none.
	ErrorField string
	Idempotent bool
	Timeout    time.Duration // 0: none of its own

	required []requirement
	defaults []missing
}

// missing is a field that is sent when the caller leaves it out.
type missing struct {
	name  string
	value []byte
}

// A requirement is the way to a field that must be given.
type requirement struct {
	path  string // as the manifest writes it
	steps []string
}

// Compile checks d, and adds what is wrong with it to faults with paths under
// path. Without faults it returns a complete description.
func Compile(d Description, path string, faults *plugin.Faults) Compiled {
	c := Compiled{Operations: map[string]*Operation{}}
	if len(d.Methods) > methodsMax {
		faults.Add(path+".methods", "has %d methods; at most %d", len(d.Methods), methodsMax)
		return c
	}
	var err error
	if c.Table, err = gobwire.NewTable(d.Types, gobwire.Options{WideAsText: d.Integers == "text"}); err != nil {
		var fault *gobwire.TypeFault
		if errors.As(err, &fault) {
			faults.Add(strings.TrimSuffix(path+".types."+fault.Path, "."), "%s", fault.Detail)
		}
		return c
	}
	service := d.Service
	if service == "" {
		service = serviceDefault
	}
	for _, name := range slices.Sorted(maps.Keys(d.Methods)) {
		k := compiler{method: d.Methods[name], table: c.Table, path: path + ".methods." + name, faults: faults}
		if o := k.operation(name, service); o != nil {
			c.Operations[name] = o
		}
	}
	return c
}

// compiler makes one operation.
type compiler struct {
	method Method
	table  *gobwire.Table
	path   string
	faults *plugin.Faults
}

func (k compiler) operation(name, service string) *Operation {
	m := k.method
	remote := m.Method
	if remote == "" {
		remote = name
	}
	o := &Operation{
		Name: name, Remote: service + "." + remote, Summary: m.Summary, Idempotent: m.Idempotent, Timeout: m.Timeout.Std(), ErrorField: m.ErrorField,
		Args: k.typ("args", m.Args), Reply: k.typ("reply", m.Reply),
	}
	if o.Args == nil || o.Reply == nil {
		return nil
	}
	o.Needs = k.table.Needs(o.Args)
	if o.ErrorField != "" && !slices.Contains(o.Reply.Members(), o.ErrorField) {
		k.faults.Add(k.path+".errorField", "%q is not a field of %s", m.ErrorField, o.Reply)
	}
	k.require(o)
	k.defaults(o)
	return o
}

func (k compiler) typ(field, text string) *gobwire.Type {
	if text == "" {
		k.faults.Add(k.path+"."+field, "is missing; give the type of the method's %s", field)
		return nil
	}
	of, err := k.table.Type(text)
	if err != nil {
		k.faults.Add(k.path+"."+field, "%v", err)
	}
	return of
}

func (k compiler) require(o *Operation) {
	if len(k.method.Required) > requiredMax {
		k.faults.Add(k.path+".required", "has %d fields; at most %d", len(k.method.Required), requiredMax)
		return
	}
	for i, text := range k.method.Required {
		steps := strings.Split(text, ".")
		of := o.Args
		for _, step := range steps {
			if of = of.Member([]byte(step)); of == nil {
				k.faults.Add(fmt.Sprintf("%s.required[%d]", k.path, i), "%q is not a field of the argument, or not of what leads to it", text)
				break
			}
		}
		o.required = append(o.required, requirement{text, steps})
	}
}

// defaults checks each value by writing an argument that has nothing else.
func (k compiler) defaults(o *Operation) {
	for _, name := range slices.Sorted(maps.Keys(k.method.Defaults)) {
		value := k.method.Defaults[name]
		path := k.path + ".defaults." + name
		if o.Args.Member([]byte(name)) == nil {
			k.faults.Add(path, "is not a field of the argument")
			continue
		}
		one := missing{name, value}
		if _, err := gobwire.NewWriter(k.table).Request(nil, "", 0, o.Args, o.Needs, one.into([]byte("{}"))); err != nil {
			k.faults.Add(path, "%v", err)
			continue
		}
		o.defaults = append(o.defaults, one)
	}
}

// Argument returns what is sent for a caller's JSON: with the defaults, and with
// all that is required, or a *gobwire.Fault that says what is missing.
func (o *Operation) Argument(data []byte) ([]byte, error) {
	if len(o.required)+len(o.defaults) == 0 {
		return data, nil
	}
	begin := jsontext.Space(data, 0)
	if begin == len(data) || data[begin] == 'n' {
		data, begin = []byte("{}"), 0
	}
	if !jsontext.Valid(data) || data[begin] != '{' {
		return data, nil // the writer says what is wrong with it
	}
	data = data[begin:]
	for _, d := range o.defaults {
		if v := member(data, o.Args, d.name); v == nil || v[0] == 'n' {
			data = d.into(data)
		}
	}
	for _, r := range o.required {
		if !o.has(data, r.steps) {
			return nil, &gobwire.Fault{Path: "." + r.path, Detail: "is required, and is missing or null"}
		}
	}
	return data, nil
}

// member returns the value of a field of the object data, nil when it is not there.
// Names match as the writer has them: in any capitals.
func member(data []byte, of *gobwire.Type, name string) (value []byte) {
	_ = jsontext.Each(data, func(k, v []byte) error { // no error is made
		if of.Same(jsontext.Text(k), name) {
			value = v
		}
		return nil
	})
	return value
}

func (o *Operation) has(data []byte, steps []string) bool {
	of := o.Args
	for _, step := range steps {
		if data[0] != '{' { // the writer says what is wrong with it
			return true
		}
		data = member(data, of, step)
		if data == nil || data[0] == 'n' {
			return false
		}
		of = of.Member([]byte(step))
	}
	return true
}

// into returns the object data with the field at its end.
func (d missing) into(data []byte) []byte {
	end := bytes.LastIndexByte(data, '}')
	name, _ := json.Marshal(d.name) // a text
	out := make([]byte, 0, len(data)+len(name)+len(d.value)+2)
	out = append(out, data[:end]...)
	if jsontext.Count(data) > 0 {
		out = append(out, ',')
	}
	out = append(append(append(out, name...), ':'), d.value...)
	return append(out, '}')
}

// Offer is what the operation shows of itself.
func (o *Operation) Offer() plugin.Operation {
	var required []string
	for _, r := range o.required {
		if top := r.steps[0]; !slices.Contains(required, top) && !slices.ContainsFunc(o.defaults, func(d missing) bool { return d.name == top }) {
			required = append(required, top)
		}
	}
	return plugin.Operation{Name: o.Name, Summary: o.Summary, Input: o.Args.Schema(required, ""), Output: o.Reply.Schema(nil, o.ErrorField)}
}

// Offers lists all operations by their names.
func (c Compiled) Offers() []plugin.Operation {
	list := make([]plugin.Operation, 0, len(c.Operations))
	for _, o := range c.Operations {
		list = append(list, o.Offer())
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list
}
