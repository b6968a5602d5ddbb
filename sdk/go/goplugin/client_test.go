package goplugin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	hashicorp "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/patchbay-dev/patchbay/sdk/go/goplugin"
)

// anyHost is the side that a go-plugin host compiles in.
type anyHost struct {
	hashicorp.NetRPCUnsupportedPlugin
}

type dispensed struct {
	broker *hashicorp.GRPCBroker
	conn   *grpc.ClientConn
}

func (anyHost) GRPCServer(*hashicorp.GRPCBroker, *grpc.Server) error {
	return errors.New("this side only calls")
}

func (anyHost) GRPCClient(_ context.Context, b *hashicorp.GRPCBroker, c *grpc.ClientConn) (any, error) {
	return dispensed{b, c}, nil
}

const sinkName = "acme.sink.v1.Sink"

// built builds the plugin of every form.
func built(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sink")
	if out, err := exec.Command("go", "build", "-o", path, "../../../test/plugins/goplugin/sink").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// started starts it with go-plugin's own client.
func started(t *testing.T, path string, change func(*hashicorp.ClientConfig)) (*hashicorp.Client, dispensed) {
	t.Helper()
	cmd := exec.Command(path)
	cmd.Env = []string{hashicorp.EnvUnixSocketDir + "=" + t.TempDir()} // a multiplexed server leaves its socket
	config := &hashicorp.ClientConfig{
		HandshakeConfig: goplugin.Handshake(), Plugins: hashicorp.PluginSet{sinkName: anyHost{}}, Cmd: cmd,
		AllowedProtocols: []hashicorp.Protocol{hashicorp.ProtocolGRPC}, Logger: hclog.NewNullLogger(),
	}
	if change != nil {
		change(config)
	}
	c := hashicorp.NewClient(config)
	t.Cleanup(c.Kill)
	protocol, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	if err := protocol.Ping(); err != nil {
		t.Fatalf("ping: %v", err)
	}
	raw, err := protocol.Dispense(sinkName)
	if err != nil {
		t.Fatal(err)
	}
	return c, raw.(dispensed)
}

// reflected asks the plugin for the files of its services, as any generic client does.
func reflected(t *testing.T, conn *grpc.ClientConn, symbols ...string) (services []string, files *protoregistry.Files) {
	t.Helper()
	s, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(q *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		if err := s.Send(q); err != nil {
			t.Fatal(err)
		}
		answer, err := s.Recv()
		if err != nil || answer.GetErrorResponse() != nil {
			t.Fatalf("%v: %v, %v", q, answer.GetErrorResponse(), err)
		}
		return answer
	}
	for _, service := range ask(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{},
	}).GetListServicesResponse().GetService() {
		services = append(services, service.GetName())
	}
	set := &descriptorpb.FileDescriptorSet{}
	for _, symbol := range symbols {
		for _, raw := range ask(&reflectionpb.ServerReflectionRequest{
			MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: symbol},
		}).GetFileDescriptorResponse().GetFileDescriptorProto() {
			file := &descriptorpb.FileDescriptorProto{}
			if err := proto.Unmarshal(raw, file); err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(set.File, func(f *descriptorpb.FileDescriptorProto) bool { return f.GetName() == file.GetName() }) {
				set.File = append(set.File, file)
			}
		}
	}
	if files, err = protodesc.NewFiles(set); err != nil {
		t.Fatal(err)
	}
	return services, files
}

// A generic calls methods by their descriptors.
type generic struct {
	conn  *grpc.ClientConn
	files *protoregistry.Files
}

func (g generic) method(t *testing.T, service, method string) protoreflect.MethodDescriptor {
	t.Helper()
	d, err := g.files.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		t.Fatal(err)
	}
	return d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(method))
}

func (g generic) call(t *testing.T, service, method, argument string) (string, error) {
	t.Helper()
	d := g.method(t, service, method)
	in, out := dynamicpb.NewMessage(d.Input()), dynamicpb.NewMessage(d.Output())
	if err := protojson.Unmarshal([]byte(argument), in); err != nil {
		t.Fatal(err)
	}
	if err := g.conn.Invoke(t.Context(), "/"+service+"/"+method, in, out); err != nil {
		return "", err
	}
	text, err := protojson.Marshal(out)
	return strings.ReplaceAll(string(text), " ", ""), err
}

