package goplugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/descriptorpb"

	house "github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/goplugin/internal/gowire"
)

const (
	hostPackage    = "patchbay.plugin.v1"
	hostService    = hostPackage + ".Host"
	connectService = hostPackage + ".Plugin"
)

// A Host is the daemon that runs the plugin. Patchbay connects itself before the plugin is
// ready; hosts that do not are ErrUnavailable to every question. What a manifest's
// callbacks take away is ErrDenied. Errors have the classes of core/plugin.
//
// A Host is safe for concurrent use, also after the call that it came from.
type Host struct {
	file      *descriptorpb.FileDescriptorProto
	questions map[string]gowire.Method
	connects  []*operation
	broker    *plugin.GRPCBroker

	mu   sync.Mutex
	conn *grpc.ClientConn
}

// HostOf returns the host of the plugin whose operation was given ctx.
func HostOf(ctx context.Context) *Host {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c.plugin.host
	}
	return &Host{}
}

// What is asked, and answered. Numbers and names are part of the protocol.
type (
	connectIn struct {
		_      struct{} `doc:"Gives the plugin the number of a connection of go-plugin's broker, on which patchbay.plugin.v1.Host is served."`
		Broker uint32   `json:"broker" required:"true"`
	}
	getIn struct {
		Key string `json:"key" required:"true"`
	}
	getOut struct {
		Value []byte `json:"value"`
	}
	putIn struct {
		Key   string `json:"key" required:"true"`
		Value []byte `json:"value"`
	}
	deleteIn struct {
		Key string `json:"key" required:"true"`
	}
	listIn struct {
		Prefix string `json:"prefix"`
	}
	listOut struct {
		Keys []string `json:"keys"`
	}
	publishIn struct {
		Type string `json:"type" required:"true"`
		Data any    `json:"data"`
	}
	invokeIn struct {
		Plugin    string `json:"plugin" required:"true"`
		Operation string `json:"operation" required:"true"`
		Data      any    `json:"data"`
	}
	invokeOut struct {
		Data json.RawMessage `json:"data"`
	}
)

// newHost describes both services: the one that the plugin serves, and the one that it
// asks, which hosts find by reflection.
func newHost() (*Host, error) {
	h := &Host{questions: map[string]gowire.Method{}}
	schema := gowire.New(hostPackage)
	schema.Reserve("Host")
	schema.Reserve("Plugin")
	var err error
	if h.connects, err = operationsOf(reflect.ValueOf(connector{h}), schema); err != nil {
		return nil, err
	}
	served := gowire.Service{Name: "Plugin", Methods: []gowire.Method{{Name: "Connect", Doc: h.connects[0].in.Doc(), In: h.connects[0].in}}}
	asked := gowire.Service{Name: "Host", Doc: "What a plugin can ask of its host."}
	for _, q := range []struct {
		name, doc string
		in, out   any
	}{
		{"Get", "Reads one of the plugin's own values; NotFound: there is none.", getIn{}, getOut{}},
		{"Put", "Sets a value, and answers once it is kept.", putIn{}, nil},
		{"Delete", "Removes a value; that there is none is no error.", deleteIn{}, nil},
		{"List", "Tells the keys that begin with the prefix, sorted.", listIn{}, listOut{}},
		{"Publish", "Publishes an event of the plugin.", publishIn{}, nil},
		{"Invoke", "Invokes an operation of another plugin.", invokeIn{}, invokeOut{}},
	} {
		m := gowire.Method{Name: q.name, Doc: q.doc}
		if m.In, err = schema.Codec(reflect.TypeOf(q.in)); err != nil {
			return nil, err
		}
		if q.out != nil {
			if m.Out, err = schema.Codec(reflect.TypeOf(q.out)); err != nil {
				return nil, err
			}
		}
		h.questions[q.name] = m
		asked.Methods = append(asked.Methods, m)
	}
	h.file = schema.File("patchbay/plugin/v1/plugin.proto", served, asked)
	return h, nil
}

// connector is what the host calls.
type connector struct{ host *Host }

// Connect takes the connection of that number in place of the one before.
func (c connector) Connect(_ context.Context, in connectIn) error {
	conn, err := c.host.broker.Dial(in.Broker)
	if err != nil {
		return Refuse(codes.FailedPrecondition, "broker: %v", err)
	}
	c.host.replace(conn)
	return nil
}

