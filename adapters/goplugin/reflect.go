package goplugin

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// The two versions of the service have the same messages on the wire; only
	// plugins with grpc since 1.57 have v1.
	reflectV1      = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
	reflectV1Alpha = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
	// Bounds on what is taken in: Terraform's and Vault's plugins have about
	// fifteen files of 300 KiB in all.
	servicesMax        = 1000
	descriptorFilesMax = 1000
	descriptorBytesMax = 32 << 20
)

// reflectAll asks the plugin for everything it offers, and for the services that it
// calls, which one in Go knows too. What is known of an earlier start is asked at once.
func reflectAll(ctx context.Context, conn *grpc.ClientConn, called []string, known *questions) (*catalog, error) {
	c, err := reflectWith(ctx, conn, reflectV1, called, known)
	if status.Code(err) == codes.Unimplemented {
		c, err = reflectWith(ctx, conn, reflectV1Alpha, called, known)
	}
	switch {
	case err == nil:
		return c, nil
	case ctx.Err() != nil:
		return nil, startFailed("reflection", ctx.Err())
	case status.Code(err) == codes.Unimplemented:
		return nil, fmt.Errorf("reflection: %w: the plugin has no server reflection, so that its methods are unknown; give them by spec.goplugin.descriptorSet", plugin.ErrInvalid)
	case status.Code(err) == codes.Unavailable:
		return nil, startFailed("reflection", err)
	}
	return nil, fmt.Errorf("reflection: %w: %w", plugin.ErrInvalid, err)
}

// errTooManyFiles is beyond what a plugin may tell of itself.
var errTooManyFiles = fmt.Errorf("more than %d files or %d bytes of descriptors", descriptorFilesMax, descriptorBytesMax)

// questions are what an earlier start of a plugin led to: its services, and the files
// that were asked for by name. They save waits, and decide nothing.
type questions struct {
	mu              sync.Mutex
	services, files []string
	earlier         earlier
}

// asked has the questions of each plugin.
type asked struct {
	mu      sync.Mutex
	plugins map[string]*questions
}

// askedMax bounds the plugins that are remembered: of deleted ones nobody tells.
const askedMax = 10_000

func (a *asked) of(name string) *questions {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := a.plugins[name]
	if q == nil {
		if a.plugins == nil || len(a.plugins) >= askedMax {
			a.plugins = map[string]*questions{}
		}
		q = &questions{}
		a.plugins[name] = q
	}
	return q
}

func (q *questions) get() (all struct{ services, files []string }) {
	q.mu.Lock()
	defer q.mu.Unlock()
	all.services, all.files = slices.Clone(q.services), slices.Clone(q.files)
	return all
}

func (q *questions) set(services, files []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.services, q.files = services, files
}

// A reflector asks on one stream.
type reflector struct {
	stream grpc.ClientStream
	files  map[string]*descriptorpb.FileDescriptorProto
	sums   map[string][sha256.Size]byte // of files that the plugin has served
	bytes  int                          // of all answers
}

// newReflector opens its stream.
func newReflector(ctx context.Context, conn *grpc.ClientConn, method string) (*reflector, error) {
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method, grpc.WaitForReady(true))
	if err != nil {
		return nil, err
	}
	return &reflector{stream: s, files: map[string]*descriptorpb.FileDescriptorProto{}, sums: map[string][sha256.Size]byte{}}, nil
}

// batchMax is how many questions are on their way at once: their answers wait at the
// plugin until all are asked.
const batchMax = 64

func reflectWith(ctx context.Context, conn *grpc.ClientConn, method string, called []string, known *questions) (*catalog, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, err := newReflector(ctx, conn, method)
	if err != nil {
		return nil, err
	}
	before := known.get()
	first := []*reflectionpb.ServerReflectionRequest{listServices()}
	for _, service := range slices.Concat(called, before.services) {
		first = append(first, withSymbol(service))
	}
	for _, file := range before.files {
		first = append(first, byName(file))
	}
	answers, err := r.ask(first)
	if err != nil {
		return nil, err
	}
	services, err := servicesIn(answers[0])
	if err != nil {
		return nil, err
	}
	faults := map[string]error{} // of a service; nil: its file is there
	for i, answer := range answers[1:] {
		err := r.take(answer)
		switch {
		case errors.Is(err, errTooManyFiles):
			return nil, err
		case i >= len(called) && i < len(called)+len(before.services):
			faults[before.services[i-len(called)]] = err
		}
	}
	if err := r.declared(services, faults); err != nil {
		return nil, err
	}
	files, err := r.dependencies()
	if err != nil {
		return nil, err
	}
	still := slices.DeleteFunc(before.files, func(name string) bool { return r.files[name] == nil })
	known.set(services, append(still, files...))
	c, err := newCatalog(r.files, services)
	if err == nil {
		c.method, c.services, c.sum = method, services, r.sum(services)
	}
	return c, err
}

