package goplugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	brokerMethod = "/plugin.GRPCBroker/StartStream"
	// brokerSocket is the name of the socket that a plugin calls back on.
	brokerSocket = "host"
	// inheritedDescriptor is what the plugin has it as.
	inheritedDescriptor = 3
	// verdictMost is how long a plugin may take to end a stream that it has no use
	// for; those in Go do so at once.
	verdictMost = 250 * time.Millisecond
	// hailsMax bounds the attempts to say a number: the second is for a stream that
	// broke since the last.
	hailsMax = 2
)

var errBrokerEnded = errors.New("the plugin's broker has ended with an earlier connection of Patchbay, as go-plugin's do; connections that it has go on, new ones need a restart of the plugin")

// A broker is the daemon's side of go-plugin's GRPCBroker. Every number that it gives
// leads to the one socket, in the instance's folder, on which the plugin's callbacks
// are served: a number costs nothing, and cannot be used up. What the plugin offers
// in turn is taken note of by nobody.
//
// The socket and its keys stay the same when the next daemon adopts the plugin, so
// that connections to it are made anew by the plugin itself.
type broker struct {
	*callServer
	conn    *grpc.ClientConn
	address string
	ids     atomic.Uint32
	turn    chan struct{} // holds one token: whoever has it may change the rest
	current *hail
	// fresh: nothing has been said to the plugin's broker in its life.
	fresh bool
	ended atomic.Bool

	running sync.WaitGroup
	closing context.Context
	cancel  context.CancelFunc
}

// openBroker serves what is bound. An adopted plugin is asked whether new connections
// can be made, which is a fault where others than the calls of its start need one.
func openBroker(ctx context.Context, g *grpcLink, bound map[string]*binding) (*broker, error) {
	b := &broker{conn: g.conn, address: g.callAddress(), turn: make(chan struct{}, 1), fresh: !g.connected}
	b.ids.Store(rand.Uint32N(1 << 30)) // not again those of an earlier daemon
	b.turn <- struct{}{}
	if err := g.unblockCalls(); err != nil {
		return nil, err
	}
	var err error
	if b.callServer, err = newCallServer(g, bound); err != nil {
		return nil, err
	}
	b.closing, b.cancel = context.WithCancel(context.Background())
	b.running.Go(func() { b.serve(g.calls) }) // ends with close
	if b.fresh || len(g.BrokerIDs) == 0 {
		return b, nil
	}
	if _, err := b.hailed(ctx); err != nil && (!b.ended.Load() || g.needsBroker()) {
		b.close()
		return nil, startFailed("callbacks", err)
	}
	return b, nil
}

// callAddress is the path of the socket that the plugin calls back on.
func (p *process) callAddress() string { return filepath.Join(p.launch.Dir, brokerSocket) }

// listenForCalls makes the socket, and returns what a plugin that may outlive the
// daemon is given of it: as long as the plugin has it, connections wait in it for the
// next daemon.
func (p *process) listenForCalls() (inherited []*os.File, err error) {
	if !p.calledBack() {
		return nil, nil
	}
	if err := os.Remove(p.callAddress()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, startFailed("callbacks", err)
	}
	if p.calls, err = net.ListenUnix("unix", &net.UnixAddr{Name: p.callAddress(), Net: "unix"}); err != nil {
		return nil, startFailed("callbacks", err)
	}
	p.calls.SetUnlinkOnClose(false)
	if err = os.Chmod(p.callAddress(), 0o600); err == nil && p.launch.Manifest.Spec.Detached() {
		inherited = make([]*os.File, 1)
		inherited[0], err = p.calls.File()
	}
	if err != nil {
		p.closeCalls()
		return nil, startFailed("callbacks", err)
	}
	return inherited, nil
}

// unblockCalls undoes what the plugin's start did to the socket that both have: passing it
// on made it blocking, and then neither a deadline nor a close ends an Accept.
func (p *process) unblockCalls() error {
	conn, err := p.calls.SyscallConn()
	if err != nil {
		return startFailed("callbacks", err)
	}
	var inner error
	if err = conn.Control(func(fd uintptr) { inner = syscall.SetNonblock(int(fd), true) }); err == nil {
		err = inner
	}
	if err != nil {
		return startFailed("callbacks", err)
	}
	return nil
}

