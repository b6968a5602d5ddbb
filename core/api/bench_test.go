package api

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/bus"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// BenchmarkInvoke compares the whole way of a request through the API, with a
// plugin that does nothing, to an echo handler of the same shape.
func BenchmarkInvoke(b *testing.B) {
	quiet, busy := testDeps(b, newShelf("one")), testDeps(b, newShelf("one"))
	quiet.Metrics = nil
	busy.AccessLog = io.Discard
	for _, tt := range []struct {
		name    string
		handler http.Handler
	}{{"bare", bareEcho()}, {"quiet", New(quiet)}, {"logged", New(busy)}} {
		b.Run(tt.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest("POST", "/v1/plugins/one/operations/echo", strings.NewReader(`{"name":"you","n":1}`))
				r.Header.Set("Authorization", "Bearer "+testToken)
				r.Header.Set("Content-Type", wire.JSONType)
				w := httptest.NewRecorder()
				tt.handler.ServeHTTP(w, r)
				if w.Code != 200 {
					b.Fatal(w.Body)
				}
			}
		})
	}
}

func bareEcho() http.Handler {
	e := echo.New()
	e.POST("/v1/plugins/:name/operations/:operation", func(c echo.Context) error {
		if c.Request().Header.Get("Authorization") != "Bearer "+testToken {
			return echo.ErrUnauthorized
		}
		var in struct {
			Name string `json:"name"`
			N    int    `json:"n"`
		}
		if err := c.Bind(&in); err != nil {
			return err
		}
		return c.JSON(200, in)
	})
	return e
}

// BenchmarkFanOut is one event to 1,000 SSE clients over the real bus, from its
// telling, through the stream that keeps it, until the last has read it.
func BenchmarkFanOut(b *testing.B) {
	const clients = 1000
	d := testDeps(b, newShelf("one"))
	hub, err := bus.Open(b.Context(), bus.Options{Dir: b.TempDir(), Node: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(hub.Close)
	d.Events = hub
	base, _ := served(b, New(d))
	var heard sync.WaitGroup
	var ready sync.WaitGroup
	ready.Add(clients)
	for range clients {
		r := bufio.NewReader(open(b, base+"/v1/events?follow", wire.SSEType).Body)
		go func() { // ends with the connection, at the test's end
			opened := sync.OnceFunc(ready.Done)
			for line, err := r.ReadString('\n'); err == nil; line, err = r.ReadString('\n') {
				switch {
				case strings.HasPrefix(line, ": heartbeat"):
					opened()
				case strings.HasPrefix(line, "data:"):
					heard.Done()
				}
			}
		}()
	}
	ready.Wait() // a heartbeat tells that a stream is open
	var took []time.Duration
	for b.Loop() {
		heard.Add(clients)
		began := time.Now()
		hub.Event(plugin.Event{Plugin: "one", Type: "dev.patchbay.test.tick.v1", Data: plugin.RawJSON(`{"n":1}`)})
		heard.Wait()
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms/p50")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "ms/max")
}

// BenchmarkList is one page out of 10,000 plugins.
func BenchmarkList(b *testing.B) {
	var names []string
	for i := range 10000 {
		names = append(names, fmt.Sprintf("p%05d", i))
	}
	a := New(testDeps(b, newShelf(names...)))
	for b.Loop() {
		if w := ask(b, a, "GET", "/v1/plugins?limit=1000", ""); w.Code != 200 {
			b.Fatal(w.Body)
		}
	}
}
