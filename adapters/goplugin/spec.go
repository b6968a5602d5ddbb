package goplugin

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/build"
	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/debuginfo"
	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/describe"
	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/kept"
	"github.com/patchbay-dev/patchbay/adapters/goplugin/reva"
	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/manifest"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Spec is the manifest block under spec.goplugin.
type Spec struct {
	Command []string `json:"command,omitempty" doc:"The executable and its arguments; a relative path starts from metadata.source. Required without source."`
	Source  Source   `json:"source,omitzero" doc:"In place of command: Go source, which the daemon builds into its cache, or a URL to download."`
	// Preset's words are the names of presets.
	Preset    string    `json:"preset,omitempty" enum:"patchbay,terraform,vault,tflint,grafana,example-basic,example-bidirectional,example-kv,example-negotiated,example-streaming,reva" doc:"Fills in what the plugins of one family have in common, so that command is all that is needed; fields given beside it win. patchbay is for those of Patchbay's own SDK (sdk/go/goplugin); the examples are go-plugin's. reva takes its configuration from config."`
	Handshake Handshake `json:"handshake,omitzero" doc:"What the plugin asks for before it serves: its HandshakeConfig. Required without a preset."`
	// Inherit is the only way from the daemon's environment to the plugin's.
	Inherit   []string `json:"inherit,omitempty" doc:"Names of variables that the plugin is given as the daemon has them, such as HTTPS_PROXY; one that the daemon lacks is left out, and spec.env wins. Nothing else of its environment is passed on."`
	Transport string   `json:"transport,omitempty" enum:"auto,netrpc,grpc" doc:"auto (default) takes what the plugin announces; netrpc or grpc refuses the other."`
	TLS       string   `json:"tls,omitempty" enum:"off,auto" doc:"off (default): the private socket is the protection. auto: mutual TLS with one-time certificates (AutoMTLS)."`
	Plugin    string   `json:"plugin,omitempty" doc:"net/rpc: the name to dispense, a key of the plugin's plugin map. With preset reva: userprovider or authprovider; without it both are tried."`
	Describe  Describe `json:"describe,omitzero" doc:"net/rpc: the methods and their types, which that protocol cannot tell; preset reva knows them."`
	// Dialect is by the cookie, or by describe.from: dwarf, when it is not given.
	Dialect string `json:"dialect,omitempty" enum:"A,B,C" doc:"preset reva: how the plugin speaks. A: Reva 1.12 to 1.17 and 2.0 to 2.2; B: from 1.18 and 2.3; C: the proposal with the cookie reva. By default C for a plugin that accepts that cookie, and B, which serves A too, for others."`
	// Config is not secret: it stands in the manifest.
	Config    plugin.RawJSON `json:"config,omitempty" doc:"What the plugin is configured with after each start, before it runs. With preset reva: the driver's table, an object whose values are texts, numbers, true or false, or lists of texts."`
	Configure string         `json:"configure,omitempty" doc:"The operation that takes config as its argument (preset reva: Configure). It is called after each start: when it refuses, the plugin does not run."`
	// DescriptorSet is for plugins in languages whose servers have no reflection.
	DescriptorSet string `json:"descriptorSet,omitempty" doc:"gRPC: a FileDescriptorSet (protoc --include_imports --descriptor_set_out) to take the services from, for a plugin without server reflection; a relative path starts from metadata.source."`
	// Errors' longest pattern that matches wins.
	Errors map[string]int `json:"errors,omitempty" doc:"What the plugin's own errors mean: a pattern, in which * is any text, and the HTTP status of a refusal that it matches. It is matched with the error's Go type (net/rpc), as errtypes.NotFound, or its code (gRPC), as NotFound; where there is neither, with its text."`
	// Metadata's "*" is for all operations.
	Metadata map[string]map[string]string `json:"metadata,omitempty" doc:"gRPC: metadata sent with each call of an operation; under \"*\", with every call. The value of a key that ends in -bin is base64."`
	// CallerMetadata leaves out the trace, which is always carried.
	CallerMetadata []string `json:"callerMetadata,omitempty" doc:"gRPC: keys of metadata that callers may send, a * at the end standing for the rest; others are denied. Without it callers may send any."`
	// Callbacks is exhaustive: see callServer.
	Callbacks  map[string]Callback `json:"callbacks,omitempty" doc:"gRPC: what the plugin can ask of its host, by service (package.Service) or method (package.Service/Method), which goes before its service; to be found by the plugin's reflection. All else is denied."`
	BrokerIDs  map[string]string   `json:"brokerIds,omitempty" doc:"gRPC: by operation, the field of its argument that has the number of a connection of the broker. Patchbay puts in a fresh one with each call, by which the plugin reaches its callbacks."`
	StartCalls []StartCall         `json:"startCalls,omitempty" doc:"Calls that are made, in this order, each time the plugin was started and before it is ready; not when it is adopted."`
}

