package client

import (
	"context"
	"net/http"
	"net/url"

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

// Health is Ready with more: what is good to know, such as each adapter, since when
// each component is as it is, and how long its answer took.
func (c *Client) Health(ctx context.Context) (wire.Readiness, error) {
	q := url.Values{"verbose": []string{"true"}}
	return call[wire.Readiness](ctx, c, request{method: "GET", path: "/readyz", query: q, also: http.StatusServiceUnavailable})
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

// EventTypes returns the catalogue of Patchbay's own events, with their schemas.
func (c *Client) EventTypes(ctx context.Context) ([]wire.EventType, error) {
	list, err := call[wire.EventTypeList](ctx, c, request{method: "GET", path: "/v1/events/types"})
	return list.Items, err
}

// Schema returns the JSON Schema of a manifest.
func (c *Client) Schema(ctx context.Context) ([]byte, error) {
	return c.ask(ctx, "/v1/schema/plugin.json")
}

// ask gets a document as it is.
func (c *Client) ask(ctx context.Context, path string) ([]byte, error) {
	data, _, err := c.bytes(ctx, request{method: "GET", path: path})
	return data, err
}
