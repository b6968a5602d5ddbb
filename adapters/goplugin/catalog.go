package goplugin

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"sort"
	"strings"

	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/pbwire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// grpcMethod is a method found by reflection, ready to be called.
type grpcMethod struct {
	path          string // "/package.Service/Method"
	full          string // "package.Service/Method"
	short         string // "Method", empty when two services have it
	comment       string // what stands before its declaration
	in, out       protoreflect.MessageDescriptor
	inPlan        *pbwire.Plan // nil when protojson has to do it
	outPlan       *pbwire.Plan
	clientStreams bool
	serverStreams bool
	metadata      map[string]string
	aliases       []string // sorted
	brokerID      []protoreflect.FieldNumber
}

// A catalog is what a gRPC plugin says that it offers. It does not change.
type catalog struct {
	methods map[string]*grpcMethod // by full name, and by short name where that is clear
	all     []*grpcMethod          // sorted by the name they are listed under
	types   *dynamicpb.Types
	files   *protoregistry.Files
	// method is where it was asked for, services what was answered, sum stands for all
	// descriptors. Empty without reflection.
	method   string
	services []string
	sum      [sha256.Size]byte
}

// methodsMax bounds what a plugin serves; Terraform's protocol has some thirty.
const methodsMax = 1000

// messagesMax bounds what is walked through for each method, and how deep: Google's
// largest API has about two thousand.
const messagesMax = 10_000

func count(messages []*descriptorpb.DescriptorProto) int {
	n := len(messages)
	for _, m := range messages {
		n += count(m.GetNestedType())
	}
	return n
}

// infrastructure are the services of gRPC and go-plugin themselves.
func infrastructure(service string) bool {
	return strings.HasPrefix(service, "grpc.health.") || strings.HasPrefix(service, "grpc.reflection.") ||
		slices.Contains([]string{"plugin.GRPCBroker", "plugin.GRPCController", "plugin.GRPCStdio"}, service)
}

// newCatalog links the files and lists the methods of services.
func newCatalog(files map[string]*descriptorpb.FileDescriptorProto, services []string) (*catalog, error) {
	messages := 0
	for _, file := range files {
		messages += count(file.GetMessageType())
	}
	if messages > messagesMax {
		return nil, fmt.Errorf("descriptors: %d messages; at most %d", messages, messagesMax)
	}
	registry, err := resolve(files)
	if err != nil {
		return nil, err
	}
	c := &catalog{methods: map[string]*grpcMethod{}, types: dynamicpb.NewTypes(registry), files: registry}
	plans := pbwire.NewCompiler()
	for _, service := range services {
		d, err := registry.FindDescriptorByName(protoreflect.FullName(service))
		if err != nil {
			return nil, fmt.Errorf("descriptors: %s: %w", service, err)
		}
		described, ok := d.(protoreflect.ServiceDescriptor)
		if !ok {
			return nil, fmt.Errorf("descriptors: %s is no service", service)
		}
		for i := range described.Methods().Len() {
			c.add(described.Methods().Get(i), plans)
		}
		if len(c.all) > methodsMax {
			return nil, fmt.Errorf("descriptors: more than %d methods", methodsMax)
		}
	}
	c.nameShortly()
	return c, nil
}

// add takes in a method whose messages are known in full: a message that lacks a
// part cannot be read or written.
func (c *catalog) add(d protoreflect.MethodDescriptor, plans *pbwire.Compiler) {
	seen := map[protoreflect.FullName]bool{}
	if !whole(d.Input(), seen) || !whole(d.Output(), seen) {
		return
	}
	full := string(d.Parent().FullName()) + "/" + string(d.Name())
	m := &grpcMethod{
		path: "/" + full, full: full, short: string(d.Name()), in: d.Input(), out: d.Output(),
		inPlan: plans.Compile(d.Input()), outPlan: plans.Compile(d.Output()),
		clientStreams: d.IsStreamingClient(), serverStreams: d.IsStreamingServer(), comment: commentOf(d),
	}
	c.methods[full] = m
	c.all = append(c.all, m)
}

// whole reports that a message and all that it refers to are described.
func whole(d protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) bool {
	if d.IsPlaceholder() {
		return false
	}
	if seen[d.FullName()] {
		return true
	}
	seen[d.FullName()] = true
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		if e := f.Enum(); e != nil && e.IsPlaceholder() {
			return false
		}
		if m := f.Message(); m != nil && !whole(m, seen) {
			return false
		}
	}
	return true
}

