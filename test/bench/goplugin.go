package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/rpc"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/plugins/goplugin/tiny"
)

// payload is what is echoed: 100 bytes.
func payload() string { return strings.Repeat("x", 100) }

const netRPCManifest = `
apiVersion: patchbay/v1
kind: Plugin
metadata: {name: netrpc}
spec:
  goplugin:
    command: [%s]
    handshake: {key: PATCHBAY_TINY, value: 3f2c, versions: [1]}
    transport: netrpc
    plugin: tiny
    describe:
      methods: {Echo: {args: Text, reply: Text}}
      types: {Text: {fields: {Text: string}}}
  restart: {backoff: {min: 1ms, max: 10ms}, budget: {failures: -1}}
`

const grpcManifest = `
apiVersion: patchbay/v1
kind: Plugin
metadata: {name: grpc}
spec:
  goplugin:
    command: [%s]
    handshake: {key: PATCHBAY_TINY, value: 3f2c, versions: [1]}
    transport: grpc
  restart: {backoff: {min: 1ms, max: 10ms}, budget: {failures: -1}}
`

// text is the plugin's own type of arguments and answers.
type text struct{ Text string }

// netRPCStub is what a host that knows the plugin compiles in.
type netRPCStub struct{ client *rpc.Client }

func (netRPCStub) Server(*goplugin.MuxBroker) (any, error) {
	return nil, errors.New("this side only calls")
}

func (netRPCStub) Client(_ *goplugin.MuxBroker, c *rpc.Client) (any, error) {
	return netRPCStub{c}, nil
}

// grpcStub is the same for gRPC.
type grpcStub struct {
	goplugin.NetRPCUnsupportedPlugin
}

func (grpcStub) GRPCServer(*goplugin.GRPCBroker, *grpc.Server) error {
	return errors.New("this side only calls")
}

func (grpcStub) GRPCClient(_ context.Context, _ *goplugin.GRPCBroker, c *grpc.ClientConn) (any, error) {
	return tiny.NewTinyClient(c), nil
}

// bareGoPlugin starts a plugin as a host with go-plugin's library does. Its files are in
// dir: one that has to be killed leaves its socket.
func bareGoPlugin(dir, command string, stub goplugin.Plugin) (dispensed any, pid int, end func(), err error) {
	return bareDispensed(dir, command, tiny.Name, stub)
}

func bareDispensed(dir, command, name string, stub goplugin.Plugin) (dispensed any, pid int, end func(), err error) {
	cmd := exec.Command(command)
	cmd.Env = []string{goplugin.EnvUnixSocketDir + "=" + dir, "TMPDIR=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // with us, if we are killed
	c := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig: tiny.Handshake(), Plugins: goplugin.PluginSet{name: stub}, Cmd: cmd,
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolNetRPC, goplugin.ProtocolGRPC}, Logger: hclog.NewNullLogger(),
	})
	protocol, err := c.Client()
	if err == nil {
		dispensed, err = protocol.Dispense(name)
	}
	if err != nil {
		c.Kill()
		return nil, 0, nil, err
	}
	return dispensed, c.ReattachConfig().Pid, c.Kill, nil
}

func goPluginNetRPC(ctx context.Context, h *harness) ([]row, error) {
	command := h.plugin("goplugin-netrpc")
	dispensed, pid, end, err := bareGoPlugin(h.dir, command, netRPCStub{})
	if err != nil {
		return nil, err
	}
	defer end()
	in := text{payload()}
	stub := dispensed.(netRPCStub)
	bare := calls(callers, []int{self, pid}, func(context.Context, int) error {
		var out text
		err := stub.client.Call("Plugin.Echo", in, &out)
		return echoed(err, out.Text, in.Text)
	})
	argument, _ := json.Marshal(in) // a text
	return h.throughDispatch(ctx, "netrpc", fmt.Sprintf(netRPCManifest, command), plugin.Invocation{Operation: "Echo", Data: argument}, bare)
}

func goPluginGRPC(ctx context.Context, h *harness) ([]row, error) {
	command := h.plugin("goplugin-grpc")
	dispensed, pid, end, err := bareGoPlugin(h.dir, command, grpcStub{})
	if err != nil {
		return nil, err
	}
	defer end()
	stub := dispensed.(tiny.TinyClient)
	in := payload()
	bare := calls(callers, []int{self, pid}, func(ctx context.Context, _ int) error {
		out, err := stub.Echo(ctx, &tiny.Text{Text: in})
		return echoed(err, out.GetText(), in)
	})
	argument, _ := json.Marshal(map[string]string{"text": in}) // a text
	return h.throughDispatch(ctx, "grpc", fmt.Sprintf(grpcManifest, command), plugin.Invocation{Operation: "Echo", Data: argument}, bare)
}

func echoed(err error, got, want string) error {
	if err == nil && got != want {
		err = fmt.Errorf("echo answered %q", got)
	}
	return err
}

// throughDispatch compares an invocation of a process plugin through a house with
// a bare side. Processor time is that of both ends.
func (h *harness) throughDispatch(ctx context.Context, name, manifest string, in plugin.Invocation, bare side) ([]row, error) {
	in.Plugin = name
	c, err := h.dispatched(ctx, manifest, in, bare)
	if err != nil {
		return nil, err
	}
	return []row{
		c.row(name+" invoke cpu", "us/call", cpuMicros, atMost(1.10)),
		c.row(name+" invoke rate", "calls/s", rate, bar{}),
	}, nil
}

// dispatched measures both.
func (h *harness) dispatched(ctx context.Context, manifest string, in plugin.Invocation, bare side) (comparison, error) {
	o, err := h.newHouse(ctx, in.Plugin)
	if err != nil {
		return comparison{}, err
	}
	defer o.end()
	if err := o.apply(ctx, manifest); err != nil {
		return comparison{}, err
	}
	pid, err := strconv.Atoi(o.fact(in.Plugin, "pid"))
	if err != nil {
		return comparison{}, fmt.Errorf("pid of %s: %w", in.Plugin, err)
	}
	return h.compare(ctx, o.calls([]int{self, pid}, in), bare, cpuMicros)
}
