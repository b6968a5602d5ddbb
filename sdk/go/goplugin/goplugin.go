package goplugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"unicode"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/patchbay-dev/patchbay/sdk/go/goplugin/internal/gowire"
)

// Handshake is that of every plugin of this package, for hosts other than Patchbay.
func Handshake() plugin.HandshakeConfig {
	return plugin.HandshakeConfig{ProtocolVersion: 1, MagicCookieKey: "PATCHBAY_PLUGIN", MagicCookieValue: "f1c7b9ae-3c52-4f0e-9d41-6a60a4c4a5a2"}
}

// An Option of a plugin.
type Option func(*Plugin)

// Name sets the full name of the service, as in "acme.greeter.v1.Greeter". Without it the
// type Greeter is greeter.Greeter.
func Name(full string) Option { return func(p *Plugin) { p.name = full } }

// Doc says what the plugin is for, in a line.
func Doc(text string) Option { return func(p *Plugin) { p.doc = text } }

// Operation says what an operation does, in a line. Without it the doc of its argument's
// type is taken.
func Operation(name, doc string) Option { return func(p *Plugin) { p.docs[name] = doc } }

// Level sets the least level of what is logged; without it Info. A slog.LevelVar can be
// changed while the plugin runs.
func Level(l slog.Leveler) Option { return func(p *Plugin) { p.level = l } }

// A Plugin is a type made ready to be served.
type Plugin struct {
	name  string // package.Service
	doc   string
	docs  map[string]string
	level slog.Leveler

	impl       any
	operations []*operation
	files      []*descriptorpb.FileDescriptorProto
	host       *Host
	log        *slog.Logger
	calls      calls
}

// nameMax bounds a name: it is part of the name of every message.
const nameMax = 200