// sum stands for all that the plugin has told.
func (r *reflector) sum(services []string) [sha256.Size]byte {
	var text []byte
	for _, service := range slices.Sorted(slices.Values(services)) {
		text = fmt.Appendf(text, "%q\n", service)
	}
	for _, name := range sortedKeys(r.sums) {
		text = fmt.Appendf(text, "%q %x\n", name, r.sums[name])
	}
	return sha256.Sum256(text)
}

func listServices() *reflectionpb.ServerReflectionRequest {
	return &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{ListServices: "*"}}
}

// declared fetches the files of services that were not asked for, and returns the first
// fault of any.
func (r *reflector) declared(services []string, faults map[string]error) error {
	var more []string
	for _, service := range services {
		if _, asked := faults[service]; !asked {
			more = append(more, service)
		}
	}
	requests := make([]*reflectionpb.ServerReflectionRequest, len(more))
	for i, service := range more {
		requests[i] = withSymbol(service)
	}
	answers, err := r.ask(requests)
	if err != nil {
		return err
	}
	for i, answer := range answers {
		faults[more[i]] = r.take(answer)
	}
	for _, service := range services {
		if err := faults[service]; err != nil {
			return fmt.Errorf("%s: %w", service, err)
		}
	}
	return nil
}

func withSymbol(name string) *reflectionpb.ServerReflectionRequest {
	return &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: name}}
}

func byName(file string) *reflectionpb.ServerReflectionRequest {
	return &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileByFilename{FileByFilename: file}}
}

// ask returns an answer for each question. Its error is that of the stream, or
// errTooManyFiles: what waits to be taken is bounded, too.
func (r *reflector) ask(all []*reflectionpb.ServerReflectionRequest) (answers []*reflectionpb.ServerReflectionResponse, err error) {
	for batch := range slices.Chunk(all, batchMax) {
		for _, q := range batch {
			if err := r.stream.SendMsg(q); err != nil {
				return nil, r.why(err)
			}
		}
		for range batch {
			answer := &reflectionpb.ServerReflectionResponse{}
			if err := r.stream.RecvMsg(answer); err != nil {
				return nil, err
			}
			if r.bytes += proto.Size(answer); r.bytes > descriptorBytesMax {
				return nil, errTooManyFiles
			}
			answers = append(answers, answer)
		}
	}
	return answers, nil
}

// why returns the status behind a failed send, which is itself just io.EOF.
func (r *reflector) why(sendErr error) error {
	if err := r.stream.RecvMsg(&reflectionpb.ServerReflectionResponse{}); err != nil {
		return err
	}
	return sendErr
}

// servicesIn are the plugin's own services.
func servicesIn(answer *reflectionpb.ServerReflectionResponse) (names []string, err error) {
	if err := refused(answer); err != nil {
		return nil, err
	}
	for _, service := range answer.GetListServicesResponse().GetService() {
		if !infrastructure(service.GetName()) {
			names = append(names, service.GetName())
		}
	}
	if len(names) > servicesMax {
		return nil, fmt.Errorf("%d services; at most %d", len(names), servicesMax)
	}
	return names, nil
}

func refused(answer *reflectionpb.ServerReflectionResponse) error {
	if no := answer.GetErrorResponse(); no != nil {
		return errors.New(cut(no.GetErrorMessage()))
	}
	return nil
}

// take takes in the files of one answer.
func (r *reflector) take(answer *reflectionpb.ServerReflectionResponse) error {
	if err := refused(answer); err != nil {
		return err
	}
	for _, raw := range answer.GetFileDescriptorResponse().GetFileDescriptorProto() {
		file := &descriptorpb.FileDescriptorProto{}
		if err := proto.Unmarshal(raw, file); err != nil {
			return fmt.Errorf("descriptor: %w", err)
		}
		r.files[file.GetName()], r.sums[file.GetName()] = file, sha256.Sum256(raw)
		if len(r.files) > descriptorFilesMax {
			return errTooManyFiles
		}
	}
	return nil
}

// dependencies fetches what the files import, until nothing is missing, and returns
// what it asked for. What the plugin does not serve either stays a placeholder.
func (r *reflector) dependencies() (asked []string, err error) {
	for {
		missing := r.missing()
		if len(missing) == 0 {
			return asked, nil
		}
		asked = append(asked, missing...)
		if len(r.files)+len(missing) > descriptorFilesMax {
			return nil, errTooManyFiles
		}
		requests := make([]*reflectionpb.ServerReflectionRequest, len(missing))
		for i, name := range missing {
			requests[i] = byName(name)
		}
		answers, err := r.ask(requests)
		if err != nil {
			return nil, err
		}
		for i, name := range missing {
			err := r.take(answers[i])
			if errors.Is(err, errTooManyFiles) {
				return nil, err
			}
			if r.files[name] != nil {
				continue
			}
			if r.files[name] = wellKnown(name); r.files[name] == nil {
				r.files[name] = &descriptorpb.FileDescriptorProto{Name: &name}
			}
		}
	}
}

func (r *reflector) missing() []string {
	names := map[string]bool{}
	for _, file := range r.files {
		for _, name := range file.GetDependency() {
			if r.files[name] == nil {
				names[name] = true
			}
		}
	}
	return sortedKeys(names)
}