// Handshake is go-plugin's HandshakeConfig.
type Handshake struct {
	Key   string `json:"key,omitempty" doc:"MagicCookieKey: the name of the environment variable."`
	Value string `json:"value,omitempty" doc:"MagicCookieValue: its value."`
	// Values are tried in order; a plugin refuses a wrong one within milliseconds.
	Values   []string `json:"values,omitempty" doc:"Several MagicCookieValues in place of value: each is tried, in this order, until the plugin does not refuse it."`
	Versions []int    `json:"versions,omitempty" doc:"Protocol versions that may be spoken (default 1); the plugin takes its highest among them."`
}

// Source is where a plugin comes from that is no executable yet.
type Source = build.Source

// Describe says what a net/rpc plugin offers; what it consists of is described there.
type (
	Describe = describe.Description
	Types    = describe.Types
	Shape    = describe.Shape
	Method   = describe.Method
)

const (
	transportAuto   = "auto"
	transportNetRPC = "netrpc"
	transportGRPC   = "grpc"
	tlsAuto         = "auto"
	describePath    = "spec.goplugin.describe"
	// versionMax is well above any protocol version in use.
	versionMax = 1 << 16
	// inheritMax is more than any plugin's documentation asks for.
	inheritMax = 100
	// valuesMax bounds the starts of one launch; Reva, with two, has the most.
	valuesMax = 8
)

var (
	variablePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	digestPattern   = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	metadataPattern = regexp.MustCompile(`^[a-z0-9._-]+$`)
)

// compiled is a checked manifest, ready to launch.
type compiled struct {
	Spec
	preset    preset
	path      string // of the executable, absolute; empty with a source that was not built yet
	replaced  string // the executable that the manifest names, when a copy of what it was is path
	digest    string
	described describe.Compiled   // without operations before debugging information is read, or the object chosen
	objects   map[string][]object // by the cookie's value, where the preset knows them
	setup     []byte              // the argument of Configure
	payload   int
	// descriptors is the content of DescriptorSet.
	descriptors []byte
	// ownCallbacks are the manifest's, without the preset's.
	ownCallbacks map[string]Callback
}

// compile checks m and prepares what is the same for every launch of it. The
// error is plugin.Faults.
func compile(m plugin.Manifest, from executables) (compiled, error) {
	c, faults, err := interpret(m)
	if err != nil {
		return c, err
	}
	switch {
	case c.Source != (Source{}):
		if c.Source.Folder != "" && !filepath.IsAbs(c.Source.Folder) && m.Metadata.Source != "" {
			c.Source.Folder = filepath.Join(m.Metadata.Source, c.Source.Folder)
		}
		from.builds.Check(c.Source, &faults)
	case len(c.Command) > 0 && c.Command[0] != "":
		c.resolve(m.Metadata.Source, from.kept, &faults)
	}
	c.describeByFile(m.Metadata.Source, &faults)
	return c, faults.Err()
}

// interpret is compile without a look at the executable, which a running plugin
// does not need any more.
func interpret(m plugin.Manifest) (compiled, plugin.Faults, error) {
	c := compiled{digest: m.Spec.Digest, payload: int(m.WithDefaults().Spec.Limits.Payload)}
	var faults plugin.Faults
	if err := manifest.Decode(m, &c.Spec); err != nil && !errors.As(err, &faults) {
		return c, nil, err
	}
	checkRest(m.Spec, &faults)
	switch sourced := c.Source != (Source{}); {
	case sourced && len(c.Command) > 0:
		faults.Add("spec.goplugin.source", "stands beside command; leave one of them out")
	case !sourced && len(faults) == 0 && (len(c.Command) == 0 || c.Command[0] == ""):
		faults.Add("spec.goplugin.command", "is empty; give the plugin's path and arguments, or source")
	}
	c.preset = presetOf(c.Preset)
	c.ownCallbacks = c.Callbacks
	c.Spec = c.preset.under(c.Spec)
	c.Callbacks = withCallbacks(c.ownCallbacks, c.preset.spec.Callbacks)
	c.checkHandshake(&faults)
	c.checkInherit(&faults)
	c.checkTransport(&faults)
	c.checkCallbacks(&faults)
	c.checkDescription(&faults)
	c.checkConfig(&faults)
	c.checkErrors(&faults)
	c.orDefaults()
	proc.CheckProbes(&faults, m)
	return c, faults, nil
}

