package goplugin

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/gobwire"
	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/manifest"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Spec is the manifest block under spec.goplugin.
type Spec struct {
	Command   []string  `json:"command" required:"true" doc:"The executable and its arguments; a relative path starts from metadata.source."`
	Handshake Handshake `json:"handshake" required:"true" doc:"What the plugin asks for before it serves: its HandshakeConfig."`
	Transport string    `json:"transport,omitempty" enum:"auto,netrpc,grpc" doc:"auto (default) takes what the plugin announces; netrpc or grpc refuses the other."`
	TLS       string    `json:"tls,omitempty" enum:"off,auto" doc:"off (default): the private socket is the protection. auto: mutual TLS with one-time certificates (AutoMTLS)."`
	Plugin    string    `json:"plugin,omitempty" doc:"net/rpc: the name to dispense, a key of the plugin's plugin map."`
	Describe  Describe  `json:"describe,omitzero" doc:"net/rpc: the methods and their types, which that protocol cannot tell."`
	// DescriptorSet is for plugins in languages whose servers have no reflection.
	DescriptorSet string `json:"descriptorSet,omitempty" doc:"gRPC: a FileDescriptorSet (protoc --include_imports --descriptor_set_out) to take the services from, for a plugin without server reflection; a relative path starts from metadata.source."`
	// Metadata's "*" is for all operations.
	Metadata map[string]map[string]string `json:"metadata,omitempty" doc:"gRPC: metadata sent with each call of an operation; under \"*\", with every call. The value of a key that ends in -bin is base64."`
	// CallerMetadata leaves out the trace, which is always carried.
	CallerMetadata []string `json:"callerMetadata,omitempty" doc:"gRPC: keys of metadata that callers may send, a * at the end standing for the rest; others are denied. Without it callers may send any."`
}

// Handshake is go-plugin's HandshakeConfig.
type Handshake struct {
	Key      string `json:"key" required:"true" doc:"MagicCookieKey: the name of the environment variable."`
	Value    string `json:"value" required:"true" doc:"MagicCookieValue: its value."`
	Versions []int  `json:"versions,omitempty" doc:"Protocol versions that may be spoken (default 1); the plugin takes its highest among them."`
}

// Describe says what a net/rpc plugin offers.
type Describe struct {
	Service string            `json:"service,omitempty" doc:"The net/rpc service name (default Plugin, which is what go-plugin registers)."`
	Methods map[string]Method `json:"methods,omitempty" doc:"The methods: each is an operation."`
	Types   Types             `json:"types,omitempty" doc:"Named types, to be used by methods and by each other."`
}

// Types are the named types of a description.
type Types map[string]Shape

// Shape describes one of them.
type Shape = gobwire.Shape

// Method is one net/rpc method.
type Method struct {
	Summary string `json:"summary,omitempty" doc:"A sentence for people."`
	Args    string `json:"args" required:"true" doc:"Type of the argument: string, bool, int, uint, float, bytes, any, error, time, []T, map:K,T, *T or a name under types."`
	Reply   string `json:"reply" required:"true" doc:"Type of the answer, written as args is."`
}

const (
	transportAuto   = "auto"
	transportNetRPC = "netrpc"
	transportGRPC   = "grpc"
	tlsAuto         = "auto"
	// serviceDefault is the name under which go-plugin registers every
	// dispensed object.
	serviceDefault = "Plugin"
	// methodsMax bounds a description; Reva's largest plugin has six methods.
	methodsMax = 1000
	// versionMax is well above any protocol version in use.
	versionMax = 1 << 16
)

var (
	variablePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	digestPattern   = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	metadataPattern = regexp.MustCompile(`^[a-z0-9._-]+$`)
)

// compiled is a checked manifest, ready to launch.
type compiled struct {
	Spec
	path    string // of the executable, absolute
	digest  string
	table   *gobwire.Table
	methods map[string]*netrpcMethod // empty without a description
	payload int
	// descriptors is the content of DescriptorSet.
	descriptors []byte
}

