// Package client calls the control plane of a Patchbay daemon: one method per
// route of its REST API, named as the OpenAPI document's operationId.
//
// Errors have the classes of core/plugin: errors.Is(err, plugin.ErrNotFound) works
// as in the daemon. A plugin's own no is a *plugin.Refusal; everything else that
// the daemon said is a *Problem; a daemon that cannot be reached is
// plugin.ErrUnavailable.
//
// A Client owns no goroutine. Streams ([Client.Events], [Client.Logs]) are
// iterators that come back by themselves after the last item they gave, when the
// connection breaks or the daemon restarts.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Limits of a client.
const (
	// dialMax is ample for loopback and a near network.
	dialMax = 5 * time.Second
	// answerBytesMax bounds one whole answer: the largest result, or a thousand
	// plugins of the largest manifest that is likely.
	answerBytesMax = plugin.PayloadBytesMax + 1<<20
	// tokenBytesMax bounds what is read from a file that should hold a token.
	tokenBytesMax = 4 << 10
	// connectionsMax to one daemon are kept for the next request.
	connectionsMax = 64
)

// Options says which daemon to call. The zero Options is the one of this machine
// and user.
type Options struct {
	// URL of the daemon, such as http://127.0.0.1:7420; empty: what the data
	// folder says.
	URL string
	// Token; empty: the one in the data folder, but only for the daemon that the
	// folder belongs to, or when DataDir is given.
	Token string
	// DataDir is the daemon's data folder; empty: DefaultDataDir.
	DataDir string
	// HTTP replaces the client used underneath; it must have no Timeout.
	HTTP *http.Client
	// Link, when set, is told once when a stream that is followed loses its
	// daemon (why), and once when it has it again (nil).
	Link func(why error)
	// Gap, when set, is told that a stream that is followed came back to a daemon
	// which does not have all that came meanwhile.
	Gap func(detail string)
}

// Client calls one daemon. It is safe for concurrent use.
type Client struct {
	options Options
	daemon  atomic.Pointer[daemon]
	http    *http.Client
}

// daemon is where one is, and what it wants to see.
type daemon struct{ base, token string }

// New finds the daemon. It does not call it yet.
func New(o Options) (*Client, error) {
	c := &Client{options: o, http: o.HTTP}
	if err := c.find(); err != nil {
		return nil, err
	}
	if c.http == nil {
		c.http = &http.Client{Transport: &http.Transport{
			Proxy:       http.ProxyFromEnvironment, // which leaves out loopback
			DialContext: (&net.Dialer{Timeout: dialMax}).DialContext, TLSHandshakeTimeout: dialMax,
			MaxIdleConnsPerHost: connectionsMax, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
		}}
	}
	return c, nil
}

// find looks where the daemon is.
func (c *Client) find() error {
	base, token, err := c.options.find()
	if err != nil {
		return err
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return fmt.Errorf("url: %w: %q is not like http://127.0.0.1:7420", plugin.ErrInvalid, base)
	}
	c.daemon.Store(&daemon{base: strings.TrimSuffix(base, "/"), token: token})
	return nil
}

// findAgain looks for a daemon that went away: one that was found by its data
// folder may come back with another port. What is not there yet changes nothing.
func (c *Client) findAgain() {
	if c.options.URL == "" {
		_ = c.find() // the next attempt looks again
	}
}

