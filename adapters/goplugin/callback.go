package goplugin

import (
	"fmt"
	"maps"
	"regexp"
	"strings"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Callback says what a call of the plugin to its host does. Exactly one field is set.
type Callback struct {
	KV     *KVCallback     `json:"kv,omitempty" doc:"Reads or writes the plugin's own keys and values, which are kept until the plugin is deleted: at most 16384 keys and 64 MiB. They are stored as they come, not encrypted. For one method, not for a service."`
	Bus    *BusCallback    `json:"bus,omitempty" doc:"Publishes the call, or asks whoever listens."`
	Invoke *InvokeCallback `json:"invoke,omitempty" doc:"Invokes an operation of another plugin. For one method, not for a service."`
	Static plugin.RawJSON  `json:"static,omitempty" doc:"Answers with this message, in protobuf's JSON form."`
	Deny   string          `json:"deny,omitempty" enum:"PermissionDenied,Unimplemented,Unavailable,NotFound,FailedPrecondition" doc:"Answers with this gRPC status; PermissionDenied is the answer to what is not named at all."`
}

// KVCallback maps one method to one action on the plugin's keys and values. Fields are
// written as in the JSON form, with dots between a message and its field.
type KVCallback struct {
	Do    string `json:"do" required:"true" enum:"get,put,delete,list" doc:"What the method does."`
	Key   string `json:"key,omitempty" doc:"The field of the call that has the key (default key); of list, the beginning of the keys that are told (default prefix)."`
	Value string `json:"value,omitempty" doc:"The field that has the value: put keeps that of the call, get sets that of the answer (default value); list sets that of the names (default keys)."`
	// Delimiter makes folders of keys, as Vault has them.
	Delimiter string `json:"delimiter,omitempty" doc:"list: tells names from the prefix on, and of a name that has this only what comes before, with it, once. Without it keys are told whole."`
	Missing   string `json:"missing,omitempty" enum:"empty,NotFound" doc:"get: what a missing key is answered with: a message without the value (empty, default) or the gRPC status NotFound."`
}

// BusCallback sends a call to the bus, as JSON. One of its fields is set.
type BusCallback struct {
	Publish string `json:"publish,omitempty" doc:"Publishes the call as an event of the plugin of this type, on patchbay.v1.event.PLUGIN.TYPE, and answers with an empty message."`
	Type    string `json:"type,omitempty" doc:"In place of publish: the field of the call that has the event's type."`
	Data    string `json:"data,omitempty" doc:"With publish or type: the field of the call that is published (default all of it)."`
	Request string `json:"request,omitempty" doc:"Asks on patchbay.v1.callback.PLUGIN.NAME, and answers with the first answer, which is JSON."`
}

// InvokeCallback says where in the messages an invocation is.
type InvokeCallback struct {
	Plugins   []string `json:"plugins" required:"true" doc:"The names of the plugins that may be invoked."`
	Plugin    string   `json:"plugin,omitempty" doc:"The field of the call that has the plugin's name (default plugin)."`
	Operation string   `json:"operation,omitempty" doc:"The field of the call that has the operation (default operation)."`
	Data      string   `json:"data,omitempty" doc:"The field of the call that is the argument, in its JSON form (default data)."`
	Value     string   `json:"value,omitempty" doc:"The field of the answer that takes the result (default data)."`
}

// kind is the name of the field that is set.
func (b Callback) kind() string {
	switch {
	case b.KV != nil:
		return "kv"
	case b.Bus != nil:
		return "bus"
	case b.Invoke != nil:
		return "invoke"
	case b.Deny != "":
		return "deny"
	}
	return "static"
}

// StartCall is a call that Patchbay makes itself.
type StartCall struct {
	Operation string         `json:"operation" required:"true" doc:"The operation."`
	Data      plugin.RawJSON `json:"data,omitempty" doc:"Its argument."`
	// Error is for protocols that put errors in their answers.
	Error string `json:"error,omitempty" doc:"The field of the answer that has an error; if it is set the start has failed."`
}

const (
	// callbacksMax bounds the bindings of a manifest: Vault's services have 23 methods.
	callbacksMax = 200
	// startCallsMax bounds what a start can take; Vault makes two calls.
	startCallsMax = 16
	// invokedMax bounds the plugins that one may invoke.
	invokedMax = 100
	// fieldDepthMax bounds the path to a field.
	fieldDepthMax = 8
)

var (
	callbackPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*(/[A-Za-z_][A-Za-z0-9_]*)?$`)
	fieldPattern    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*){0,7}$`)
	// publishPattern is what the core takes as the type of an event, requestPattern a
	// name that stands in a subject as it is.
	publishPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?$`)
	requestPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,3}$`)
)

// calledBack reports that the plugin is served at all.
func (s *Spec) calledBack() bool { return len(s.Callbacks)+len(s.BrokerIDs) > 0 }

