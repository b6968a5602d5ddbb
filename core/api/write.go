package api

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/patchbay-dev/patchbay/core/api/wire"
)

const (
	// writeMax is how long a reader may take nothing before it is cut off.
	writeMax = 10 * time.Second
	// smallBytes fits into a socket's buffer, so that writing it does not wait.
	smallBytes = 16 << 10
	// copyWhile bounds one large answer: 64 MiB at 1 MiB/s.
	copyWhile = 64 * time.Second
)

// write sends a whole answer. A reader that does not take a large one in time is
// cut off.
func (a *API) write(c echo.Context, status int, media string, data []byte) {
	response := c.Response()
	header := response.Header()
	header["Content-Type"] = []string{media}
	header["Content-Length"] = []string{strconv.Itoa(len(data))}
	if len(data) > smallBytes {
		control := http.NewResponseController(response.Writer)
		control.SetWriteDeadline(time.Now().Add(copyWhile)) // best effort: a test's recorder has none
		defer control.SetWriteDeadline(time.Time{})
	}
	response.WriteHeader(status)
	response.Write(data) // an error means that the caller left
}

func (a *API) json(c echo.Context, status int, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	a.write(c, status, wire.JSONType, data)
	return nil
}
