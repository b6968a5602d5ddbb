package client

import (
	"context"
	"net/http"

	"github.com/patchbay-dev/patchbay/core/api/wire"
)

// Live returns nil when the daemon's process answers.
func (c *Client) Live(ctx context.Context) error {
	_, _, err := c.bytes(ctx, request{method: "GET", path: "/livez"})
	return err
}

// Ready says whether the daemon can do its work, and what cannot. That it is not
// ready is no error.
func (c *Client) Ready(ctx context.Context) (wire.Readiness, error) {
	return call[wire.Readiness](ctx, c, request{method: "GET", path: "/readyz", also: http.StatusServiceUnavailable})
}

// Version says what is running.
func (c *Client) Version(ctx context.Context) (wire.Version, error) {
	return call[wire.Version](ctx, c, request{method: "GET", path: "/version"})
}

// Strays lists what earlier daemons left behind and nobody keeps.
func (c *Client) Strays(ctx context.Context) (wire.StrayList, error) {
	return call[wire.StrayList](ctx, c, request{method: "GET", path: "/v1/strays"})
}

// Sweep removes the strays and returns those that are gone.
func (c *Client) Sweep(ctx context.Context) (wire.StrayList, error) {
	return call[wire.StrayList](ctx, c, request{method: "DELETE", path: "/v1/strays"})
}

// Metrics returns the Prometheus text.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) { return c.ask(ctx, "/metrics") }

// OpenAPI returns the OpenAPI document.
func (c *Client) OpenAPI(ctx context.Context) ([]byte, error) { return c.ask(ctx, "/openapi.json") }

// Schema returns the JSON Schema of a manifest.
func (c *Client) Schema(ctx context.Context) ([]byte, error) {
	return c.ask(ctx, "/v1/schema/plugin.json")
}

// ask gets a document as it is.
func (c *Client) ask(ctx context.Context, path string) ([]byte, error) {
	data, _, err := c.bytes(ctx, request{method: "GET", path: path})
	return data, err
}
