package client

import (
	"context"
	"net/url"
	"strconv"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Revisions lists what was applied to the plugin, newest first, as far as it is kept.
func (c *Client) Revisions(ctx context.Context, name string) ([]plugin.Revision, error) {
	list, err := call[wire.RevisionList](ctx, c, request{method: "GET", path: pluginPath(name, "revisions")})
	return list.Items, err
}

// Rollback applies the manifest of a generation anew; 0 is the one before the present
// one. It does not wait for it.
func (c *Client) Rollback(ctx context.Context, name string, to int64) (plugin.Resource, error) {
	r := request{method: "POST", path: pluginPath(name, "rollback")}
	if to != 0 {
		r.query = url.Values{"to": {strconv.FormatInt(to, 10)}}
	}
	return call[plugin.Resource](ctx, c, r)
}

// Pin holds the plugin to its spec and to what it runs: no apply changes it until Unpin.
func (c *Client) Pin(ctx context.Context, name string) (plugin.Resource, error) {
	return call[plugin.Resource](ctx, c, request{method: "POST", path: pluginPath(name, "pin")})
}

// Unpin lets the plugin be changed again.
func (c *Client) Unpin(ctx context.Context, name string) (plugin.Resource, error) {
	return call[plugin.Resource](ctx, c, request{method: "POST", path: pluginPath(name, "unpin")})
}
