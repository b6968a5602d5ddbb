package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// ListOptions chooses plugins.
type ListOptions struct {
	// Selector has terms that must all hold: k=v, k!=v, k, !k.
	Selector string
	// Limit is how many are on a page; 0: the daemon's default.
	Limit int
	// Continue is the previous page's.
	Continue string
}

// Plugins returns one page of plugins, sorted by name.
func (c *Client) Plugins(ctx context.Context, o ListOptions) (wire.PluginList, error) {
	q := url.Values{}
	put(q, "labelSelector", o.Selector)
	put(q, "continue", o.Continue)
	if o.Limit > 0 {
		q.Set("limit", strconv.Itoa(o.Limit))
	}
	return call[wire.PluginList](ctx, c, request{method: "GET", path: "/v1/plugins", query: q})
}

// AllPlugins goes through every page. An error is the last thing it yields.
func (c *Client) AllPlugins(ctx context.Context, o ListOptions) iter.Seq2[plugin.Resource, error] {
	return func(yield func(plugin.Resource, error) bool) {
		for {
			page, err := c.Plugins(ctx, o)
			if err != nil {
				yield(plugin.Resource{}, err)
				return
			}
			for _, r := range page.Items {
				if !yield(r, nil) {
					return
				}
			}
			if page.Continue == "" {
				return
			}
			o.Continue = page.Continue
		}
	}
}

func put(q url.Values, key, value string) {
	if value != "" {
		q.Set(key, value)
	}
}

func pluginPath(name string, more ...string) string {
	path := "/v1/plugins/" + url.PathEscape(name)
	for _, m := range more {
		path += "/" + url.PathEscape(m)
	}
	return path
}

// Plugin returns one plugin.
func (c *Client) Plugin(ctx context.Context, name string) (plugin.Resource, error) {
	return call[plugin.Resource](ctx, c, request{method: "GET", path: pluginPath(name)})
}

// Expect is what must hold for a write, else it is ErrConflict. The zero Expect
// expects nothing.
type Expect struct {
	// Revision is the one it must have, 0 for any.
	Revision uint64
	// Absent means that it must not exist.
	Absent bool
}

func (e Expect) set(r *request) {
	if e.Revision > 0 {
		r.set("If-Match", `"`+strconv.FormatUint(e.Revision, 10)+`"`)
	}
	if e.Absent {
		r.set("If-None-Match", "*")
	}
}

// Put applies one manifest.
func (c *Client) Put(ctx context.Context, m plugin.Manifest, e Expect) (plugin.Resource, error) {
	body, err := json.Marshal(m)
	if err != nil {
		return plugin.Resource{}, fmt.Errorf("manifest: %w: %w", plugin.ErrInvalid, err)
	}
	r := request{method: "PUT", path: pluginPath(m.Metadata.Name), body: body}
	r.set("Content-Type", wire.JSONType)
	e.set(&r)
	return call[plugin.Resource](ctx, c, r)
}

// Delete stops a plugin and forgets it. It does not wait until it is gone.
func (c *Client) Delete(ctx context.Context, name string, e Expect) error {
	r := request{method: "DELETE", path: pluginPath(name)}
	e.set(&r)
	_, _, err := c.bytes(ctx, r)
	return err
}

// Start wants the plugin running. It does not wait for it; Wait does.
func (c *Client) Start(ctx context.Context, name string) (plugin.Resource, error) {
	return call[plugin.Resource](ctx, c, request{method: "POST", path: pluginPath(name, "start")})
}

// Stop wants the plugin stopped. It does not wait for it.
func (c *Client) Stop(ctx context.Context, name string) (plugin.Resource, error) {
	return call[plugin.Resource](ctx, c, request{method: "POST", path: pluginPath(name, "stop")})
}

// Restart replaces the running instance. It does not wait for it.
func (c *Client) Restart(ctx context.Context, name string) (plugin.Resource, error) {
	return call[plugin.Resource](ctx, c, request{method: "POST", path: pluginPath(name, "restart")})
}

// Reload has a new instance take the place of the running one, which goes on when
// the new one does not answer. It does not wait for it; Wait with IsReloaded does.
func (c *Client) Reload(ctx context.Context, name string) (plugin.Resource, error) {
	return call[plugin.Resource](ctx, c, request{method: "POST", path: pluginPath(name, "reload")})
}

// Operations lists what the plugin offers.
func (c *Client) Operations(ctx context.Context, name string) ([]plugin.Operation, error) {
	list, err := call[wire.OperationList](ctx, c, request{method: "GET", path: pluginPath(name, "operations")})
	return list.Items, err
}

// Instances lists the running copies.
func (c *Client) Instances(ctx context.Context, name string) ([]plugin.Status, error) {
	list, err := call[wire.InstanceList](ctx, c, request{method: "GET", path: pluginPath(name, "instances")})
	return list.Items, err
}

// Apply applies the manifests of files. All are checked before any is stored.
// When some could not be stored the error is a *Problem whose Results say which,
// and the result has them too.
func (c *Client) Apply(ctx context.Context, files []wire.File, mode ApplyMode) (wire.ApplyResult, error) {
	r, err := upload("/v1/apply", files)
	if err != nil {
		return wire.ApplyResult{}, err
	}
	if mode == DryRun {
		r.query = url.Values{"dryRun": {"true"}}
	}
	result, err := call[wire.ApplyResult](ctx, c, r)
	if p, ok := errors.AsType[*Problem](err); ok {
		result.Items = p.Results
	}
	return result, err
}

// ApplyMode says whether Apply changes anything.
type ApplyMode string

// The modes of Apply.
const (
	ForReal ApplyMode = ""
	DryRun  ApplyMode = "dry-run"
)

// Validate checks the manifests of files and returns the plugins' names.
func (c *Client) Validate(ctx context.Context, files []wire.File) ([]string, error) {
	r, err := upload("/v1/validate", files)
	if err != nil {
		return nil, err
	}
	v, err := call[wire.Validation](ctx, c, r)
	return v.Names, err
}

func upload(path string, files []wire.File) (request, error) {
	body, err := json.Marshal(wire.Files{Files: files})
	if err != nil {
		return request{}, fmt.Errorf("files: %w: %w", plugin.ErrInvalid, err)
	}
	r := request{method: http.MethodPost, path: path, body: body}
	r.set("Content-Type", wire.JSONType)
	return r, nil
}
