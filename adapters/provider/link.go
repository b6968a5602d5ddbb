package provider

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/internal/bounded"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// idleConnsMax keeps a connection per caller that a busy plugin has by
	// default; a new one per call costs more than the call.
	idleConnsMax = 64
	// probePath is one that no provider has. Its answer, 404, takes the whole
	// way through the provider's server and has no effect.
	probePath = "/patchbay-probe"
	// probeBytesMax is read of the answer to a probe, so that its connection
	// can be used again.
	probeBytesMax = 64 << 10
)

// A link posts to one provider's socket. It is safe for concurrent use.
type link struct {
	transport *http.Transport
	header    http.Header // shared by all requests: nobody writes to it
	limit     int64       // bytes of one answer
	config    *url.URL
	action    *url.URL
	stop      *url.URL
	probe     *url.URL
}

func newLink(socket, prefix string, limit int64) *link {
	var dialer net.Dialer
	at := func(path string) *url.URL { return &url.URL{Scheme: "http", Host: "unix", Path: prefix + path} }
	return &link{
		transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, "unix", socket)
			},
			MaxIdleConns: idleConnsMax, MaxIdleConnsPerHost: idleConnsMax, DisableCompression: true,
			IdleConnTimeout: time.Minute, // what one busy minute left does not stay for ever
		},
		header: http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json"}},
		limit:  limit,
		config: at("/config"), action: at("/action"), stop: at("/stop"), probe: at(probePath),
	}
}

// An answer is what a provider answered.
type answer struct {
	status int
	body   []byte
}

// post returns an error when there was no answer or it was too long. The class
// is left to the caller, but for an answer that is too long.
func (k *link) post(ctx context.Context, to *url.URL, body []byte) (answer, error) {
	request := (&http.Request{
		Method: http.MethodPost, URL: to, Host: to.Host, Header: k.header, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}).WithContext(ctx)
	response, err := k.transport.RoundTrip(request)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	data, err := readBody(response.Body, response.ContentLength, k.limit)
	return answer{response.StatusCode, data}, err
}

// errTooLong is an answer beyond the limit.
var errTooLong = errors.New("the answer is longer than spec.limits.payload")

// readBody reads at most limit bytes; length is what the header promised, or -1.
func readBody(r io.Reader, length, limit int64) ([]byte, error) {
	if length > limit {
		return nil, fmt.Errorf("%w: %w: %d bytes", plugin.ErrInvalid, errTooLong, length)
	}
	if length >= 0 {
		data := make([]byte, length)
		_, err := io.ReadFull(r, data)
		return data, err
	}
	data, err := bounded.Read(r, limit)
	if errors.Is(err, bounded.ErrTooLong) {
		return nil, fmt.Errorf("%w: %w", plugin.ErrInvalid, errTooLong)
	}
	return data, err
}

// alive returns nil when the provider's server answers anything.
func (k *link) alive(ctx context.Context) error {
	request := (&http.Request{
		Method: http.MethodGet, URL: k.probe, Host: k.probe.Host, Header: k.header, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	response, err := k.transport.RoundTrip(request)
	if err != nil {
		return err
	}
	_, _ = io.CopyN(io.Discard, response.Body, probeBytesMax)
	return response.Body.Close()
}

func (k *link) close() { k.transport.CloseIdleConnections() }