// compile checks m and prepares what is the same for every launch of it. The
// error is plugin.Faults.
func compile(m plugin.Manifest) (compiled, error) {
	c, faults, err := interpret(m)
	if err != nil {
		return c, err
	}
	if len(c.Command) > 0 && c.Command[0] != "" {
		c.resolve(m.Metadata.Source, &faults)
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
	if len(faults) == 0 && (len(c.Command) == 0 || c.Command[0] == "") {
		faults.Add("spec.goplugin.command", "is empty; give the plugin's path and arguments")
	}
	c.checkHandshake(&faults)
	c.checkTransport(&faults)
	c.describe(&faults)
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

func (c *compiled) resolve(source string, faults *plugin.Faults) {
	const path = "spec.goplugin.command[0]"
	c.path = c.Command[0]
	if !filepath.IsAbs(c.path) {
		if source == "" {
			faults.Add(path, "%q is relative, and metadata.source is missing; write the absolute path", c.path)
			return
		}
		c.path = filepath.Join(source, c.path)
	}
	if err := proc.LookExecutable(c.path); err != nil {
		faults.Add(path, "%v", err)
	}
	if i := slices.IndexFunc(c.Command, func(arg string) bool { return strings.ContainsRune(arg, 0) }); i >= 0 {
		faults.Add("spec.goplugin.command", "argument %d holds a zero byte", i)
	}
}

func (c *compiled) checkHandshake(faults *plugin.Faults) {
	h := c.Handshake
	if h.Key != "" && (!variablePattern.MatchString(h.Key) || strings.HasPrefix(h.Key, "PLUGIN_")) {
		faults.Add("spec.goplugin.handshake.key", "%q cannot be a cookie's name: use letters, digits and _, not beginning with PLUGIN_", h.Key)
	}
	if strings.ContainsRune(h.Value, 0) {
		faults.Add("spec.goplugin.handshake.value", "holds a zero byte")
	}
	for _, v := range h.Versions {
		if v < 0 || v > versionMax {
			faults.Add("spec.goplugin.handshake.versions", "%d is out of range; write 0 to %d", v, versionMax)
		}
	}
}

func (c *compiled) checkTransport(faults *plugin.Faults) {
	described := c.Plugin != "" || len(c.Describe.Methods)+len(c.Describe.Types) > 0 || c.Describe.Service != ""
	switch {
	case c.Transport == transportGRPC && described:
		faults.Add("spec.goplugin.transport", "grpc tells its own services; leave out plugin and describe, which are for netrpc")
	case c.Transport == transportNetRPC && len(c.Metadata) > 0:
		faults.Add("spec.goplugin.metadata", "net/rpc carries none; leave it out")
	case c.Transport == transportNetRPC && c.DescriptorSet != "":
		faults.Add("spec.goplugin.descriptorSet", "is for gRPC; describe the methods of net/rpc under describe")
	case c.Transport == transportNetRPC && len(c.CallerMetadata) > 0:
		faults.Add("spec.goplugin.callerMetadata", "net/rpc carries none; leave it out")
	case (c.Transport == transportNetRPC || len(c.Describe.Methods) > 0) && c.Plugin == "":
		faults.Add("spec.goplugin.plugin", "is missing; give the name to dispense, a key of the plugin's plugin map")
	case (c.Transport == transportNetRPC || c.Plugin != "") && len(c.Describe.Methods) == 0:
		faults.Add("spec.goplugin.describe.methods", "is missing; net/rpc cannot tell its methods, so describe them")
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

// describe turns the description into the methods of gobwire.
func (c *compiled) describe(faults *plugin.Faults) {
	const path = "spec.goplugin.describe."
	if len(c.Describe.Methods) > methodsMax {
		faults.Add(path+"methods", "has %d methods; at most %d", len(c.Describe.Methods), methodsMax)
		return
	}
	var err error
	if c.table, err = gobwire.NewTable(c.Describe.Types); err != nil {
		var fault *gobwire.TypeFault
		if errors.As(err, &fault) {
			faults.Add(path+"types."+fault.Path, "%s", fault.Detail)
		}
		return
	}
	names := make([]string, 0, len(c.Describe.Methods))
	for name := range c.Describe.Methods {
		names = append(names, name)
	}
	sort.Strings(names)
	c.methods = make(map[string]*netrpcMethod, len(names))
	for _, name := range names {
		c.method(name, faults)
	}
}

func (c *compiled) method(name string, faults *plugin.Faults) {
	d := c.Describe.Methods[name]
	m := &netrpcMethod{name: name, summary: d.Summary}
	for _, side := range []struct {
		field, text string
		into        **gobwire.Type
	}{{"args", d.Args, &m.args}, {"reply", d.Reply, &m.reply}} {
		if side.text == "" { // already a fault of the decoder
			continue
		}
		var err error
		if *side.into, err = c.table.Type(side.text); err != nil {
			faults.Add("spec.goplugin.describe.methods."+name+"."+side.field, "%v", err)
		}
	}
	if m.args == nil || m.reply == nil {
		return
	}
	service := c.Describe.Service
	if service == "" {
		service = serviceDefault
	}
	m.remote, m.needs = service+"."+name, c.table.Needs(m.args)
	c.methods[name] = m
}

func (c *compiled) orDefaults() {
	if c.Transport == "" {
		c.Transport = transportAuto
	}
	if len(c.Handshake.Versions) == 0 {
		c.Handshake.Versions = []int{1}
	}
}