// recallCalls takes the socket back from the plugin. Where the kernel or the plugin does
// not let it, there is a new one of the same name.
func (p *process) recallCalls() error {
	if !p.calledBack() {
		return nil
	}
	if file, err := p.Descriptor(inheritedDescriptor); err == nil {
		defer func() { _ = file.Close() }()
		socket, err := net.FileListener(file)
		if unix, ok := socket.(*net.UnixListener); err == nil && ok && unix.Addr().String() == p.callAddress() {
			unix.SetUnlinkOnClose(false)
			p.calls = unix
			return nil
		}
		if err == nil {
			_ = socket.Close()
		}
	}
	inherited, err := p.listenForCalls()
	for _, file := range inherited {
		_ = file.Close() // it has one
	}
	return err
}

// closeCalls closes the socket, and removes it from the folder of a plugin that is not
// left for the next daemon.
func (p *process) closeCalls() {
	if p.calls == nil {
		return
	}
	_ = p.calls.Close()
	if p.Process == nil || !p.Left() {
		_ = os.Remove(p.callAddress())
	}
}

// lend announces a number, and returns it: for some seconds the plugin can connect by
// it.
func (b *broker) lend(ctx context.Context) (uint32, error) {
	for range hailsMax {
		h, err := b.hailed(ctx)
		if err != nil {
			return 0, err
		}
		id := b.next()
		if h.say(ctx, connInfo(id, b.address)) {
			return id, nil
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
	return 0, errors.New("the stream to the plugin's broker breaks each time")
}

// next returns a number that no other call of this daemon's has. It fits in an int32,
// and is not zero, which is no field.
func (b *broker) next() uint32 { return b.ids.Add(1)&(1<<31-1) | 1<<30 }

// hailed returns the stream in use, or a new one. A plugin in Go takes one in its
// life and ends every other once something is said on it: that is found out here,
// and not by a call that would wait for five seconds.
func (b *broker) hailed(ctx context.Context) (*hail, error) {
	select {
	case <-b.turn:
		defer func() { b.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	switch {
	case b.ended.Load():
		return nil, errBrokerEnded
	case b.current != nil && !b.current.isOver():
		return b.current, nil
	}
	h, err := b.open(ctx)
	if err != nil {
		return nil, err
	}
	if !b.fresh {
		verdict, cancel := context.WithTimeout(ctx, verdictMost)
		defer cancel()
		h.say(verdict, connInfo(b.next(), b.address))
		select {
		case <-h.over:
			b.ended.Store(b.closing.Err() == nil)
			return nil, errBrokerEnded
		case <-verdict.Done():
		}
	}
	b.fresh, b.current = false, h
	return h, nil
}

// A hail is one stream to the plugin's broker.
type hail struct {
	words chan []byte
	over  chan struct{} // closed once the stream has ended
}

func (b *broker) open(ctx context.Context) (*hail, error) {
	streaming, cancel := context.WithCancel(b.closing)
	stop := context.AfterFunc(ctx, cancel)
	s, err := b.conn.NewStream(streaming, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, brokerMethod, grpc.WaitForReady(true))
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("broker: %w", err)
	}
	h := &hail{words: make(chan []byte), over: make(chan struct{})}
	b.running.Go(func() { // ends with the stream, and that at the latest with close
		defer close(h.over)
		defer cancel()
		var heard emptypb.Empty
		for s.RecvMsg(&heard) == nil {
			heard.Reset()
		}
	})
	b.running.Go(func() { // ends as that
		for {
			select {
			case word := <-h.words:
				var said emptypb.Empty
				said.ProtoReflect().SetUnknown(word)
				_ = s.SendMsg(&said) // over tells
			case <-h.over:
				return
			}
		}
	})
	return h, nil
}

func (h *hail) isOver() bool {
	select {
	case <-h.over:
		return true
	default:
		return false
	}
}

// say hands over a message, and reports whether the stream took it.
func (h *hail) say(ctx context.Context, word []byte) bool {
	select {
	case h.words <- word:
		return true
	case <-h.over:
	case <-ctx.Done():
	}
	return false
}

// connInfo is ConnInfo{service_id = 1, network = 2, address = 3}.
func connInfo(id uint32, address string) []byte {
	b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(id))
	b = protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), "unix")
	return protowire.AppendString(protowire.AppendTag(b, 3, protowire.BytesType), address)
}