// checkRest refuses what stands beside the block and is not kept here.
func checkRest(s plugin.Spec, faults *plugin.Faults) {
	if s.Mode == plugin.Job {
		faults.Add("spec.mode", "job is not possible for goplugin: such a process serves calls; leave it out")
	}
	proc.CheckLimits(faults, s.Limits)
	if len(s.Streams) > 0 {
		faults.Add("spec.streams", "goplugin has no sources or sinks; leave it out")
	}
	if s.Digest != "" && !digestPattern.MatchString(s.Digest) {
		faults.Add("spec.digest", "is not sha256: and 64 hexadecimal digits; sha256sum prints them")
	}
}

func (c *compiled) resolve(source string, copies *kept.Store, faults *plugin.Faults) {
	const path = "spec.goplugin.command[0]"
	c.path = c.Command[0]
	if !filepath.IsAbs(c.path) {
		if source == "" {
			faults.Add(path, "%q is relative, and metadata.source is missing; write the absolute path", c.path)
			return
		}
		c.path = filepath.Join(source, c.path)
	}
	if copy := copies.Choose(c.path, c.digest); copy != c.path {
		c.replaced, c.path = c.path, copy
	}
	if err := proc.LookExecutable(c.path); err != nil {
		faults.Add(path, "%v", err)
	} else if c.Describe.From == describe.FromDWARF {
		if err := debuginfo.Has(c.path); err != nil {
			faults.Add(describePath+".from", "dwarf cannot be read from %s: %v; describe the methods here, or build it with debugging information", c.path, err)
		}
	}
	if i := slices.IndexFunc(c.Command, func(arg string) bool { return strings.ContainsRune(arg, 0) }); i >= 0 {
		faults.Add("spec.goplugin.command", "argument %d holds a zero byte", i)
	}
}

func (c *compiled) checkHandshake(faults *plugin.Faults) {
	const path = "spec.goplugin.handshake"
	h := c.Handshake
	if h.Key != "" && (!variablePattern.MatchString(h.Key) || strings.HasPrefix(h.Key, "PLUGIN_")) {
		faults.Add(path+".key", "%q cannot be a cookie's name: use letters, digits and _, not beginning with PLUGIN_", h.Key)
	}
	for _, v := range h.Versions {
		if v < 0 || v > versionMax {
			faults.Add(path+".versions", "%d is out of range; write 0 to %d", v, versionMax)
		}
	}
	c.checkValues(faults)
	if c.Preset != "" || slices.ContainsFunc(*faults, func(f plugin.Fault) bool { return f.Path == "spec.goplugin.preset" }) {
		return
	}
	switch none := h.Value == "" && len(h.Values) == 0; {
	case h.Key == "" && none:
		faults.Add(path, "is missing; give the plugin's MagicCookieKey and MagicCookieValue, or spec.goplugin.preset")
	case h.Key == "":
		faults.Add(path+".key", "is missing; give the plugin's MagicCookieKey, or spec.goplugin.preset")
	case none:
		faults.Add(path+".value", "is missing; give the plugin's MagicCookieValue, or spec.goplugin.preset")
	}
}

// checkValues leaves all that may be tried in Values.
func (c *compiled) checkValues(faults *plugin.Faults) {
	const path = "spec.goplugin.handshake.value"
	h := &c.Handshake
	switch {
	case h.Value != "" && len(h.Values) > 0:
		faults.Add(path+"s", "stands beside value; write all of them here, and leave out value")
	case len(h.Values) > valuesMax:
		faults.Add(path+"s", "has %d values; at most %d are tried", len(h.Values), valuesMax)
	case strings.ContainsRune(h.Value, 0):
		faults.Add(path, "holds a zero byte")
	}
	for i, value := range h.Values {
		if value == "" || strings.ContainsRune(value, 0) {
			faults.Add(fmt.Sprintf("%ss[%d]", path, i), "is empty or holds a zero byte; no plugin has such a cookie")
		}
	}
	if h.Value != "" {
		h.Values = []string{h.Value}
	}
}

