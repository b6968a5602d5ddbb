package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// answerSlack is what an answer may take beyond the invocation's own time, so
// that the daemon's word for a deadline arrives.
const answerSlack = 2 * time.Second

// Invocation is one request to one operation.
type Invocation struct {
	Plugin    string
	Operation string
	// Data is the argument, JSON unless ContentType says otherwise.
	Data        []byte
	ContentType string
	// Metadata travels beside the data where the plugin's protocol can carry it.
	Metadata map[string]string
	// Timeout bounds the invocation; 0: the manifest's.
	Timeout time.Duration
	// ID names the invocation in events and logs; empty: the daemon names it.
	ID string
}

// Result is the answer to an invocation.
type Result struct {
	// Data is JSON unless ContentType says otherwise.
	Data        []byte
	ContentType string
	// ID is the invocation's name in events and logs.
	ID string
}

func (in Invocation) request(accept string) request {
	r := request{method: http.MethodPost, path: pluginPath(in.Plugin, "operations", in.Operation), body: in.Data}
	r.set("Content-Type", wire.JSONType)
	if in.ContentType != "" {
		r.set("Content-Type", in.ContentType)
	}
	r.set("Accept", accept)
	if in.ID != "" {
		r.set(wire.InvocationHeader, in.ID)
	}
	for key, value := range in.Metadata {
		r.set(wire.MetadataPrefix+key, value)
	}
	if in.Timeout > 0 {
		r.query = url.Values{"timeout": {in.Timeout.String()}}
	}
	return r
}

func (in Invocation) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if in.Timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, in.Timeout+answerSlack)
}

// Invoke calls an operation. A *plugin.Refusal is the plugin's own no; any other
// error means that the link broke or that it did not come to the plugin.
func (c *Client) Invoke(ctx context.Context, in Invocation) (Result, error) {
	ctx, cancel := in.within(ctx)
	defer cancel()
	data, header, err := c.bytes(ctx, in.request("*/*"))
	if err != nil {
		return Result{}, err
	}
	result := Result{Data: data, ContentType: header.Get("Content-Type"), ID: header.Get(wire.InvocationHeader)}
	if result.ContentType == wire.JSONType {
		result.ContentType = ""
	}
	return result, nil
}

// InvokeStream calls an operation and hands each part of the answer to each, in
// order, until the answer ends. An operation with one answer gives one part.
// Parts are JSON. An error of each ends the call and is returned.
func (c *Client) InvokeStream(ctx context.Context, in Invocation, each func(part []byte) error) error {
	ctx, cancel := in.within(ctx)
	defer cancel()
	response, err := c.send(ctx, in.request(wire.SSEType))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	read := newSSE(response.Body)
	for {
		m, err := read.next()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("answer: %w: it was cut off", plugin.ErrUnavailable)
		case err != nil:
			return broken(ctx, err)
		case m.event == wire.EndEvent:
			return nil
		case m.event == wire.ProblemEvent:
			return m.problem()
		}
		if err := each(m.data); err != nil {
			return err
		}
	}
}
