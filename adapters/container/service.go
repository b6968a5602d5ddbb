package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"

	"github.com/patchbay-dev/patchbay/adapters/internal/bounded"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// readyMin and readyMax are the waits between two looks at a port that does not
	// answer yet: a compiled program answers in 5 ms, an interpreted one in 500.
	readyMin = 2 * time.Millisecond
	readyMax = 50 * time.Millisecond
	// knockMax bounds one look, so that a program that accepts and does not answer
	// is asked again.
	knockMax = 2 * time.Second
	// idleMax is below the shortest keep-alive of common servers (gunicorn 2 s,
	// uvicorn and node 5 s): a POST on a connection that the server is just closing
	// would be lost, and must not be sent twice.
	idleMax = time.Second
	// headerBytesMax bounds an answer's headers; servers send less than 8 KiB.
	headerBytesMax = 64 << 10
)

// service is a container that serves HTTP.
type service struct {
	*instance
	spec      Spec
	ops       map[string]Operation
	base      string // http://127.0.0.1:PORT
	transport *http.Transport
	payload   int64 // bytes of one answer, at most
	commands  commands
}

var (
	_ plugin.Instance      = (*service)(nil)
	_ plugin.Prober        = (*service)(nil)
	_ plugin.Describer     = (*service)(nil)
	_ plugin.StreamInvoker = (*service)(nil)
	_ plugin.Survivor      = (*service)(nil)
)

func newService(i *instance, s Spec, l plugin.Launch) *service {
	v := &service{
		instance: i, spec: s, ops: map[string]Operation{}, payload: int64(l.Manifest.WithDefaults().Spec.Limits.Payload),
		transport: &http.Transport{
			DialContext:            new(net.Dialer).DialContext, // and no proxy, whatever the environment says
			DisableCompression:     true,                        // bodies pass as they are
			MaxIdleConnsPerHost:    l.Manifest.WithDefaults().Spec.Limits.InFlight,
			IdleConnTimeout:        idleMax,
			MaxResponseHeaderBytes: headerBytesMax,
		},
	}
	for _, op := range s.Operations {
		v.ops[op.Name] = op
	}
	return v
}

// serve waits until the started container answers. On error it is gone.
func serve(ctx context.Context, i *instance, s Spec, l plugin.Launch) (plugin.Instance, error) {
	v := newService(i, s, l)
	now, err := v.look(ctx)
	if err != nil {
		err = class("inspect", err)
	} else {
		err = v.locate(now)
	}
	if err == nil {
		err = v.ready(ctx)
	}
	if err != nil {
		v.abandon(ctx)
		return nil, err
	}
	return v, nil
}

// abandon kills a service that was not to be had.
func (v *service) abandon(ctx context.Context) {
	v.discard(ctx)
	v.transport.CloseIdleConnections()
}

// locate finds the port that the engine chose.
func (v *service) locate(now container.InspectResponse) error {
	if !v.isLocal() {
		return fmt.Errorf("spec.mode: %w: a service needs an engine on this machine, and DOCKER_HOST is %s", plugin.ErrInvalid, v.engine.DaemonHost())
	}
	for _, binding := range now.NetworkSettings.Ports[servicePort(v.spec)] {
		if binding.HostIP == loopback {
			address := net.JoinHostPort(loopback, binding.HostPort)
			v.base, v.facts["address"] = "http://"+address, address
			return nil
		}
	}
	if !now.State.Running {
		<-v.gone
		return v.early()
	}
	return fmt.Errorf("port %d: %w: the engine did not publish it on network %s", v.spec.Port, plugin.ErrInvalid, v.spec.Network)
}