// withCallbacks returns the manifest's callbacks over the preset's: a method over a
// method, a service over all of its methods.
func withCallbacks(own, preset map[string]Callback) map[string]Callback {
	all := maps.Clone(preset)
	if all == nil {
		return own
	}
	for name := range preset {
		service, _, _ := strings.Cut(name, "/")
		if _, replaced := own[service]; replaced {
			delete(all, name)
		}
	}
	maps.Copy(all, own)
	return all
}

func (c *compiled) checkCallbacks(faults *plugin.Faults) {
	const path = "spec.goplugin.callbacks"
	if c.Transport == transportNetRPC && c.calledBack() {
		faults.Add(path, "netrpc has no callbacks here: what such a plugin opens is closed; leave out callbacks and brokerIds")
	}
	if len(c.Callbacks) > callbacksMax {
		faults.Add(path, "has %d entries; at most %d", len(c.Callbacks), callbacksMax)
		return
	}
	for _, name := range sortedKeys(c.Callbacks) {
		c.Callbacks[name].check(path+"."+name, name, faults)
	}
	for _, operation := range sortedKeys(c.BrokerIDs) {
		checkField(faults, "spec.goplugin.brokerIds."+operation, c.BrokerIDs[operation])
	}
	if len(c.StartCalls) > startCallsMax {
		faults.Add("spec.goplugin.startCalls", "has %d calls; at most %d", len(c.StartCalls), startCallsMax)
	}
	for i, call := range c.StartCalls {
		if call.Error != "" {
			checkField(faults, fmt.Sprintf("spec.goplugin.startCalls[%d].error", i), call.Error)
		}
	}
}

func (b Callback) check(at, name string, faults *plugin.Faults) {
	if !callbackPattern.MatchString(name) {
		faults.Add(at, "%q names no method; write package.Service or package.Service/Method", cut(name))
	}
	set := 0
	for _, is := range []bool{b.KV != nil, b.Bus != nil, b.Invoke != nil, len(b.Static) > 0, b.Deny != ""} {
		if is {
			set++
		}
	}
	if set != 1 {
		faults.Add(at, "has %d of kv, bus, invoke, static and deny; write one", set)
	}
	if b.KV != nil {
		b.KV.check(at+".kv", name, faults)
	}
	if b.Bus != nil {
		b.Bus.check(at+".bus", faults)
	}
	if b.Invoke != nil {
		b.Invoke.check(at+".invoke", name, faults)
	}
}

func (b *InvokeCallback) check(at, name string, faults *plugin.Faults) {
	if !strings.Contains(name, "/") {
		faults.Add(at, "is for one method; write %s/Method", cut(name))
	}
	if len(b.Plugins) == 0 || len(b.Plugins) > invokedMax {
		faults.Add(at+".plugins", "has %d names; write 1 to %d", len(b.Plugins), invokedMax)
	}
	checkFields(faults, at, map[string]string{"plugin": b.Plugin, "operation": b.Operation, "data": b.Data, "value": b.Value})
}

func (b *KVCallback) check(at, name string, faults *plugin.Faults) {
	if !strings.Contains(name, "/") {
		faults.Add(at, "is for one method; write %s/Method", cut(name))
	}
	checkFields(faults, at, map[string]string{"key": b.Key, "value": b.Value})
	if b.Delimiter != "" && b.Do != "list" {
		faults.Add(at+".delimiter", "is for list; leave it out")
	}
	if b.Missing != "" && b.Do != "get" {
		faults.Add(at+".missing", "is for get; leave it out")
	}
	if b.Value != "" && b.Do == "delete" {
		faults.Add(at+".value", "is not for delete; leave it out")
	}
}

func (b *BusCallback) check(at string, faults *plugin.Faults) {
	checkFields(faults, at, map[string]string{"type": b.Type, "data": b.Data})
	set := 0
	for _, field := range []string{b.Publish, b.Type, b.Request} {
		if field != "" {
			set++
		}
	}
	switch {
	case set != 1:
		faults.Add(at, "has %d of publish, type and request; write one", set)
	case b.Data != "" && b.Request != "":
		faults.Add(at+".data", "is for what is published; leave it out")
	case b.Publish != "" && (!publishPattern.MatchString(b.Publish) || strings.HasPrefix(b.Publish, "dev.patchbay.")):
		faults.Add(at+".publish", "%q cannot be an event's type: use 1 to 128 letters, digits, '.', '_', '-' and '/', not beginning with dev.patchbay.", cut(b.Publish))
	case b.Request != "" && !requestPattern.MatchString(b.Request):
		faults.Add(at+".request", "%q cannot be a name: use up to four parts of letters, digits, - and _, with dots between", cut(b.Request))
	}
}

// checkFields checks the paths that are given.
func checkFields(faults *plugin.Faults, at string, paths map[string]string) {
	for _, field := range sortedKeys(paths) {
		if paths[field] != "" {
			checkField(faults, at+"."+field, paths[field])
		}
	}
}

func checkField(faults *plugin.Faults, at, path string) {
	if !fieldPattern.MatchString(path) {
		faults.Add(at, "%q names no field; write field, or message.field, at most %d deep", cut(path), fieldDepthMax)
	}
}
