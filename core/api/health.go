package api

import (
	"context"
	_ "embed" // openapi.json
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/health"
)

// readyMax bounds one question about readiness. It is over core/health's own bound,
// whose answer says more.
const readyMax = 3 * time.Second

// schemaType is the media type of a JSON Schema.
const schemaType = "application/schema+json"

//go:embed openapi.json
var openAPIDocument []byte

func (a *API) livez(c echo.Context) error {
	return a.json(c, http.StatusOK, wire.Liveness{Live: true})
}

func (a *API) readyz(c echo.Context) error {
	verbose, err := boolean(c, "verbose")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), readyMax)
	defer cancel()
	ready := a.readiness(ctx)
	if verbose {
		ready = a.everything(ctx)
	}
	if ready.Ready {
		return a.json(c, http.StatusOK, ready)
	}
	return a.json(c, http.StatusServiceUnavailable, ready)
}

func (a *API) readiness(ctx context.Context) wire.Readiness {
	r := a.ownReadiness()
	for _, answer := range a.deps.Health.Needed(ctx) {
		c := component(answer)
		r.Ready = r.Ready && c.Ready
		r.Components = append(r.Components, c)
	}
	return r
}

// everything is readiness with what is good to know, since when each is as it is,
// and how long its answer took.
func (a *API) everything(ctx context.Context) wire.Readiness {
	r := a.ownReadiness()
	for _, answer := range a.deps.Health.All(ctx) {
		c := component(answer)
		c.Advisory, c.LatencyMicros = answer.Advisory, answer.Took.Microseconds()
		if !answer.Since.IsZero() {
			c.Since = &answer.Since
		}
		r.Ready = r.Ready && (c.Ready || c.Advisory)
		r.Components = append(r.Components, c)
	}
	return r
}

// ownReadiness is of the API alone.
func (a *API) ownReadiness() wire.Readiness {
	if a.draining.Load() {
		return wire.Readiness{Components: []wire.Component{{Name: "api", Detail: "it is shutting down"}}}
	}
	return wire.Readiness{Ready: true, Components: []wire.Component{{Name: "api", Ready: true}}}
}

func component(a health.Answer) wire.Component {
	if a.Err != nil {
		return wire.Component{Name: a.Name, Detail: a.Err.Error()}
	}
	return wire.Component{Name: a.Name, Ready: true}
}

func (a *API) version(c echo.Context) error { return a.json(c, http.StatusOK, a.deps.Version) }

func (a *API) metrics(c echo.Context) error {
	a.shown.ServeHTTP(c.Response(), c.Request())
	return nil
}

func (a *API) openAPI(c echo.Context) error {
	a.write(c, http.StatusOK, wire.JSONType, openAPIDocument)
	return nil
}
