package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/store"
)

// statusGone is what the access log and metrics say of a request whose caller
// left before the answer; nobody sees it on the wire.
const statusGone = 499

// coded is an error whose problem code is chosen where it is found.
type coded struct {
	code    string
	err     error
	results []wire.Applied
}

func (e *coded) Error() string { return e.err.Error() }
func (e *coded) Unwrap() error { return e.err }

func unauthorized(why string) error {
	return &coded{code: wire.CodeUnauthorized, err: errors.New(
		"authorization: " + why + "; the daemon keeps it in " + wire.APITokenFile + " of its data folder")}
}

func tooLarge(limit int64, advice string) error {
	return &coded{code: wire.CodeTooLarge, err: fmt.Errorf("body: has more than %d bytes; %s", limit, advice)}
}

func unreadable(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("body: %w: it did not arrive within %s", plugin.ErrDeadline, requestReadMax)
	}
	return fmt.Errorf("body: %w: %w", plugin.ErrInvalid, err)
}

// precondition gives a conflict the code of a header that did not hold.
func precondition(err error, expect store.Expect) error {
	if expect == (store.Expect{}) || !errors.Is(err, plugin.ErrConflict) {
		return err
	}
	return &coded{code: wire.CodePrecondition, err: err}
}

func errNoRoute(err error, r *http.Request) error {
	if errors.Is(err, echo.ErrMethodNotAllowed) {
		return &coded{code: wire.CodeMethod, err: fmt.Errorf("%s is not offered here", r.Method)}
	}
	if errors.Is(err, echo.ErrNotFound) {
		return fmt.Errorf("path: %w: /openapi.json tells what there is", plugin.ErrNotFound)
	}
	return err
}

// A panicError is a handler's panic; its stack is for the log only.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return "a handler panicked; the daemon's log has more" }

func panicked(v any) error { return &panicError{value: v, stack: debug.Stack()} }

// problemOf is the one place where errors become what callers see.
func problemOf(err error, path string) wire.Problem {
	p := wire.ProblemOf(err)
	if c, ok := errors.AsType[*coded](err); ok && c.code != "" {
		p = wire.NewProblem(c.code, err.Error())
	} else if ok {
		p.Results, p.Detail = c.results, err.Error()
	}
	p.Instance = path
	return p
}

// fail answers with err, and logs it when it is Patchbay's own fault.
func (a *API) fail(c echo.Context, err error) {
	r := c.Request()
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		c.Response().Status = statusGone
		return
	}
	p := problemOf(err, r.URL.Path)
	if p.Status == http.StatusInternalServerError {
		a.logInternal(err, r)
	}
	if c.Response().Committed {
		panic(http.ErrAbortHandler) // cut off: the caller must not take it for the whole
	}
	text, _ := json.Marshal(p) // of strings and numbers
	header := c.Response().Header()
	if p.Status == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", `Bearer realm="patchbay"`)
	}
	if p.Status == http.StatusTooManyRequests {
		header.Set("Retry-After", "1")
	}
	if later, ok := errors.AsType[*plugin.Later](err); ok {
		header.Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(later.After.Seconds())))))
	}
	header.Del("ETag")
	a.write(c, p.Status, wire.ProblemType, text)
}

func (a *API) logInternal(err error, r *http.Request) {
	attrs := []any{"method", r.Method, "path", r.URL.Path, "err", err}
	if p, ok := errors.AsType[*panicError](err); ok {
		attrs = append(attrs, "panic", fmt.Sprint(p.value), "stack", string(p.stack))
	}
	a.deps.Log.Error("request went wrong", attrs...)
}
