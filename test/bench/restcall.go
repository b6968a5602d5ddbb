package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"

	goplugin "github.com/hashicorp/go-plugin"
	"github.com/labstack/echo/v4"

	"github.com/patchbay-dev/patchbay/test/plugins/goplugin/tiny"
)

// restCallMin is what is left of the rate of a handler that was written for its plugin.
const restCallMin = 0.85

// message is what the handler is sent and answers, for either transport.
type message struct {
	Text string `json:"text"`
}

// echoCall returns the call that the handler makes.
func echoCall(transport, command, dir string) (call func(context.Context, message) (message, error), pid int, err error) {
	stub := goplugin.Plugin(netRPCStub{})
	if transport == "grpc" {
		stub = grpcStub{}
	}
	dispensed, pid, _, err := bareGoPlugin(dir, command, stub)
	if err != nil {
		return nil, 0, err
	}
	switch p := dispensed.(type) {
	case tiny.TinyClient:
		call = func(ctx context.Context, in message) (message, error) {
			out, err := p.Echo(ctx, &tiny.Text{Text: in.Text})
			return message{out.GetText()}, err
		}
	case netRPCStub:
		call = func(_ context.Context, in message) (message, error) {
			var out text
			err := p.client.Call("Plugin.Echo", text(in), &out)
			return message(out), err
		}
	}
	return call, pid, nil
}

// serveCalls is serveEcho with a handler that calls a plugin in between. It prints its
// address and the plugin's pid; the plugin, which has its files in dir, dies with it.
func serveCalls(transport, command, dir string) error {
	call, pid, err := echoCall(transport, command, dir)
	if err != nil {
		return err
	}
	e := echo.New()
	e.POST("/v1/plugins/:name/operations/:operation", func(c echo.Context) error {
		if c.Request().Header.Get("Authorization") != "Bearer "+benchToken {
			return echo.ErrUnauthorized
		}
		var in message
		if err := c.Bind(&in); err != nil {
			return err
		}
		out, err := call(c.Request().Context(), in)
		if err != nil {
			return err
		}
		return c.JSON(http.StatusOK, out)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr(), pid)
	return http.Serve(l, e)
}

// restGoPlugin compares, for both transports, a daemon and that handler. Processor time
// is that of the server and its plugin.
func restGoPlugin(ctx context.Context, h *harness) ([]row, error) {
	d, err := h.serve(ctx, "rest-goplugin")
	if err != nil {
		return nil, err
	}
	defer d.stop()
	var rows []row
	for _, of := range []struct{ transport, field, manifest string }{
		{"netrpc", "Text", netRPCManifest}, {"grpc", "text", grpcManifest},
	} {
		more, err := h.restCall(ctx, d, of.transport, of.field, of.manifest)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", of.transport, err)
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

func (h *harness) restCall(ctx context.Context, d *daemon, transport, field, manifest string) ([]row, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	command := h.plugin("goplugin-" + transport)
	if err := d.apply(ctx, fmt.Sprintf(manifest, command)); err != nil {
		return nil, err
	}
	status, err := d.running(ctx, transport)
	if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(status.Facts["pid"])
	if err != nil {
		return nil, err
	}
	path := "/v1/plugins/" + transport + "/operations/Echo"
	side := func(addr, token, field string, pids ...int) (side, func(), error) {
		body, _ := json.Marshal(map[string]string{field: payload()}) // a text
		return requests(ctx, addr, post(addr, path, token, string(body)), pids...)
	}
	ours, end, err := side(d.addr, d.token, field, d.pid(), pid)
	if err != nil {
		return nil, err
	}
	defer end()
	said, server, err := startServer(ctx, callServer, transport, command, h.dir)
	if err != nil {
		return nil, err
	}
	addr, itsPlugin, _ := strings.Cut(said, " ")
	barePid, err := strconv.Atoi(itsPlugin)
	if err != nil {
		return nil, fmt.Errorf("the server of calls said %q", said)
	}
	bare, endBare, err := side(addr, benchToken, "text", server, barePid)
	if err != nil {
		return nil, err
	}
	defer endBare()
	c, err := h.compare(ctx, ours, bare, rate)
	if err != nil {
		return nil, err
	}
	return []row{
		c.row("rest-"+transport+" rate", "req/s", rate, atLeast(restCallMin)),
		c.row("rest-"+transport+" cpu of server and plugin", "us/req", cpuMicros, bar{}),
	}, nil
}