// close ends what is served, and returns once all of it has ended.
func (b *broker) close() {
	b.cancel()
	b.stop()
	b.running.Wait()
}

// facts says what of the callbacks works.
func (g *grpcLink) facts() map[string]string {
	switch {
	case g.broker == nil:
		return nil
	case g.broker.ended.Load():
		return map[string]string{"callbacks": "served", "broker": "ended"}
	}
	return map[string]string{"callbacks": "served"}
}

// needsBroker reports that there are operations with a broker's number beside those of
// the start.
func (g *grpcLink) needsBroker() bool {
	atStart := map[*grpcMethod]bool{}
	for _, call := range g.StartCalls {
		atStart[g.known.methods[call.Operation]] = true
	}
	for operation := range g.BrokerIDs {
		if !atStart[g.known.methods[operation]] {
			return true
		}
	}
	return false
}

// calledServices are those whose methods are bound.
func (s *Spec) calledServices() []string {
	services := map[string]bool{}
	for name := range s.Callbacks {
		service, _, _ := strings.Cut(name, "/")
		services[service] = true
	}
	return sortedKeys(services)
}

// answerCallbacks opens the broker of a plugin that calls back.
func (g *grpcLink) answerCallbacks(ctx context.Context) error {
	if !g.calledBack() {
		return nil
	}
	bound, err := g.known.bind(g.transcoder, g.Callbacks, g.ownCallbacks)
	if err == nil {
		err = g.known.addBrokerIDs(g.BrokerIDs)
	}
	if err == nil {
		g.broker, err = openBroker(ctx, g, bound)
	}
	return err
}

// addBrokerIDs gives each method the field of its argument that has a number.
func (c *catalog) addBrokerIDs(manifest map[string]string) error {
	for _, operation := range sortedKeys(manifest) {
		m := c.methods[operation]
		if m == nil {
			return fmt.Errorf("spec.goplugin.brokerIds: %w: %q: %s", plugin.ErrInvalid, operation, c.hint(operation))
		}
		f, err := fieldOf(m.in, manifest[operation], 0)
		if err != nil {
			return fmt.Errorf("spec.goplugin.brokerIds.%s: %w: %w", operation, plugin.ErrInvalid, err)
		}
		switch f.kind {
		case protoreflect.Uint32Kind, protoreflect.Int32Kind, protoreflect.Uint64Kind, protoreflect.Int64Kind:
		default:
			return fmt.Errorf("spec.goplugin.brokerIds.%s: %w: %s is a %s; a broker's number is an integer", operation, plugin.ErrInvalid, f, f.kind)
		}
		m.brokerID = f.numbers
	}
	return nil
}

// lend adds a broker's number to an argument that has a field for it. Of a field that
// comes twice the last holds, and messages that come twice are one.
func (g *grpcLink) lend(ctx context.Context, m *grpcMethod, wire []byte) ([]byte, error) {
	if len(m.brokerID) == 0 {
		return wire, nil
	}
	id, err := g.broker.lend(ctx)
	if err != nil {
		return nil, broken(ctx, m.full, err)
	}
	last := len(m.brokerID) - 1
	b := protowire.AppendVarint(protowire.AppendTag(nil, m.brokerID[last], protowire.VarintType), uint64(id))
	for i := last - 1; i >= 0; i-- {
		b = protowire.AppendBytes(protowire.AppendTag(nil, m.brokerID[i], protowire.BytesType), b)
	}
	return append(wire, b...), nil
}
