package main

import (
	"context"
	"path/filepath"
)

// noop is the manifest of a Starlark plugin whose one operation answers its
// argument.
const noop = `
apiVersion: patchbay/v1
kind: Plugin
metadata: {name: noop}
spec:
  starlark:
    source: |
      def noop(arg):
          return arg
`

// restBody is what both servers are sent, and answer.
const (
	restBody = `{"name":"you","n":1}`
	restPath = "/v1/plugins/noop/operations/noop"
)

// noopDaemon starts a daemon with noop, and the side that calls it.
func (h *harness) noopDaemon(ctx context.Context, name string, args ...string) (side, func(), error) {
	d, err := h.serve(ctx, name, args...)
	if err != nil {
		return nil, nil, err
	}
	if err := d.apply(ctx, noop); err != nil {
		d.stop()
		return nil, nil, err
	}
	s, end, err := requests(ctx, d.addr, post(d.addr, restPath, d.token, restBody), d.pid())
	if err != nil {
		d.stop()
		return nil, nil, err
	}
	return s, func() { end(); d.stop() }, nil
}

func restStarlark(ctx context.Context, h *harness) ([]row, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ours, end, err := h.noopDaemon(ctx, "rest")
	if err != nil {
		return nil, err
	}
	defer end()
	addr, pid, err := startServer(ctx, echoServer)
	if err != nil {
		return nil, err
	}
	bare, endBare, err := requests(ctx, addr, post(addr, restPath, benchToken, restBody), pid)
	if err != nil {
		return nil, err
	}
	defer endBare()
	c, err := h.compare(ctx, ours, bare, rate)
	if err != nil {
		return nil, err
	}
	return []row{
		c.row("rest-starlark rate", "req/s", rate, atLeast(0.75)),
		c.row("rest-starlark server cpu", "us/req", cpuMicros, bar{}),
	}, nil
}

func restObserved(ctx context.Context, h *harness) ([]row, error) {
	on, end, err := h.noopDaemon(ctx, "on", "--access-log", filepath.Join(h.dir, "access.log"))
	if err != nil {
		return nil, err
	}
	defer end()
	off, endOff, err := h.noopDaemon(ctx, "off", "--access-log", "off", "--metrics=false", "--invocation-events=false")
	if err != nil {
		return nil, err
	}
	defer endOff()
	c, err := h.compare(ctx, on, off, rate)
	if err != nil {
		return nil, err
	}
	return []row{
		c.row("rest-observed rate", "req/s", rate, atLeast(0.90)),
		c.row("rest-observed server cpu", "us/req", cpuMicros, bar{}),
	}, nil
}