// ready returns nil once the port answers: the health path well, or any path at
// all. (A connection alone proves nothing: the engine accepts it for the container.)
func (v *service) ready(ctx context.Context) error {
	var err error
	for pause := readyMin; ; pause = min(2*pause, readyMax) {
		last := v.knock(ctx)
		if last == nil {
			return nil
		}
		if err == nil || ctx.Err() == nil {
			err = last // one that was cut short tells less than the one before
		}
		again := time.NewTimer(pause)
		select {
		case <-v.gone:
			again.Stop()
			return v.early()
		case <-ctx.Done():
			again.Stop()
			return fmt.Errorf("port %d: %w: did not answer in time: %w; %s", v.spec.Port, plugin.ErrUnavailable, err, v.lastWords())
		case <-again.C:
		}
	}
}

// early says how a container ended that should have answered.
func (v *service) early() error {
	return fmt.Errorf("port %d: %w: the container ended before it answered: %s; %s", v.spec.Port, plugin.ErrUnavailable, v.exit, v.lastWords())
}

func (i *instance) lastWords() string {
	if words := i.output.words(); words != "" {
		return "last words: " + words
	}
	return "it printed nothing"
}

func (v *service) knock(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, knockMax)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.base+firstOf(v.spec.Health, "/"), nil)
	if err != nil {
		return err
	}
	resp, err := v.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, headerBytesMax) // so that the connection can be used again
	if v.spec.Health != "" && resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s answers %s", v.spec.Health, resp.Status)
	}
	return nil
}

// Probe asks the health path, or else the engine: running, not paused, and not
// unhealthy by the image's own HEALTHCHECK.
func (v *service) Probe(ctx context.Context) error {
	if v.isGone() {
		return fmt.Errorf("probe: %w: the container is gone", plugin.ErrUnavailable)
	}
	if v.spec.Health != "" {
		if err := v.knock(ctx); err != nil {
			return fmt.Errorf("probe: %w: %w", plugin.ErrUnavailable, err)
		}
		return nil
	}
	now, err := v.engine.ContainerInspect(ctx, v.id)
	switch {
	case err != nil:
		return class("probe", err)
	case !now.State.Running || now.State.Paused:
		return fmt.Errorf("probe: %w: the container is %s", plugin.ErrUnavailable, now.State.Status)
	case now.State.Health != nil && now.State.Health.Status == container.Unhealthy:
		return fmt.Errorf("probe: %w: the image's health check fails", plugin.ErrUnavailable)
	}
	return nil
}

// Describe lists the manifest's operations.
func (v *service) Describe(context.Context) ([]plugin.Operation, error) {
	ops := make([]plugin.Operation, 0, len(v.spec.Operations))
	for _, op := range v.spec.Operations {
		ops = append(ops, plugin.Operation{Name: op.Name, Summary: op.Summary, Input: op.Input, Output: op.Output, Streams: op.Streams})
	}
	slices.SortFunc(ops, func(a, b plugin.Operation) int { return cmp.Compare(a.Name, b.Name) })
	return ops, nil
}

// Stop stops the container and closes the connections to it.
func (v *service) Stop(ctx context.Context) error {
	defer v.transport.CloseIdleConnections()
	return v.instance.Stop(ctx)
}

// Leave leaves the container running and closes the connections to it.
func (v *service) Leave() {
	v.instance.Leave()
	v.transport.CloseIdleConnections()
}

// Invoke sends the argument as it is and returns the answer as it is. A status
// of 200 to 299 is a result; 404 is ErrNotFound unless the manifest lists the
// operation; any other is the plugin's refusal, with the status as its code.
func (v *service) Invoke(ctx context.Context, in plugin.Invocation) (plugin.Result, error) {
	resp, err := v.call(ctx, in)
	if err != nil {
		return plugin.Result{}, err
	}
	defer resp.Body.Close()
	data, err := v.whole(ctx, in.Operation, resp)
	if err != nil {
		return plugin.Result{}, err
	}
	return plugin.Result{Data: data, ContentType: resp.Header.Get("Content-Type")}, nil
}