// connectService is what the daemon itself calls, at plugins of its own SDK
// (sdk/go/goplugin): it is no operation.
const connectService = "patchbay.plugin.v1.Plugin"

// nameShortly gives a method its short name where no other has it.
func (c *catalog) nameShortly() {
	c.all = slices.DeleteFunc(c.all, func(m *grpcMethod) bool { return strings.HasPrefix(m.full, connectService+"/") })
	times := map[string]int{}
	for _, m := range c.all {
		times[m.short]++
	}
	for _, m := range c.all {
		if times[m.short] > 1 {
			m.short = ""
		} else {
			c.methods[m.short] = m
		}
	}
	sort.Slice(c.all, func(i, j int) bool { return c.all[i].name() < c.all[j].name() })
}

func (m *grpcMethod) name() string {
	if m.short != "" {
		return m.short
	}
	return m.full
}

// alias adds names to methods that the plugin has, unless it has those too.
func (c *catalog) alias(names map[string]string) {
	for _, name := range sortedKeys(names) {
		if m := c.methods[names[name]]; m != nil && c.methods[name] == nil {
			c.methods[name] = m
			m.aliases = append(m.aliases, name)
		}
	}
}

// summary says what a method is, and how else it can be called.
func (m *grpcMethod) summary() string {
	text := m.full
	if m.comment != "" {
		text = m.comment + " (" + m.full + ")"
	}
	if len(m.aliases) == 0 {
		return text
	}
	return text + ", also " + strings.Join(m.aliases, ", ")
}

// addMetadata gives each method the metadata of the manifest that is for it.
func (c *catalog) addMetadata(manifest map[string]map[string]string) error {
	for operation, pairs := range manifest {
		to := c.all
		if operation != "*" {
			m := c.methods[operation]
			if m == nil {
				return fmt.Errorf("spec.goplugin.metadata: %w: %q: %s", plugin.ErrInvalid, operation, c.hint(operation))
			}
			to = []*grpcMethod{m}
		}
		for _, m := range to {
			m.add(pairs, operation == "*")
		}
	}
	return nil
}

// add sets pairs; the ones of "*" give way to those of the method.
func (m *grpcMethod) add(pairs map[string]string, giveWay bool) {
	if m.metadata == nil {
		m.metadata = map[string]string{}
	}
	for key, value := range pairs {
		if _, ok := m.metadata[key]; !ok || !giveWay {
			m.metadata[key] = value
		}
	}
}

// hint says why an operation was not found.
func (c *catalog) hint(operation string) string {
	var same []string
	for _, m := range c.all {
		if strings.HasSuffix(m.full, "/"+operation) {
			same = append(same, m.full)
		}
	}
	if len(same) > 1 {
		return "several services have it: write " + strings.Join(same, " or ")
	}
	return "the plugin has no such method"
}

// operations lists what can be invoked.
func (c *catalog) operations() []plugin.Operation {
	list := make([]plugin.Operation, 0, len(c.all))
	left := schemaBytesMax
	for _, m := range c.all {
		o := plugin.Operation{Name: m.name(), Summary: m.summary(), Streams: m.serverStreams, TakesStream: m.clientStreams}
		if left > 0 {
			o.Input, o.Output = messageSchema(m.in), messageSchema(m.out)
			left -= len(o.Input) + len(o.Output)
		}
		list = append(list, o)
	}
	return list
}

// resolve builds the registry of files. What a plugin imports and does not serve is
// taken from the well-known types linked into the daemon.
func resolve(files map[string]*descriptorpb.FileDescriptorProto) (*protoregistry.Files, error) {
	set := &descriptorpb.FileDescriptorSet{}
	for _, name := range sortedKeys(files) {
		set.File = append(set.File, files[name])
	}
	registry, err := protodesc.FileOptions{AllowUnresolvable: true}.NewFiles(set)
	if err != nil {
		return nil, fmt.Errorf("descriptors: the descriptors do not fit together: %w", err)
	}
	return registry, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

// wellKnown returns the descriptor of a file that is linked into the daemon.
func wellKnown(name string) *descriptorpb.FileDescriptorProto {
	d, err := protoregistry.GlobalFiles.FindFileByPath(name)
	if err != nil {
		return nil
	}
	return protodesc.ToFileDescriptorProto(d)
}
