package api

import (
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

func (a *API) strays(c echo.Context) error {
	strays, err := a.deps.Strays.Strays(c.Request().Context())
	return a.json(c, http.StatusOK, strayList(strays, err))
}

// sweep removes what there is now: between the question and here a stray may have
// ended, and each is proved anew before it is touched.
func (a *API) sweep(c echo.Context) error {
	strays, unknown := a.deps.Strays.Strays(c.Request().Context())
	removed, err := a.deps.Strays.Sweep(c.Request().Context(), strays)
	list := strayList(removed, unknown)
	if err != nil {
		list.Problems = append(list.Problems, err.Error())
	}
	return a.json(c, http.StatusOK, list)
}

func strayList(strays []plugin.Stray, err error) wire.StrayList {
	list := wire.StrayList{Items: strays}
	if list.Items == nil {
		list.Items = []plugin.Stray{}
	}
	if err != nil {
		list.Unknown = strings.Split(err.Error(), "\n")
	}
	return list
}
