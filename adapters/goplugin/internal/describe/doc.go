// Package describe holds what is known of a net/rpc plugin that cannot say it
// itself: its methods and the types of their arguments and answers. A description
// stands in a manifest, is read from the plugin's binary (internal/debuginfo), or
// is built in for the plugins of one family.
//
// A built-in one is a value of [Description], written as in a manifest; see the
// example. What a manifest gives beside it wins ([Description.Under]). [Compile]
// turns it into [Operation]s: an operation makes the argument that is sent from
// the JSON of the caller ([Operation.Argument]) and says how its answer is to be
// read. A compiled description does not change and is safe for concurrent use.
//
// It owns nothing and does no I/O.
package describe

import (
	"maps"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/gobwire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Where a description is from.
const (
	FromManifest = "manifest"
	FromDWARF    = "dwarf"
)

// Description says what a net/rpc plugin offers.
type Description struct {
	From     string            `json:"from,omitempty" enum:"manifest,dwarf" doc:"manifest (default): methods and types are written here. dwarf: they are read from the debugging information of the binary, which one built with -ldflags=-s or -w lacks; what is written here wins."`
	Type     string            `json:"type,omitempty" doc:"dwarf: the Go type whose methods are meant, as main.UserServer; needed where several types of the binary have methods for net/rpc."`
	Service  string            `json:"service,omitempty" doc:"The net/rpc service name (default Plugin, which is what go-plugin registers)."`
	Integers string            `json:"integers,omitempty" enum:"number,text" doc:"How an answer has integers of 64 bits: number (default), or text, for readers of JSON that round large numbers. Arguments may be either."`
	Methods  map[string]Method `json:"methods,omitempty" doc:"The methods: each is an operation."`
	Types    Types             `json:"types,omitempty" doc:"Named types, to be used by methods and by each other."`
}

// Types are the named types of a description.
type Types map[string]Shape

// Shape describes one of them.
type Shape = gobwire.Shape

// Method is one net/rpc method.
type Method struct {
	Summary string `json:"summary,omitempty" doc:"A sentence for people."`
	Method  string `json:"method,omitempty" doc:"The Go method, where the operation has another name."`
	Args    string `json:"args,omitempty" doc:"Type of the argument: string, bool, int, uint, float, complex, bytes, any, error, time, bigint, gob or binary (bytes of a type with GobEncode or MarshalBinary), []T, [N]T, map:K,T, *T or a name under types. Required unless from is dwarf."`
	Reply   string `json:"reply,omitempty" doc:"Type of the answer, written as args is. Required unless from is dwarf."`

	ErrorField string                    `json:"errorField,omitempty" doc:"The field of the answer that holds the plugin's own error: when it is set the call is refused; it is not in the answer."`
	Required   []string                  `json:"required,omitempty" doc:"Fields of the argument that must be given and not be null, as UID or UID.OpaqueId: without them the call is refused before the plugin sees it."`
	Defaults   map[string]plugin.RawJSON `json:"defaults,omitempty" doc:"Fields of the argument that are sent when the caller leaves them out or gives null, with their values."`
	Idempotent bool                      `json:"idempotent,omitempty" doc:"Calling twice does what calling once does: a call whose connection broke is made once more."`
	Timeout    plugin.Duration           `json:"timeout,omitempty" doc:"How long a call may take, where that is less than spec.timeouts.invoke."`
}

// Under returns the description with what is given laid over it: a method, field
// by field, and a type win by their name.
func (d Description) Under(given Description) Description {
	out := given
	if out.Service == "" {
		out.Service = d.Service
	}
	if out.Integers == "" {
		out.Integers = d.Integers
	}
	out.Methods = maps.Clone(d.Methods)
	if out.Methods == nil {
		out.Methods = map[string]Method{}
	}
	for name, m := range given.Methods {
		out.Methods[name] = d.method(name, m).under(m)
	}
	out.Types = maps.Clone(d.Types)
	if out.Types == nil {
		out.Types = Types{}
	}
	maps.Copy(out.Types, given.Types)
	return out
}

// method returns what is known of the Go method that an operation is for.
func (d Description) method(name string, given Method) Method {
	if known, ok := d.Methods[name]; ok || given.Method == "" {
		return known
	}
	known := d.Methods[given.Method]
	known.Method = given.Method
	return known
}

// under returns m with what is given laid over it.
func (m Method) under(given Method) Method {
	for _, f := range []struct{ known, given *string }{
		{&m.Summary, &given.Summary}, {&m.Method, &given.Method}, {&m.Args, &given.Args}, {&m.Reply, &given.Reply}, {&m.ErrorField, &given.ErrorField},
	} {
		if *f.given == "" {
			*f.given = *f.known
		}
	}
	if given.Required == nil {
		given.Required = m.Required
	}
	if given.Defaults == nil {
		given.Defaults = m.Defaults
	}
	if given.Timeout == 0 {
		given.Timeout = m.Timeout
	}
	given.Idempotent = given.Idempotent || m.Idempotent
	return given
}
