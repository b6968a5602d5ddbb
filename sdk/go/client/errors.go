package client

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// problemBytesMax bounds a problem: a hundred faults, or ten thousand results.
const problemBytesMax = 8 << 20

// Problem is an error that the daemon told. It unwraps to its class, and to
// plugin.Faults when it has them.
type Problem struct {
	wire.Problem
}

func (p *Problem) Error() string {
	if len(p.Errors) > 0 {
		return plugin.Faults(p.Errors).Error()
	}
	if p.Detail == "" {
		return strings.ToLower(p.Title)
	}
	return p.Detail
}

// Unwrap returns the class and the faults.
func (p *Problem) Unwrap() []error {
	var all []error
	if class := p.Class(); class != nil {
		all = append(all, class)
	}
	if len(p.Errors) > 0 {
		all = append(all, plugin.Faults(p.Errors))
	}
	return all
}

// asError returns what a problem stands for.
func asError(p wire.Problem) error {
	if p.Code == wire.CodeRefusal && p.Refusal != nil {
		return p.Refusal
	}
	return &Problem{p}
}

func problemOf(r *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(r.Body, problemBytesMax)) // a part of it may do
	var p wire.Problem
	if err := json.Unmarshal(text, &p); err == nil && p.Code != "" {
		return asError(p)
	}
	return fmt.Errorf("daemon: %w: answered %s, and no problem that Patchbay tells; is it Patchbay?", classOf(r.StatusCode), r.Status)
}

// classOf is for answers of something between us and the daemon.
func classOf(status int) error {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return plugin.ErrDenied
	case http.StatusNotFound:
		return plugin.ErrNotFound
	case http.StatusGatewayTimeout:
		return plugin.ErrDeadline
	case http.StatusTooManyRequests:
		return plugin.ErrBusy
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return plugin.ErrUnavailable
	}
	return plugin.ErrInvalid
}
