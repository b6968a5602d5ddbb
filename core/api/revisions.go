package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/store"
)

func (a *API) revisions(c echo.Context) error {
	all, err := a.deps.Plugins.Revisions(c.Request().Context(), param(c, "name"))
	if err != nil {
		return err
	}
	return a.json(c, http.StatusOK, wire.RevisionList{Items: all})
}

// rollback applies a manifest of before anew: it is checked as any other, and gets a
// generation of its own.
func (a *API) rollback(c echo.Context) error {
	to, err := whole(c.QueryParam("to"), "to", 0)
	if err != nil {
		return err
	}
	now, err := a.found(c)
	if err != nil {
		return err
	}
	name := now.Metadata.Name
	if held(now) {
		return now.Pin.Refuses(name)
	}
	all, err := a.deps.Plugins.Revisions(c.Request().Context(), name)
	if err != nil {
		return err
	}
	past, err := chosen(all, int64(to), now.Generation)
	if err != nil {
		return fmt.Errorf("plugin %q: %w", name, err)
	}
	text, err := json.Marshal(past.Manifest)
	if err != nil {
		return fmt.Errorf("generation %d: %w: %w", past.Generation, plugin.ErrInvalid, err)
	}
	manifests, err := a.deps.Parser.ParseFrom("generation "+strconv.FormatInt(past.Generation, 10), "", text)
	if err != nil {
		return err
	}
	r, _, err := a.deps.Plugins.Put(c.Request().Context(), manifests[0], store.Expect{Revision: now.Revision})
	if err != nil {
		return err
	}
	return a.resource(c, http.StatusOK, r)
}

// chosen is the revision of a generation; 0: the newest before now.
func chosen(all []plugin.Revision, to, now int64) (plugin.Revision, error) {
	var kept []int64
	for _, one := range all {
		if one.Generation != to && (to != 0 || one.Generation >= now) {
			kept = append(kept, one.Generation)
			continue
		}
		if one.Fault != "" {
			return one, fmt.Errorf("generation %d: %w: this daemon does not accept it: %s", one.Generation, plugin.ErrInvalid, one.Fault)
		}
		return one, nil
	}
	if to == 0 {
		return plugin.Revision{}, fmt.Errorf("%w: nothing is kept of before generation %d", plugin.ErrNotFound, now)
	}
	return plugin.Revision{}, fmt.Errorf("generation %d: %w: kept are %v", to, plugin.ErrNotFound, kept)
}

func (a *API) pin(c echo.Context) error {
	r, err := a.deps.Plugins.Pin(c.Request().Context(), param(c, "name"))
	if err != nil {
		return err
	}
	return a.resource(c, http.StatusOK, r)
}

func (a *API) unpin(c echo.Context) error {
	r, err := a.deps.Plugins.Unpin(c.Request().Context(), param(c, "name"))
	if err != nil {
		return err
	}
	return a.resource(c, http.StatusOK, r)
}