// TestAnyHost: what go-plugin's own client makes of the plugin, and what a program sees
// that knows it by reflection only.
func TestAnyHost(t *testing.T) {
	path := built(t)
	for name, change := range map[string]func(*hashicorp.ClientConfig){
		"plain": nil, "AutoMTLS": func(c *hashicorp.ClientConfig) { c.AutoMTLS = true },
		"multiplexed": func(c *hashicorp.ClientConfig) { c.GRPCBrokerMultiplex = true },
	} {
		t.Run(name, func(t *testing.T) {
			c, d := started(t, path, change)
			services, files := reflected(t, d.conn, sinkName, "patchbay.plugin.v1.Host")
			slices.Sort(services)
			if diff := cmp.Diff([]string{
				sinkName, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
				"patchbay.plugin.v1.Plugin", "plugin.GRPCBroker", "plugin.GRPCController", "plugin.GRPCStdio",
			}, services); diff != "" {
				t.Errorf("services: -want +got:\n%s", diff)
			}
			g := generic{d.conn, files}
			const given = `{"name":"a","size":"5","children":[{"name":"b","size":"0"}]}`
			if got, err := g.call(t, sinkName, "Echo", given); err != nil || got != given {
				t.Errorf("got %s, %v", got, err)
			}
			if _, err := g.call(t, sinkName, "Fail", `{"text":"refusal"}`); status.Code(err) != codes.NotFound {
				t.Errorf("got %v", err)
			}
			if _, err := g.call(t, sinkName, "Keep", `{"text":"a"}`); err == nil || !strings.Contains(err.Error(), "it has not connected") {
				t.Errorf("without a host: got %v", err)
			}
			c.Kill()
			if !c.Exited() {
				t.Error("it goes on after the end")
			}
		})
	}
}

// keeper answers what plugins ask of their host, from the plugin's own descriptors.
type keeper struct {
	files  *protoregistry.Files
	mu     sync.Mutex
	values map[string]any
	events []string
}

func (k *keeper) handle(_ any, s grpc.ServerStream) error {
	path, _ := grpc.MethodFromServerStream(s)
	service, method, _ := strings.Cut(path[1:], "/")
	found, err := k.files.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return err
	}
	d := found.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(method))
	in, out := dynamicpb.NewMessage(d.Input()), dynamicpb.NewMessage(d.Output())
	if err := s.RecvMsg(in); err != nil {
		return err
	}
	text, err := protojson.Marshal(in)
	if err != nil {
		return err
	}
	var asked map[string]any
	if err := json.Unmarshal(text, &asked); err != nil {
		return err
	}
	answer, err := k.answer(method, asked)
	if err == nil {
		err = protojson.Unmarshal([]byte(answer), out)
	}
	if err != nil {
		return err
	}
	return s.SendMsg(out)
}

func (k *keeper) answer(method string, asked map[string]any) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key, _ := asked["key"].(string)
	switch method {
	case "Put":
		k.values[key] = asked["value"]
	case "Get":
		value, ok := k.values[key]
		if !ok {
			return "", status.Error(codes.NotFound, "no "+key)
		}
		return fmt.Sprintf(`{"value":%q}`, value), nil
	case "Delete":
		delete(k.values, key)
	case "List":
		return `{"keys":["a/x"]}`, nil
	case "Publish":
		k.events = append(k.events, fmt.Sprint(asked["type"], asked["data"]))
	case "Invoke":
		return "", status.Error(codes.PermissionDenied, "not that one")
	}
	return "{}", nil
}

// TestHost: a plugin asks its host through go-plugin's broker.
func TestHost(t *testing.T) {
	_, d := started(t, built(t), nil)
	_, files := reflected(t, d.conn, sinkName, "patchbay.plugin.v1.Host")
	k := &keeper{files: files, values: map[string]any{}}
	id := d.broker.NextId()
	go d.broker.AcceptAndServe(id, func(options []grpc.ServerOption) *grpc.Server { // ends with the client
		return grpc.NewServer(append(options, grpc.UnknownServiceHandler(k.handle))...)
	})
	g := generic{d.conn, files}
	if _, err := g.call(t, "patchbay.plugin.v1.Plugin", "Connect", fmt.Sprintf(`{"broker":%d}`, id)); err != nil {
		t.Fatal(err)
	}
	got, err := g.call(t, sinkName, "Keep", `{"text":"x"}`)
	if err != nil {
		t.Fatal(err)
	}
	var kept map[string]any
	if err := json.Unmarshal([]byte(got), &kept); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{
		"value": "x", "keys": []any{"a/x"}, "missing": "host:Get:notfound:noa/x", "invoked": "host:Invoke:denied:notthatone", "answer": nil,
	}, kept); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if len(k.values) != 0 || len(k.events) != 1 || k.events[0] != "sink.keptmap[text:x]" {
		t.Errorf("the host has %v, %v", k.values, k.events)
	}
}
