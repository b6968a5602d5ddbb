package main

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

// Limits with 10,000 plugins.
const (
	manyStartMax  = 2000 // milliseconds until it answers again
	manyMemoryMax = 200  // megabytes more than idle
	manyPageMax   = 100  // milliseconds for a page
)

const (
	// perFile documents go into one file of an upload: at most 1,000 may.
	perFile = 500
	// pageSize is the largest page there is.
	pageSize = 1000
	// manyRest times the usual pause is until a daemon has come to rest after a start.
	manyRest = 7
	// manyMost bounds applying, starting and stopping them all.
	manyMost = 3 * time.Minute
)

// manyManifest gives each plugin code of its own: the same code would be shared.
const manyManifest = `---
apiVersion: patchbay/v1
kind: Plugin
metadata: {name: p%05d, labels: {bench: many}}
spec:
  starlark:
    source: |
      def hello(who):
          """Greets as number %d."""
          if type(who) != "string":
              fail("who must be a text")
          return {"greeting": "hello " + who, "from": %d}
`

func manyPlugins(ctx context.Context, h *harness) ([]row, error) {
	idle, err := h.idleMemory(ctx)
	if err != nil {
		return nil, err
	}
	if err := h.applyMany(ctx); err != nil {
		return nil, err
	}
	d, err := h.serve(ctx, "many")
	if err != nil {
		return nil, err
	}
	defer d.stop()
	began := time.Now().Add(-d.answer)
	if err := d.allRun(ctx, h.many); err != nil {
		return nil, err
	}
	running := time.Since(began)
	pause(ctx, 2*h.quiet)
	early, err := resident(d.pid())
	if err != nil {
		return nil, err
	}
	pause(ctx, manyRest*h.quiet) // what the bus keeps for 30 s is gone then, and given back
	held, err := resident(d.pid())
	if err != nil {
		return nil, err
	}
	pages, err := d.pages(ctx)
	if err != nil {
		return nil, err
	}
	restart := absolute(fmt.Sprintf("%d plugins: restart to first answer", h.many), "ms", millis([]time.Duration{d.answer})[0], atMost(manyStartMax))
	restart.note("all of them run after %.1f s", running.Seconds())
	memory := absolute(fmt.Sprintf("%d plugins: memory over idle", h.many), "MB", megabytes(held)-idle, atMost(manyMemoryMax))
	memory.note("%.0f MB, idle %.0f MB; %.0f MB in the half minute after the start; each has code of its own", megabytes(held), idle, megabytes(early))
	page := absolute(fmt.Sprintf("%d plugins: page of %d", h.many, pageSize), "ms", median(pages), atMost(manyPageMax))
	page.note("median of %d, worst %.0f", len(pages), slices.Max(pages))
	return []row{restart, memory, page}, nil
}

// idleMemory is what a daemon without plugins holds, in megabytes.
func (h *harness) idleMemory(ctx context.Context) (float64, error) {
	d, err := h.serve(ctx, "many")
	if err != nil {
		return 0, err
	}
	defer d.stop()
	pause(ctx, h.quiet)
	held, err := resident(d.pid())
	return megabytes(held), err
}

// applyMany applies them to a daemon of their own, and ends it.
func (h *harness) applyMany(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, manyMost)
	defer cancel()
	d, err := h.serve(ctx, "many")
	if err != nil {
		return err
	}
	defer d.stop()
	for first := 0; first < h.many; first += perFile {
		var text strings.Builder
		for n := first; n < min(first+perFile, h.many); n++ {
			fmt.Fprintf(&text, manyManifest, n, n, n)
		}
		if _, err := d.Apply(ctx, []wire.File{{Name: "many", Content: text.String()}}, client.ForReal); err != nil {
			return err
		}
	}
	return d.allRun(ctx, h.many)
}

// allRun waits until the last by name, and then all others, run.
func (d *daemon) allRun(ctx context.Context, n int) error {
	last := fmt.Sprintf("p%05d", n-1)
	ran := func(r plugin.Resource) bool { return r.Status.State == plugin.Running }
	return poll(ctx, manyMost, 50*time.Millisecond, "all plugins run", func() bool {
		if r, err := d.Plugin(ctx, last); err != nil || !ran(r) {
			return false
		}
		count := 0
		for r, err := range d.AllPlugins(ctx, client.ListOptions{Limit: pageSize}) {
			if err != nil || !ran(r) {
				return false
			}
			count++
		}
		return count == n
	})
}

// pages reads all of them twice, page by page, and tells how long each took, in
// milliseconds. What it reads is thrown away: decoding is the client's.
func (d *daemon) pages(ctx context.Context) (took []float64, err error) {
	conn, err := dial(ctx, d.addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	for range 2 {
		for after := ""; ; {
			page, err := d.Plugins(ctx, client.ListOptions{Limit: pageSize, Continue: after})
			if err != nil {
				return nil, err
			}
			query := url.Values{"limit": {fmt.Sprint(pageSize)}}
			if after != "" {
				query.Set("continue", after)
			}
			began := time.Now()
			err = conn.exchange(fmt.Appendf(nil, "GET /v1/plugins?%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", query.Encode(), d.addr, d.token))
			if err != nil {
				return nil, err
			}
			took = append(took, millis([]time.Duration{time.Since(began)})[0])
			if after = page.Continue; after == "" {
				break
			}
		}
	}
	return took, nil
}