// find fills in what is not given from the data folder.
func (o Options) find() (base, token string, err error) {
	if o.URL != "" && o.Token != "" {
		return o.URL, o.Token, nil
	}
	dir := o.DataDir
	if dir == "" {
		dir = DefaultDataDir()
	}
	switch {
	case dir == "" && o.URL != "":
		return o.URL, "", nil
	case dir == "":
		return "", "", fmt.Errorf("no daemon is known: %w: there is no home folder ($HOME) to look in; give its data folder (--data-dir) or URL (--url)", plugin.ErrUnavailable)
	}
	own, err := readSmall(filepath.Join(dir, wire.APIAddrFile))
	if o.URL == "" && err != nil {
		return "", "", fmt.Errorf("no daemon is known: %w: %w; start one with patchbay serve, or name its data folder or URL", plugin.ErrUnavailable, err)
	}
	base = o.URL
	if base == "" {
		base = own
	}
	if o.Token != "" {
		return base, o.Token, nil
	}
	if base != own && o.DataDir == "" {
		return base, "", nil // another machine's daemon: our token is none of its business
	}
	token, err = readSmall(filepath.Join(dir, wire.APITokenFile))
	if err != nil {
		return "", "", fmt.Errorf("token: %w: %w", plugin.ErrDenied, err)
	}
	return base, token, nil
}

func readSmall(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, tokenBytesMax))
	return strings.TrimSpace(string(text)), err
}

// DefaultDataDir is where a daemon of this user keeps its data:
// /var/lib/patchbay for root, else $XDG_STATE_HOME/patchbay or
// ~/.local/state/patchbay. It is empty when there is no home folder: a folder that
// anybody can guess and make is no place for a token. It creates nothing.
func DefaultDataDir() string { return dataDirOf(os.Geteuid(), os.Getenv) }

func dataDirOf(user int, getenv func(string) string) string {
	if user == 0 {
		return "/var/lib/patchbay"
	}
	if state := getenv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, "patchbay")
	}
	if home := getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "patchbay")
	}
	return ""
}

// request is one call, before it is sent.
type request struct {
	method string
	path   string
	query  url.Values
	header http.Header
	body   []byte
	parts  *parts // instead of body
	// told, when set, sees the headers of any answer.
	told func(http.Header)
	// also is a status that is an answer and not a problem.
	also int
}

func (r *request) set(key, value string) {
	if r.header == nil {
		r.header = http.Header{}
	}
	r.header.Set(key, value)
}

// send sends r and returns the answer when it is a success; the caller closes it.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	to := c.daemon.Load()
	target := to.base + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	var body io.Reader = bytes.NewReader(r.body)
	if r.parts != nil {
		body = r.parts
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, fmt.Errorf("request: %w: %w", plugin.ErrInvalid, err)
	}
	if r.header != nil {
		req.Header = r.header
	}
	if to.token != "" {
		req.Header.Set("Authorization", "Bearer "+to.token)
	}
	response, err := c.http.Do(req)
	if err != nil {
		return nil, broken(ctx, err)
	}
	if r.told != nil {
		r.told(response.Header)
	}
	if response.StatusCode >= http.StatusBadRequest && response.StatusCode != r.also {
		defer response.Body.Close()
		return nil, problemOf(response)
	}
	return response, nil
}

// broken gives a failed connection its class.
func broken(ctx context.Context, err error) error {
	var timeout net.Error
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case ctx.Err() != nil, errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("daemon: %w: %w", plugin.ErrDeadline, err)
	}
	return fmt.Errorf("daemon: %w: %w", plugin.ErrUnavailable, err)
}

// bytes sends r and reads the whole answer.
func (c *Client) bytes(ctx context.Context, r request) ([]byte, http.Header, error) {
	response, err := c.send(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, answerBytesMax+1))
	if err != nil {
		return nil, nil, broken(ctx, err)
	}
	if len(data) > answerBytesMax {
		return nil, nil, fmt.Errorf("answer: %w: has more than %d bytes", plugin.ErrUnavailable, answerBytesMax)
	}
	return data, response.Header, nil
}

// call sends r and decodes the answer.
func call[T any](ctx context.Context, c *Client, r request) (T, error) {
	var answer T
	data, _, err := c.bytes(ctx, r)
	if err != nil {
		return answer, err
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return answer, fmt.Errorf("answer: %w: %w", plugin.ErrUnavailable, err)
	}
	return answer, nil
}