var namePattern = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*\.)+[A-Za-z_][A-Za-z0-9_]*$`)

// New checks the methods of impl and describes them.
func New(impl any, options ...Option) (*Plugin, error) {
	p := &Plugin{impl: impl, docs: map[string]string{}, level: slog.LevelInfo, log: slog.Default()}
	t := reflect.TypeOf(impl)
	if t == nil {
		return nil, errors.New("goplugin: there is nothing to serve; give a value whose methods are the operations")
	}
	if own := named(t); own != "" {
		p.name = strings.ToLower(own) + "." + strings.ToUpper(own[:1]) + own[1:]
	}
	for _, option := range options {
		option(p)
	}
	if !namePattern.MatchString(p.name) || len(p.name) > nameMax || strings.HasPrefix(p.name, hostPackage+".") {
		return nil, fmt.Errorf("goplugin: %q cannot be the name of a service; give one by goplugin.Name(\"package.Service\")", p.name)
	}
	if err := p.describe(); err != nil {
		return nil, fmt.Errorf("goplugin: %w", err)
	}
	return p, nil
}

// named is the name of a type, or of what it points to, without parameters.
func named(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	name, _, _ := strings.Cut(t.Name(), "[")
	if strings.IndexFunc(name, func(r rune) bool { return r > unicode.MaxASCII }) >= 0 {
		return ""
	}
	return name
}

// describe finds the operations and makes the descriptors.
func (p *Plugin) describe() error {
	pkg, service := p.split()
	schema := gowire.New(pkg)
	schema.Reserve(service)
	var err error
	if p.operations, err = operationsOf(reflect.ValueOf(p.impl), schema); err != nil {
		return err
	}
	described := gowire.Service{Name: service, Doc: p.doc}
	for _, o := range p.operations {
		doc, given := p.docs[o.name]
		if delete(p.docs, o.name); !given && o.in != nil {
			doc = o.in.Doc()
		}
		described.Methods = append(described.Methods, gowire.Method{Name: o.name, Doc: doc, In: o.in, Out: o.out, TakesStream: o.takesStream, Streams: o.streams})
	}
	for name := range p.docs {
		return fmt.Errorf("%s has no operation %s, which goplugin.Operation describes", reflect.TypeOf(p.impl), name)
	}
	if p.host, err = newHost(); err != nil {
		return err
	}
	path := strings.ReplaceAll(pkg, ".", "/") + "/" + strings.ToLower(service) + ".proto"
	p.files = []*descriptorpb.FileDescriptorProto{p.host.file, schema.File(path, described)}
	for _, file := range p.files {
		if _, err := protodesc.NewFile(file, protoregistry.GlobalFiles); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plugin) split() (pkg, service string) {
	dot := strings.LastIndexByte(p.name, '.')
	return p.name[:dot], p.name[dot+1:]
}

// Serve serves impl, the whole of a plugin's main. It returns when the host ends the
// plugin, after Close if impl is an io.Closer; a fault ends the process with exit code 1.
func Serve(impl any, options ...Option) {
	p, err := New(impl, options...)
	if err == nil {
		err = p.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Run serves until the host ends the plugin, and returns once no operation runs and impl
// is closed. It is for once in a process. Started by hand, with the argument manifest, it
// prints a manifest and returns.
func (p *Plugin) Run() error {
	handshake := Handshake()
	if os.Getenv(handshake.MagicCookieKey) != handshake.MagicCookieValue {
		return p.byHand()
	}
	for _, file := range p.files {
		if err := register(file); err != nil {
			return fmt.Errorf("goplugin: %w", err)
		}
	}
	stderr := os.Stderr // go-plugin puts another in its place
	_, service := p.split()
	p.log = slog.New(NewLogHandler(stderr, p.level)).With("@module", service)
	slog.SetDefault(p.log)
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: handshake,
		Plugins:         plugin.PluginSet{p.name: served{Plugin: p}},
		GRPCServer:      newServer,
		Logger:          hclog.New(&hclog.LoggerOptions{Name: "go-plugin", Level: hclog.Warn, Output: stderr, JSONFormat: true}),
	})
	p.calls.end()
	p.host.close()
	if c, ok := p.impl.(io.Closer); ok {
		if err := c.Close(); err != nil {
			return fmt.Errorf("close: %w", err)
		}
	}
	return nil
}

// register makes a file known to grpc's reflection.
func register(file *descriptorpb.FileDescriptorProto) error {
	d, err := protodesc.NewFile(file, protoregistry.GlobalFiles)
	if err != nil {
		return err
	}
	return protoregistry.GlobalFiles.RegisterFile(d)
}

// byHand is for people.
func (p *Plugin) byHand() error {
	path, err := os.Executable()
	if err != nil {
		return err
	}
	if len(os.Args) == 2 && os.Args[1] == "manifest" {
		_, err := fmt.Print(p.Manifest(path))
		return err
	}
	// Hosts know the first sentence by heart.
	return fmt.Errorf("This binary is a plugin. A program such as Patchbay starts it: %s manifest | patchbay apply -f -", filepath.Base(path)) //lint:ignore ST1005 it is a sentence
}

// Manifest is what Patchbay needs to run the plugin whose executable is at path.
func (p *Plugin) Manifest(path string) string {
	quoted, _ := json.Marshal(path) // a text always marshals
	_, service := p.split()
	name := strings.ToLower(strings.ReplaceAll(service, "_", "-"))
	return fmt.Sprintf("apiVersion: patchbay/v1\nkind: Plugin\nmetadata: {name: %s}\nspec:\n  goplugin:\n    command: [%s]\n    preset: patchbay\n", strings.Trim(name, "-"), quoted)
}

// served is the plugin as go-plugin wants it.
type served struct {
	plugin.NetRPCUnsupportedPlugin
	*Plugin
}

var _ plugin.GRPCPlugin = served{}

// GRPCServer registers the services.
func (s served) GRPCServer(broker *plugin.GRPCBroker, server *grpc.Server) error {
	s.host.broker = broker
	server.RegisterService(s.service(s.name, s.operations), s.impl)
	server.RegisterService(s.service(connectService, s.host.connects), s.impl)
	return nil
}

// GRPCClient is for the host's side.
func (served) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("goplugin: this side only serves")
}
