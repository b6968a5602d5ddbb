package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Bounds of what travels beside an argument.
const (
	idMax = 64 // of an invocation that the caller names
	// metadataMax entries: plugins' protocols put them in headers, which have
	// limits of their own.
	metadataMax = 32
)

// invoke hands the bytes of the request to dispatch and the bytes of the result
// to the caller, as they are.
func (a *API) invoke(c echo.Context) error {
	in, err := a.invocation(c)
	if err != nil {
		return err
	}
	limit, err := timeLimit(c)
	if err != nil {
		return err
	}
	c.Response().Header()[wire.InvocationHeader] = []string{in.ID}
	told := toldOf(c)
	if told != nil {
		in.Told = told.take
	}
	if !inParts(c.Request()) {
		return a.invokeAs(c, in, limit, told)
	}
	from := readParts(c)
	defer from.end()
	in.Parts = from.next
	// Told here, because end has to come after the whole answer.
	if err := a.invokeAs(c, in, limit, told); err != nil {
		a.fail(c, err)
	}
	return nil
}

// invokeAs answers as the caller asks: as a whole or in parts.
func (a *API) invokeAs(c echo.Context, in plugin.Invocation, limit time.Duration, told *told) error {
	if f := formatOf(c, plainFormat); f != plainFormat {
		return a.invokeStream(c, f, in, limit, told)
	}
	ctx, cancel := within(c.Request().Context(), limit)
	defer cancel()
	result, err := a.deps.Invoker.Invoke(ctx, in)
	told.headers(c.Response().Header())
	if err != nil {
		return timedOut(ctx, err)
	}
	media := result.ContentType
	if media == "" {
		media = wire.JSONType
	}
	a.write(c, http.StatusOK, media, result.Data)
	return nil
}

func (a *API) invocation(c echo.Context) (plugin.Invocation, error) {
	r := c.Request()
	in := plugin.Invocation{Plugin: param(c, "name"), Operation: param(c, "*"), Caller: "rest"}
	var err error
	if !inParts(r) { // which invoke reads
		if in.Data, err = body(c, plugin.PayloadBytesMax, "split the argument over several invocations"); err != nil {
			return in, err
		}
	}
	in.ContentType = contentType(r.Header.Get("Content-Type"))
	if in.ID = r.Header.Get(wire.InvocationHeader); in.ID == "" {
		in.ID = a.invocationID()
	} else if !validID(in.ID) {
		return in, fmt.Errorf("%s: %w: want 1 to %d of A-Z, a-z, 0-9, dot, hyphen and underscore", wire.InvocationHeader, plugin.ErrInvalid, idMax)
	}
	in.Metadata, err = metadata(r.Header)
	return in, err
}

// formType is what curl -d says of any data; no plugin takes forms.
const formType = "application/x-www-form-urlencoded"

// contentType is how plugins are told the type of an argument: "" for JSON, which
// is also what is meant by none and by curl's own.
func contentType(media string) string {
	if media == "" || media == wire.JSONType {
		return ""
	}
	switch plain, _, _ := mime.ParseMediaType(media); plain {
	case wire.JSONType, formType:
		return ""
	}
	return media
}

func validID(id string) bool {
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
	return len(id) <= idMax && strings.Trim(id, allowed) == ""
}

// metadata is the caller's own headers and the trace, nil when there are none.
func metadata(h http.Header) (map[string]string, error) {
	var found map[string]string
	for key, values := range h {
		name, own := strings.CutPrefix(key, wire.MetadataPrefix)
		if !own && key != "Traceparent" && key != "Tracestate" {
			continue
		}
		if found == nil {
			found = make(map[string]string)
		}
		if len(found) == metadataMax {
			return nil, fmt.Errorf("headers: %w: more than %d begin with %s", plugin.ErrInvalid, metadataMax, wire.MetadataPrefix)
		}
		found[strings.ToLower(name)] = values[0]
	}
	return found, nil
}

// timeLimit reads the caller's own limit; 0 when there is none.
func timeLimit(c echo.Context) (time.Duration, error) {
	if c.Request().URL.RawQuery == "" {
		return 0, nil
	}
	text := c.QueryParam("timeout")
	if text == "" {
		return 0, nil
	}
	var limit plugin.Duration
	if err := limit.UnmarshalText([]byte(text)); err != nil {
		return 0, fmt.Errorf("timeout: %w: %w", plugin.ErrInvalid, err)
	}
	return limit.Std(), nil
}

// within spares the context when there is no limit: dispatch sets its own.
func within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if limit == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, limit)
}

// timedOut gives the end of the caller's own time its class, whoever noticed.
func timedOut(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) && !errors.Is(err, plugin.ErrDeadline) {
		return fmt.Errorf("%w: %w", plugin.ErrDeadline, err)
	}
	return err
}

// invokeStream answers in parts. Parts are JSON; one that is not is sent as a
// JSON text. A drain lets it go on, but not to the end of the drain, so that the
// caller is told.
func (a *API) invokeStream(c echo.Context, f format, in plugin.Invocation, limit time.Duration, told *told) error {
	m := manner{until: a.calls, patience: heartbeatEvery, told: told}
	if in.Parts != nil {
		m.patience = commitAfter // who waits for the answer to begin may say nothing before
	}
	return a.stream(c, f, m, func(ctx context.Context, put func([]byte) error) error {
		ctx, cancel := within(ctx, limit)
		defer cancel()
		return timedOut(ctx, a.deps.Invoker.InvokeStream(ctx, in, func(part []byte) error {
			return put(f.frame(nil, "", oneLine(part)))
		}))
	})
}

// oneLine returns part as JSON without line breaks.
func oneLine(part []byte) []byte {
	if !json.Valid(part) {
		text, _ := json.Marshal(string(part)) // a string always marshals
		return text
	}
	return compact(part)
}

func unescape(text string) string {
	plain, err := url.PathUnescape(text)
	if err != nil {
		return text
	}
	return plain
}
