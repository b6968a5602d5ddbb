package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// killMax is how late the event of an exit may be, in milliseconds.
const killMax = 100

// warmStartMax is how much longer a go-plugin, which has run before, may take to be
// ready than with go-plugin's own client.
const warmStartMax = 1.5

// victim is a plugin that is killed again and again.
type victim struct {
	name, manifest string
	start          bar // of the ratio
	// bare starts the same plugin without Patchbay, until it can be called.
	bare func(ctx context.Context) (end func(), err error)
}

func (h *harness) victims() []victim {
	netrpc, grpc := h.plugin("goplugin-netrpc"), h.plugin("goplugin-grpc")
	return []victim{
		{"netrpc", fmt.Sprintf(netRPCManifest, netrpc), atMost(warmStartMax), func(context.Context) (func(), error) {
			_, _, end, err := bareGoPlugin(h.dir, netrpc, netRPCStub{})
			return end, err
		}},
		{"grpc", fmt.Sprintf(grpcManifest, grpc), atMost(warmStartMax), func(context.Context) (func(), error) {
			_, _, end, err := bareGoPlugin(h.dir, grpc, grpcStub{})
			return end, err
		}},
		{"portable", fmt.Sprintf(portableManifest, h.plugin("portable")), bar{}, func(ctx context.Context) (func(), error) {
			m, err := h.startMangosHost(ctx)
			return m.end, err
		}},
		{"provider", fmt.Sprintf(providerManifest, h.plugin("provider")), bar{}, func(ctx context.Context) (func(), error) {
			p, err := h.startBareProvider(ctx)
			return p.end, err
		}},
	}
}

func killAndStart(ctx context.Context, h *harness) ([]row, error) {
	d, err := h.serve(ctx, "kill")
	if err != nil {
		return nil, err
	}
	defer d.stop()
	nc, err := d.nats()
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	var killed, started []row
	for _, v := range h.victims() {
		k, s, err := h.killOften(ctx, d, nc, v)
		if err != nil {
			return killed, fmt.Errorf("%s: %w", v.name, err)
		}
		killed, started = append(killed, k), append(started, s)
	}
	return append(killed, started...), nil
}

// nats connects as anybody on the machine may who can read the token.
func (d *daemon) nats() (*nats.Conn, error) {
	addr, err := os.ReadFile(filepath.Join(d.dir, wire.NATSAddrFile))
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(filepath.Join(d.dir, wire.NATSTokenFile))
	if err != nil {
		return nil, err
	}
	return nats.Connect(strings.TrimSpace(string(addr)), nats.Token(strings.TrimSpace(string(token))))
}

// heard is a change of state, and when it was heard of.
type heard struct {
	plugin.StateChange
	at time.Time
}

// killOften kills, waits for the event and for the plugin's return, and starts
// the same plugin bare, in turns.
func (h *harness) killOften(ctx context.Context, d *daemon, nc *nats.Conn, v victim) (killed, started row, err error) {
	if err := d.apply(ctx, v.manifest); err != nil {
		return killed, started, err
	}
	changes := make(chan heard, 1024) // more than one round has
	// patchbay.v1.event.<plugin>.<type>
	sub, err := nc.Subscribe("patchbay.v1.event."+v.name+"."+plugin.EventState, func(m *nats.Msg) {
		one := heard{at: time.Now()}
		if json.Unmarshal(m.Data, &one.StateChange) == nil {
			changes <- one
		}
	})
	if err != nil {
		return killed, started, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := nc.Flush(); err != nil {
		return killed, started, err
	}
	var late, ours, bare, ratios []float64
	for range h.kills {
		l, o, err := d.killOnce(ctx, v.name, changes)
		if err != nil {
			return killed, started, err
		}
		began := time.Now()
		end, err := v.bare(ctx)
		took := time.Since(began)
		if err != nil {
			return killed, started, err
		}
		end()
		ms := millis([]time.Duration{l, o, took})
		late, ours, bare, ratios = append(late, ms[0]), append(ours, ms[1]), append(bare, ms[2]), append(ratios, ms[1]/ms[2])
	}
	killed = absolute("kill -9 of "+v.name+" to its event p99", "ms", quantile(late, 0.99), atMost(killMax))
	killed.note("%d kills, median %.1f, worst %.1f", len(late), median(late), slices.Max(late))
	started = row{Name: "start of " + v.name, Ours: pointer(median(ours)), Bare: pointer(median(bare)), Unit: "ms", Ratio: pointer(median(ratios))}
	started.judge(*started.Ratio, v.start)
	return killed, started, nil
}

// killOnce tells how late the event of the exit was, and how long the plugin then
// took from starting to running, without the wait before.
func (d *daemon) killOnce(ctx context.Context, name string, changes <-chan heard) (late, start time.Duration, err error) {
	status, err := d.running(ctx, name)
	if err != nil {
		return 0, 0, err
	}
	pid, err := strconv.Atoi(status.Facts["pid"])
	if err != nil {
		return 0, 0, err
	}
	killed := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return 0, 0, err
	}
	var starting time.Time
	deadline := time.After(startMost)
	for {
		select {
		case c := <-changes:
			switch {
			case c.From == plugin.Running && late == 0:
				late = c.at.Sub(killed)
			case c.To == plugin.Starting:
				starting = c.Status.Since
			case c.To == plugin.Running && late != 0 && !starting.IsZero():
				return late, c.Status.Since.Sub(starting), nil
			}
		case <-deadline:
			return 0, 0, fmt.Errorf("no event within %s of the kill, or it did not come back", startMost)
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		}
	}
}
