package api

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/store"
)

// Sizes of pages: a thousand plugins are about a megabyte.
const (
	pageDefault = 100
	pageMax     = 1000
)

func (a *API) plugins(c echo.Context) error {
	q := c.QueryParams()
	selector, err := ParseSelector(q.Get("labelSelector"))
	if err != nil {
		return err
	}
	limit, err := whole(q.Get("limit"), "limit", pageDefault)
	if err != nil {
		return err
	}
	after, err := base64.RawURLEncoding.DecodeString(q.Get("continue"))
	if err != nil {
		return fmt.Errorf("continue: %w: give what the previous page said, unchanged", plugin.ErrInvalid)
	}
	page, next := a.deps.Plugins.List(string(after), min(limit, pageMax), selector.Match)
	if page == nil {
		page = []plugin.Resource{} // [] on the wire, not null
	}
	return a.json(c, http.StatusOK, wire.PluginList{
		Items: page, Continue: base64.RawURLEncoding.EncodeToString([]byte(next)),
	})
}

// whole reads a positive number of a query.
func whole(text, name string, otherwise int) (int, error) {
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("%s: %w: %q is not a number above 0", name, plugin.ErrInvalid, text)
	}
	return n, nil
}

// boolean reads a yes or no of a query; the name alone is a yes.
func boolean(c echo.Context, name string) (bool, error) {
	values, given := c.QueryParams()[name]
	if !given {
		return false, nil
	}
	if values[0] == "" {
		return true, nil
	}
	yes, err := strconv.ParseBool(values[0])
	if err != nil {
		return false, fmt.Errorf("%s: %w: write true or false", name, plugin.ErrInvalid)
	}
	return yes, nil
}

func (a *API) found(c echo.Context) (plugin.Resource, error) {
	name := param(c, "name")
	r, ok := a.deps.Plugins.Get(name)
	if !ok {
		return r, fmt.Errorf("plugin %q: %w", name, plugin.ErrNotFound)
	}
	return r, nil
}

// param returns a parameter of the path. echo leaves it escaped when the path
// was escaped in an unusual way.
func param(c echo.Context, name string) string {
	value := c.Param(name)
	if c.Request().URL.RawPath == "" || !strings.Contains(value, "%") {
		return value
	}
	return unescape(value)
}

func (a *API) plugin(c echo.Context) error {
	r, err := a.found(c)
	if err != nil {
		return err
	}
	return a.resource(c, http.StatusOK, r)
}

// resource answers with a plugin and its revision as ETag.
func (a *API) resource(c echo.Context, status int, r plugin.Resource) error {
	c.Response().Header()["Etag"] = []string{`"` + strconv.FormatUint(r.Revision, 10) + `"`}
	return a.json(c, status, r)
}

func (a *API) put(c echo.Context) error {
	data, err := body(c, plugin.ManifestBytesMax, "one manifest cannot be larger; POST several to /v1/apply")
	if err != nil {
		return err
	}
	manifests, err := a.deps.Parser.ParseFrom("", c.QueryParam("source"), data)
	if err != nil {
		return err
	}
	name := param(c, "name")
	if len(manifests) != 1 {
		return fmt.Errorf("body: %w: has %d documents, want the one of %s; POST several to /v1/apply", plugin.ErrInvalid, len(manifests), name)
	}
	if got := manifests[0].Metadata.Name; got != name {
		return plugin.Faults{{Path: "metadata.name", Detail: fmt.Sprintf("is %q, but the path says %q; make them equal", got, name)}}
	}
	var r plugin.Resource
	var created bool
	err = a.expecting(c, name, func(expect store.Expect) (err error) {
		r, created, err = a.deps.Plugins.Put(c.Request().Context(), manifests[0], expect)
		return err
	})
	if err != nil {
		return err
	}
	if created {
		c.Response().Header().Set("Location", "/v1/plugins/"+name)
		return a.resource(c, http.StatusCreated, r)
	}
	return a.resource(c, http.StatusOK, r)
}

