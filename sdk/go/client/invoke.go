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
	// Parts, when set, gives the argument in parts, each of them JSON, and Data is not
	// looked at: the next part, io.EOF behind the last, or an error, which ends the call
	// and is returned. It is called while the answer comes, by one goroutine at a time
	// and not after the call has returned; it must return when ctx ends.
	Parts func(ctx context.Context) ([]byte, error)
	// Metadata travels beside the data where the plugin's protocol can carry it.
	Metadata map[string]string
	// Told, when set, takes what the plugin says beside its answer, with lower-case
	// keys: before the first part of the answer, and behind the last.
	Told func(metadata map[string]string)
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

func (in Invocation) request(ctx context.Context, accept string) request {
	r := request{method: http.MethodPost, path: pluginPath(in.Plugin, "operations", in.Operation), body: in.Data}
	r.set("Content-Type", wire.JSONType)
	if in.ContentType != "" {
		r.set("Content-Type", in.ContentType)
	}
	if in.Parts != nil {
		r.set("Content-Type", wire.NDJSONType)
		r.parts = &parts{ctx: ctx, next: in.Parts}
	}
	if in.Told != nil {
		r.set(wire.WantMetadataHeader, "*")
		r.told = in.tell
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
	r := in.request(ctx, "*/*")
	data, header, err := c.bytes(ctx, r)
	cancel()
	if fault := r.parts.end(); fault != nil {
		err = fault
	}
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
// Parts are JSON. An error of each ends the call and is returned. With Parts both
// directions go on at once; proxies between must not buffer them.
func (c *Client) InvokeStream(ctx context.Context, in Invocation, each func(part []byte) error) error {
	ctx, cancel := in.within(ctx)
	r := in.request(ctx, wire.SSEType)
	err := c.answer(ctx, r, each)
	cancel()
	if fault := r.parts.end(); fault != nil {
		return fault
	}
	return err
}

// answer sends r and reads the answer in parts.
func (c *Client) answer(ctx context.Context, r request, each func(part []byte) error) error {
	response, err := c.send(ctx, r)
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
		case m.event == wire.EndEvent, m.event == wire.ProblemEvent:
			if r.told != nil {
				read.rest()
				r.told(response.Trailer)
			}
			if m.event == wire.ProblemEvent {
				return m.problem()
			}
			return nil
		}
		if err := each(m.data); err != nil {
			return err
		}
	}
}