// checkInherit keeps the daemon's own settings from a plugin, among which is where
// its tokens are, and the protocol's variables from the manifest.
func (c *compiled) checkInherit(faults *plugin.Faults) {
	for i, name := range c.Inherit {
		at := fmt.Sprintf("spec.goplugin.inherit[%d]", i)
		switch {
		case i == inheritMax:
			faults.Add("spec.goplugin.inherit", "has %d names; at most %d", len(c.Inherit), inheritMax)
			return
		case !variablePattern.MatchString(name):
			faults.Add(at, "%q cannot be a variable's name: use letters, digits and _", cut(name))
		case strings.HasPrefix(name, "PATCHBAY_"), strings.HasPrefix(name, "PLUGIN_"):
			faults.Add(at, "%s is not passed on: PATCHBAY_ is the daemon's own, PLUGIN_ the protocol's", name)
		}
	}
}

func (c *compiled) checkTransport(faults *plugin.Faults) {
	described := !reflect.ValueOf(c.Describe).IsZero()
	switch {
	case c.Transport == transportGRPC && (described || c.Plugin != ""):
		faults.Add("spec.goplugin.transport", "grpc tells its own services; leave out plugin and describe, which are for netrpc")
	case c.Transport == transportNetRPC && len(c.Metadata) > 0:
		faults.Add("spec.goplugin.metadata", "net/rpc carries none; leave it out")
	case c.Transport == transportNetRPC && c.DescriptorSet != "":
		faults.Add("spec.goplugin.descriptorSet", "is for gRPC; describe the methods of net/rpc under describe")
	case c.Transport == transportNetRPC && len(c.CallerMetadata) > 0:
		faults.Add("spec.goplugin.callerMetadata", "net/rpc carries none; leave it out")
	case c.isKnown(c.Plugin):
	case (c.Transport == transportNetRPC || described) && c.Plugin == "":
		faults.Add("spec.goplugin.plugin", "is missing; give the name to dispense, a key of the plugin's plugin map")
	case c.preset.reva && len(c.Describe.Methods) == 0:
		faults.Add("spec.goplugin.plugin", "%q is not known of Reva; write %s, or describe the methods of another", c.Plugin, strings.Join(reva.Kinds(), " or "))
	case (c.Transport == transportNetRPC || c.Plugin != "") && len(c.Describe.Methods) == 0 && c.Describe.From != describe.FromDWARF:
		faults.Add("spec.goplugin.describe.methods", "is missing; net/rpc cannot tell its methods, so describe them, or write from: dwarf")
	}
	for operation, pairs := range c.Metadata {
		for key, value := range pairs {
			if _, err := carried(key, value); err != nil {
				faults.Add("spec.goplugin.metadata."+operation, "%q: %v", key, err)
			}
		}
	}
	for i, key := range c.CallerMetadata {
		if !metadataPattern.MatchString(strings.TrimSuffix(key, "*")) && key != "*" {
			faults.Add(fmt.Sprintf("spec.goplugin.callerMetadata[%d]", i), "%q cannot be a key: use a-z, 0-9, hyphen, dot and _, and * at the end", key)
		}
	}
}

// readDescription lays the manifest's description over what the debugging
// information of the running binary has.
func (p *process) readDescription(ctx context.Context) error {
	if p.Describe.From != describe.FromDWARF {
		return nil
	}
	found, err := p.debug.Read(ctx, fmt.Sprintf("/proc/%d/exe", p.Pid()))
	if isContext(err) {
		return startFailed("describe", err)
	}
	var known Describe
	reva := p.isKnown(p.Plugin)
	switch {
	case err != nil:
	case reva:
		err = p.chooseDialect(found)
	default:
		known, err = found.Choose(p.Describe.Type)
	}
	if err != nil {
		return fmt.Errorf("%s.from: %w: dwarf: %w", describePath, plugin.ErrInvalid, err)
	}
	var faults plugin.Faults
	if reva {
		p.know(&faults)
		return faults.Err()
	}
	p.described = describe.Compile(known.Under(p.Describe), describePath, &faults)
	return faults.Err()
}

// checkDescription compiles what is written in the manifest. Where that is laid
// over debugging information, it is compiled once that is read.
func (c *compiled) checkDescription(faults *plugin.Faults) {
	given := c.Describe
	if given.From == describe.FromDWARF {
		given = Describe{Types: given.Types}
	} else if given.Type != "" {
		faults.Add("spec.goplugin.describe.type", "chooses among types of the binary, for from: dwarf; leave it out")
	}
	if c.isKnown(c.Plugin) && c.Describe.From != describe.FromDWARF {
		c.know(faults)
		return
	}
	c.described = describe.Compile(given, describePath, faults)
}

func (c *compiled) orDefaults() {
	if c.Transport == "" {
		c.Transport = transportAuto
	}
	if len(c.Handshake.Versions) == 0 {
		c.Handshake.Versions = []int{1}
	}
}