// InvokeStream is Invoke for an answer in parts: see parts.
func (v *service) InvokeStream(ctx context.Context, in plugin.Invocation, send func([]byte) error) error {
	resp, err := v.call(ctx, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	split := splitter(resp)
	if split == nil {
		data, err := v.whole(ctx, in.Operation, resp)
		if err != nil {
			return err
		}
		return send(data)
	}
	var sendErr error
	err = split(resp.Body, int(v.payload), func(part []byte) error {
		sendErr = send(part)
		return sendErr
	})
	switch {
	case sendErr != nil:
		return sendErr
	case errors.Is(err, errTooLarge):
		return tooLarge(in.Operation, v.payload)
	case err != nil:
		return v.broken(ctx, in.Operation, err)
	}
	return nil
}

// call sends the request and returns an answer of 200 to 299; its body is the
// caller's to close.
func (v *service) call(ctx context.Context, in plugin.Invocation) (*http.Response, error) {
	if v.isGone() {
		return nil, fmt.Errorf("operation %s: %w: the container is gone", in.Operation, plugin.ErrUnavailable)
	}
	req, err := v.request(ctx, in)
	if err != nil {
		return nil, err
	}
	resp, err := v.transport.RoundTrip(req)
	if err != nil {
		return nil, v.broken(ctx, in.Operation, err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	if _, listed := v.ops[in.Operation]; resp.StatusCode == http.StatusNotFound && !listed {
		return nil, fmt.Errorf("operation %s: %w: the container answers 404", in.Operation, plugin.ErrNotFound)
	}
	return nil, refusal(resp)
}

// request makes the HTTP request of an invocation.
func (v *service) request(ctx context.Context, in plugin.Invocation) (*http.Request, error) {
	op, listed := v.ops[in.Operation]
	if !operationPattern.MatchString(in.Operation) || len(v.ops) > 0 && !listed {
		return nil, fmt.Errorf("operation %.130q: %w", in.Operation, plugin.ErrNotFound)
	}
	method := firstOf(op.Method, v.spec.Invoke.Method)
	path := strings.ReplaceAll(firstOf(op.Path, v.spec.Invoke.Path), operationMark, in.Operation)
	body := in.Data
	if method == http.MethodGet || method == http.MethodDelete {
		if !isEmptyArgument(body) {
			return nil, fmt.Errorf("operation %s: %w: it takes no argument (%s); give {} or nothing", in.Operation, plugin.ErrInvalid, method)
		}
		body = nil
	}
	req, err := http.NewRequestWithContext(ctx, method, v.base+path, reader(body))
	if err != nil {
		return nil, fmt.Errorf("operation %s: %w: %w", in.Operation, plugin.ErrInvalid, err)
	}
	return req, headers(req, in)
}

// broken tells a deadline from a link that broke.
func (v *service) broken(ctx context.Context, operation string, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("operation %s: %w: the container did not answer in time", operation, plugin.ErrDeadline)
	}
	return fmt.Errorf("operation %s: %w: %w", operation, plugin.ErrUnavailable, err)
}

// whole reads an answer of at most payload bytes.
func (v *service) whole(ctx context.Context, operation string, resp *http.Response) ([]byte, error) {
	if resp.ContentLength > v.payload {
		return nil, tooLarge(operation, v.payload)
	}
	if n := resp.ContentLength; n >= 0 {
		data := make([]byte, n)
		if _, err := io.ReadFull(resp.Body, data); err != nil {
			return nil, v.broken(ctx, operation, err)
		}
		return data, nil
	}
	data, err := bounded.Read(resp.Body, v.payload)
	switch {
	case errors.Is(err, bounded.ErrTooLong):
		return nil, tooLarge(operation, v.payload)
	case err != nil:
		return nil, v.broken(ctx, operation, err)
	}
	return data, nil
}

func tooLarge(operation string, most int64) error {
	return fmt.Errorf("operation %s: %w: the answer is larger than spec.limits.payload, %s bytes", operation, plugin.ErrInvalid, strconv.FormatInt(most, 10))
}