func (a *API) remove(c echo.Context) error {
	name := param(c, "name")
	err := a.expecting(c, name, func(expect store.Expect) error {
		return a.deps.Plugins.Delete(c.Request().Context(), name, expect)
	})
	if err != nil {
		return err
	}
	a.deps.Metrics.forget(name)
	return c.NoContent(http.StatusNoContent)
}

// expecting writes with what If-Match and If-None-Match expect of the plugin. The
// store knows revisions only: * is the present one, whichever that is.
func (a *API) expecting(c echo.Context, name string, write func(store.Expect) error) error {
	expect, err := expected(c.Request().Header)
	if err != nil {
		return err
	}
	anyRevision := c.Request().Header.Get("If-Match") == "*"
	for try := 1; ; try++ {
		if anyRevision {
			r, exists := a.deps.Plugins.Get(name)
			if !exists {
				return &coded{code: wire.CodePrecondition, err: fmt.Errorf("if-match: plugin %q: %w", name, plugin.ErrNotFound)}
			}
			expect.Revision = r.Revision
		}
		err := write(expect)
		if err == nil || !anyRevision || try == planTries || !errors.Is(err, plugin.ErrConflict) {
			return precondition(err, expect)
		}
	}
}

// expected reads If-Match and If-None-Match; If-Match: * expects nothing here.
func expected(h http.Header) (store.Expect, error) {
	match, none := h.Get("If-Match"), h.Get("If-None-Match")
	switch {
	case match != "" && none != "":
		return store.Expect{}, fmt.Errorf("if-match: %w: give it or If-None-Match, not both", plugin.ErrInvalid)
	case none == "*":
		return store.Expect{Absent: true}, nil
	case none != "":
		return store.Expect{}, fmt.Errorf("if-none-match: %w: only * is understood here", plugin.ErrInvalid)
	case match == "", match == "*":
		return store.Expect{}, nil
	}
	digits, _ := strings.CutPrefix(match, `"`)
	digits, _ = strings.CutSuffix(digits, `"`)
	revision, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || revision == 0 {
		return store.Expect{}, fmt.Errorf("if-match: %w: %q is no ETag of a plugin; give one, such as \"7\"", plugin.ErrInvalid, match)
	}
	return store.Expect{Revision: revision}, nil
}

func (a *API) start(c echo.Context) error { return a.desire(c, plugin.DesiredRunning) }

func (a *API) stop(c echo.Context) error { return a.desire(c, plugin.DesiredStopped) }

func (a *API) desire(c echo.Context, d plugin.Desired) error {
	r, err := a.deps.Plugins.Desire(c.Request().Context(), param(c, "name"), d)
	if err != nil {
		return err
	}
	return a.resource(c, http.StatusOK, r)
}

func (a *API) restart(c echo.Context) error {
	r, err := a.deps.Plugins.Restart(c.Request().Context(), param(c, "name"))
	if err != nil {
		return err
	}
	return a.resource(c, http.StatusOK, r)
}

func (a *API) reload(c echo.Context) error {
	r, err := a.deps.Plugins.Reload(c.Request().Context(), param(c, "name"))
	if err != nil {
		return err
	}
	return a.resource(c, http.StatusOK, r)
}

func (a *API) operations(c echo.Context) error {
	found, err := a.deps.Plugins.Operations(c.Request().Context(), param(c, "name"))
	if err != nil {
		return err
	}
	if found == nil {
		found = []plugin.Operation{}
	}
	return a.json(c, http.StatusOK, wire.OperationList{Items: found})
}

func (a *API) instances(c echo.Context) error {
	if _, err := a.found(c); err != nil {
		return err
	}
	all, _ := a.deps.Plugins.Instances(param(c, "name"))
	running := []plugin.Status{}
	for _, s := range all {
		switch s.State {
		case plugin.Starting, plugin.Running, plugin.Degraded, plugin.Stopping:
			if s.Instance != "" { // a job has none between its runs
				running = append(running, s)
			}
		}
	}
	return a.json(c, http.StatusOK, wire.InstanceList{Items: running})
}
