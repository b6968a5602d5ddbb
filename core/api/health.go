package api

import (
	"context"
	_ "embed" // openapi.json
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/patchbay-dev/patchbay/core/api/wire"
)

// readyMax bounds one question about readiness: a balancer asks every few seconds.
const readyMax = 2 * time.Second

// schemaType is the media type of a JSON Schema.
const schemaType = "application/schema+json"

//go:embed openapi.json
var openAPIDocument []byte

func (a *API) livez(c echo.Context) error {
	return a.json(c, http.StatusOK, wire.Liveness{Live: true})
}

func (a *API) readyz(c echo.Context) error {
	ctx, cancel := context.WithTimeout(c.Request().Context(), readyMax)
	defer cancel()
	ready := a.readiness(ctx)
	if ready.Ready {
		return a.json(c, http.StatusOK, ready)
	}
	return a.json(c, http.StatusServiceUnavailable, ready)
}

func (a *API) readiness(ctx context.Context) wire.Readiness {
	r := wire.Readiness{Ready: true, Components: []wire.Component{}}
	add := func(name, detail string) {
		r.Ready = r.Ready && detail == ""
		r.Components = append(r.Components, wire.Component{Name: name, Ready: detail == "", Detail: detail})
	}
	if a.draining.Load() {
		add("api", "it is shutting down")
	} else {
		add("api", "")
	}
	for _, c := range a.deps.Health.Check(ctx) {
		if c.Err != nil {
			add(c.Name, c.Err.Error())
		} else {
			add(c.Name, "")
		}
	}
	return r
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
