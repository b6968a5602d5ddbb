package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// parts is an argument in parts as the body of a request: a line each.
type parts struct {
	ctx  context.Context
	next func(context.Context) ([]byte, error)

	mu    sync.Mutex // held while next is called
	rest  []byte
	count int
	over  error // why there are no more; io.EOF behind the last
	fault error // what the caller is told of it
}

// Read is called by one goroutine of net/http.
func (p *parts) Read(into []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.rest) == 0 && p.over == nil {
		p.rest, p.over = p.line()
		if p.over != nil && !errors.Is(p.over, io.EOF) && p.ctx.Err() == nil {
			p.fault = p.over
		}
	}
	if p.over != nil {
		return 0, p.over
	}
	n := copy(into, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// Close is net/http's; end does the work.
func (p *parts) Close() error { return nil }

func (p *parts) line() ([]byte, error) {
	part, err := p.next(p.ctx)
	if err != nil {
		return nil, err
	}
	p.count++
	if part = bytes.TrimSpace(part); bytes.ContainsAny(part, "\n\r") {
		var b bytes.Buffer
		if err := json.Compact(&b, part); err != nil {
			return nil, fmt.Errorf("argument: %w: part %d: %w", plugin.ErrInvalid, p.count, err)
		}
		part = b.Bytes()
	}
	if len(part) == 0 {
		return nil, fmt.Errorf("argument: %w: part %d is empty", plugin.ErrInvalid, p.count)
	}
	return append(part[:len(part):len(part)], '\n'), nil
}

// end waits until nobody calls next, and returns why the argument ended early, if it
// did. The call's context has ended.
func (p *parts) end() error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = io.ErrClosedPipe
	return p.fault
}

// tell gives what a plugin said beside its answer, from the headers of an answer or the
// trailers behind it.
func (in Invocation) tell(h http.Header) {
	told := map[string]string{}
	for key, values := range h {
		if name, ok := strings.CutPrefix(key, wire.MetadataPrefix); ok && len(values) > 0 {
			told[strings.ToLower(name)] = values[0]
		}
	}
	if in.Told != nil && len(told) > 0 {
		in.Told(told)
	}
}
