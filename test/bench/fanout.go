package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// fanOutMax is how late the last of 1,000 clients may be, in milliseconds.
const fanOutMax = 25

// betweenEvents lets the machine halt, as it does between events that matter.
const betweenEvents = 20 * time.Millisecond

func fanOut(ctx context.Context, h *harness) ([]row, error) {
	o, err := h.newHouse(ctx, "fanout")
	if err != nil {
		return nil, err
	}
	defer o.end()
	a := &audience{last: make(chan struct{}, 1)}
	defer a.leave()
	for range h.clients {
		if err := a.join(ctx, o.addr); err != nil {
			return nil, err
		}
	}
	if err := poll(ctx, startMost, time.Millisecond, "all clients follow", func() bool { return a.open.Load() == int64(h.clients) }); err != nil {
		return nil, err
	}
	var took []time.Duration
	for n := range h.events {
		a.missing.Store(int64(h.clients))
		began := time.Now()
		o.bus.Event(plugin.Event{Plugin: "bench", Type: "dev.patchbay.bench.tick.v1", Data: fmt.Appendf(nil, `{"n":%d}`, n)})
		select {
		case <-a.last:
			took = append(took, time.Since(began))
		case <-time.After(bareWait):
			return nil, fmt.Errorf("event %d: %d clients did not get it", n, a.missing.Load())
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		pause(ctx, betweenEvents)
	}
	name := fmt.Sprintf("fanout to %d SSE clients", h.clients)
	ms := millis(took)
	r := absolute(name+" p50", "ms", median(ms), atMost(fanOutMax))
	r.note("%d events, %.1f to %.1f", len(ms), slices.Min(ms), slices.Max(ms))
	return []row{r, absolute(name+" p99", "ms", quantile(ms, 0.99), atMost(fanOutMax))}, nil
}

// audience is many clients that follow the events of a daemon.
type audience struct {
	conns   []*keptConn
	readers sync.WaitGroup
	open    atomic.Int64
	missing atomic.Int64  // who has not got the newest event
	last    chan struct{} // told by the last who gets it
}

func (a *audience) join(ctx context.Context, addr string) error {
	c, err := dial(ctx, addr)
	if err != nil {
		return err
	}
	a.conns = append(a.conns, c)
	if _, err := fmt.Fprintf(c, "GET /v1/events?follow HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nAccept: text/event-stream\r\n\r\n", addr, benchToken); err != nil {
		return err
	}
	a.readers.Go(func() { // ends with the connection
		_ = a.listen(c)
	})
	return nil
}

func (a *audience) listen(c *keptConn) error {
	response, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	buf := make([]byte, 4<<10)
	a.open.Add(1) // the answer comes once it follows
	for {
		n, err := response.Body.Read(buf)
		if err != nil {
			return err
		}
		// One small event is written at once; a heartbeat is none.
		if bytes.Contains(buf[:n], []byte("data:")) && a.missing.Add(-1) == 0 {
			a.last <- struct{}{}
		}
	}
}

func (a *audience) leave() {
	for _, c := range a.conns {
		_ = c.Close()
	}
	a.readers.Wait()
}