func (h *Host) replace(conn *grpc.ClientConn) {
	h.mu.Lock()
	old := h.conn
	h.conn = conn
	h.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
}

func (h *Host) close() { h.replace(nil) }

// Get returns the value of a key; ErrNotFound: there is none.
func (h *Host) Get(ctx context.Context, key string) ([]byte, error) {
	out, err := ask[getOut](ctx, h, "Get", getIn{key})
	return out.Value, err
}

// Put sets the value of a key, and returns once it is kept. Values outlive the plugin's
// processes and the daemon, and are deleted with the plugin. Patchbay takes keys of 512
// bytes and values of 768 KiB.
func (h *Host) Put(ctx context.Context, key string, value []byte) error {
	_, err := ask[struct{}](ctx, h, "Put", putIn{key, value})
	return err
}

// Delete removes a key; that there is none is no error.
func (h *Host) Delete(ctx context.Context, key string) error {
	_, err := ask[struct{}](ctx, h, "Delete", deleteIn{key})
	return err
}

// List returns the keys that begin with prefix, sorted.
func (h *Host) List(ctx context.Context, prefix string) ([]string, error) {
	out, err := ask[listOut](ctx, h, "List", listIn{prefix})
	return out.Keys, err
}

// Publish publishes an event of the plugin, whose data is what encoding/json makes of
// data. In Patchbay it is a CloudEvent on patchbay.v1.event.PLUGIN.TYPE, and in "patchbay
// events".
func (h *Host) Publish(ctx context.Context, eventType string, data any) error {
	_, err := ask[struct{}](ctx, h, "Publish", publishIn{eventType, data})
	return err
}

// Invoke invokes an operation of another plugin, which the manifest's callbacks have to
// allow: without them it is ErrDenied. In is written and out read by encoding/json; a nil
// out is not read.
func (h *Host) Invoke(ctx context.Context, plugin, operation string, in, out any) error {
	answer, err := ask[invokeOut](ctx, h, "Invoke", invokeIn{plugin, operation, in})
	if err != nil || out == nil || answer.Data == nil {
		return err
	}
	if err := json.Unmarshal(answer.Data, out); err != nil {
		return fmt.Errorf("host: Invoke: %w: the answer of %s: %w", house.ErrInvalid, plugin, err)
	}
	return nil
}

// ask asks one question. struct{} is the answer without one.
func ask[Out any](ctx context.Context, h *Host, question string, in any) (out Out, err error) {
	h.mu.Lock()
	conn, q := h.conn, h.questions[question]
	h.mu.Unlock()
	if conn == nil {
		return out, fmt.Errorf("host: %w: it has not connected: it is no Patchbay, or its manifest has no callbacks for %s", house.ErrUnavailable, hostService)
	}
	message, err := q.In.Append(nil, reflect.ValueOf(in))
	if err != nil {
		return out, fmt.Errorf("host: %s: %w: %w", question, house.ErrInvalid, err)
	}
	answer := &frame{}
	if err := conn.Invoke(ctx, "/"+hostService+"/"+question, &frame{message}, answer, grpc.ForceCodecV2(codec{})); err != nil {
		return out, asked(question, err)
	}
	if q.Out == nil {
		return out, nil
	}
	read, err := q.Out.Read(answer.wire)
	if err != nil {
		return out, fmt.Errorf("host: %s: %w: its answer: %w", question, house.ErrUnavailable, err)
	}
	return read.Interface().(Out), nil
}

// asked gives the host's no its class.
func asked(question string, err error) error {
	s := status.Convert(err)
	for code, class := range map[codes.Code]error{
		codes.InvalidArgument: house.ErrInvalid, codes.PermissionDenied: house.ErrDenied, codes.NotFound: house.ErrNotFound,
		codes.Aborted: house.ErrConflict, codes.ResourceExhausted: house.ErrBusy, codes.DeadlineExceeded: house.ErrDeadline,
		codes.Unavailable: house.ErrUnavailable, codes.Unimplemented: house.ErrUnavailable, codes.Canceled: context.Canceled,
	} {
		if s.Code() == code {
			return fmt.Errorf("host: %s: %w: %s", question, class, s.Message())
		}
	}
	return errors.New("host: " + question + ": " + s.Message())
}
