package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

// Limits, in milliseconds.
const (
	restartMax = 400 // the first wait is random, up to 250
	frozenMax  = 500
	coldMax    = 300
	adoptMax   = 2000
)

// graceMillis is the grace of the frozen plugins.
const graceMillis = 500

// adoptRounds is how often a daemon is killed with all its plugins running.
const adoptRounds = 3

// recovery measures how soon things are as they should be.
func recovery(ctx context.Context, h *harness) ([]row, error) {
	d, err := h.serve(ctx, "recover")
	if err != nil {
		return nil, err
	}
	rows, err := h.recoverOn(ctx, d)
	d.stop()
	if err != nil {
		return rows, err
	}
	adopted, err := h.adoptMany(ctx)
	return append(rows, adopted), err
}

func (h *harness) recoverOn(ctx context.Context, d *daemon) (rows []row, err error) {
	for _, measure := range []func(context.Context, *daemon) (row, error){h.coldStarts, h.restarts, h.frozenStops} {
		r, err := measure(ctx, d)
		if err != nil {
			return rows, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// coldStarts applies plugins that the daemon does not know, one after the other,
// and tells how long each takes from the request to running.
func (h *harness) coldStarts(ctx context.Context, d *daemon) (row, error) {
	var took []time.Duration
	kinds := map[string]string{
		"netrpc": fmt.Sprintf(netRPCManifest, h.plugin("goplugin-netrpc")), "grpc": fmt.Sprintf(grpcManifest, h.plugin("goplugin-grpc")),
		"portable": fmt.Sprintf(portableManifest, h.plugin("portable")), "provider": fmt.Sprintf(providerManifest, h.plugin("provider")),
	}
	for n := range h.kills {
		for kind, manifest := range kinds {
			name := fmt.Sprintf("%s-%d", kind, n)
			began := time.Now()
			if err := d.apply(ctx, renamed(manifest, kind, name)); err != nil {
				return row{}, err
			}
			r, err := d.Plugin(ctx, name)
			if err != nil {
				return row{}, err
			}
			took = append(took, r.Status.Since.Sub(began))
			if err := d.Delete(ctx, name, client.Expect{}); err != nil {
				return row{}, err
			}
		}
	}
	return spread("cold start to ready p99", took, coldMax), nil
}

func renamed(manifest, from, to string) string {
	return strings.Replace(manifest, "{name: "+from+"}", "{name: "+to+"}", 1)
}

// spread is a row of a p99.
func spread(name string, took []time.Duration, most float64) row {
	ms := millis(took)
	r := absolute(name, "ms", quantile(ms, 0.99), atMost(most))
	r.note("%d times, median %.1f", len(ms), median(ms))
	return r
}

// restarts kills a plugin again and again, each time after a healthy spell, and
// tells how long it takes until the next start begins.
func (h *harness) restarts(ctx context.Context, d *daemon) (row, error) {
	manifest := strings.Replace(fmt.Sprintf(netRPCManifest, h.plugin("goplugin-netrpc")),
		"backoff: {min: 1ms, max: 10ms}", "policy: always, backoff: {reset: 1ms}", 1)
	if err := d.apply(ctx, manifest); err != nil {
		return row{}, err
	}
	nc, err := d.nats()
	if err != nil {
		return row{}, err
	}
	defer nc.Close()
	changes, err := stateChanges(nc, "netrpc")
	if err != nil {
		return row{}, err
	}
	var took []time.Duration
	for range h.kills {
		one, err := d.restartOnce(ctx, "netrpc", changes)
		if err != nil {
			return row{}, err
		}
		took = append(took, one)
	}
	return spread("exit to restart begun p99 (first try)", took, restartMax), nil
}

// stateChanges subscribes until the connection ends.
func stateChanges(nc *nats.Conn, name string) (<-chan heard, error) {
	changes := make(chan heard, 1024) // more than one round has
	// patchbay.v1.event.<plugin>.<type>
	_, err := nc.Subscribe("patchbay.v1.event."+name+"."+plugin.EventState, func(m *nats.Msg) {
		one := heard{at: time.Now()}
		if json.Unmarshal(m.Data, &one.StateChange) == nil {
			changes <- one
		}
	})
	if err != nil {
		return nil, err
	}
	return changes, nc.Flush()
}

func (d *daemon) restartOnce(ctx context.Context, name string, changes <-chan heard) (took time.Duration, err error) {
	status, err := d.running(ctx, name)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(status.Facts["pid"])
	if err != nil {
		return 0, err
	}
	killed := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return 0, err
	}
	deadline := time.After(startMost)
	for {
		select {
		case c := <-changes:
			switch {
			case c.To == plugin.Starting && c.Status.Since.After(killed):
				took = c.Status.Since.Sub(killed)
			case c.To == plugin.Running && took > 0:
				return took, nil
			}
		case <-deadline:
			return 0, fmt.Errorf("%s is not started again within %s of the kill", name, startMost)
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// frozenStops freezes plugins, stops them, and tells how much longer than their
// grace that took.
func (h *harness) frozenStops(ctx context.Context, d *daemon) (row, error) {
	var took []time.Duration
	for range h.kills {
		for _, v := range h.victims() {
			one, err := d.frozenStop(ctx, v)
			if err != nil {
				return row{}, fmt.Errorf("%s: %w", v.name, err)
			}
			took = append(took, one)
		}
	}
	return spread("stop of a frozen plugin over its grace p99", took, frozenMax), nil
}

func (d *daemon) frozenStop(ctx context.Context, v victim) (over time.Duration, err error) {
	if err := d.apply(ctx, v.manifest+fmt.Sprintf("  timeouts: {stop: %dms}\n", graceMillis)); err != nil {
		return 0, err
	}
	status, err := d.running(ctx, v.name)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(status.Facts["pid"])
	if err != nil {
		return 0, err
	}
	process, err := os.FindProcess(pid) // by pidfd: never another one
	if err != nil {
		return 0, err
	}
	thawed := freeze(process)
	defer thawed()
	began := time.Now()
	if _, err := d.Stop(ctx, v.name); err != nil {
		return 0, err
	}
	stopped, err := d.Wait(ctx, v.name, client.IsStopped)
	if err != nil {
		return 0, err
	}
	return stopped.Status.Since.Sub(began) - graceMillis*time.Millisecond, d.Delete(ctx, v.name, client.Expect{})
}

// freeze keeps a process frozen, whoever wakes it, until thawed is called.
func freeze(p *os.Process) (thawed func()) {
	stop, done := make(chan struct{}), make(chan struct{})
	_ = p.Signal(syscall.SIGSTOP)
	go func() { // ends with stop
		defer close(done)
		again := time.NewTicker(time.Millisecond)
		defer again.Stop()
		for {
			select {
			case <-again.C:
				_ = p.Signal(syscall.SIGSTOP)
			case <-stop:
				return
			}
		}
	}()
	return func() {
		close(stop)
		<-done
		_ = p.Release()
	}
}

// adoptMany kills a daemon with many plugins, starts the next one, and tells how
// long it takes from there until all run: the same processes.
func (h *harness) adoptMany(ctx context.Context) (row, error) {
	d, err := h.serve(ctx, "adopt")
	if err != nil {
		return row{}, err
	}
	defer func() { d.stop() }() // the last one, and its plugins
	for n := range h.adopted {
		manifest := fmt.Sprintf(netRPCManifest, h.plugin("goplugin-netrpc"))
		if err := d.apply(ctx, renamed(manifest, "netrpc", fmt.Sprintf("p%05d", n))); err != nil {
			return row{}, err
		}
	}
	pause(ctx, h.quiet) // what the next daemon needs to know is written down
	before, err := d.pids(ctx)
	if err != nil {
		return row{}, err
	}
	var took []float64
	for range adoptRounds {
		_ = d.cmd.Process.Kill()
		<-d.gone
		began := time.Now()
		if d, err = h.serve(ctx, "adopt"); err != nil {
			end(before)
			return row{}, err
		}
		if err := d.allRun(ctx, h.adopted); err != nil {
			return row{}, err
		}
		took = append(took, millis([]time.Duration{time.Since(began)})[0])
	}
	after, err := d.pids(ctx)
	kept := 0
	for name, pid := range after {
		if before[name] == pid {
			kept++
		}
	}
	r := absolute(fmt.Sprintf("%d plugins to adopt, boot to all running", h.adopted), "ms", median(took), atMost(adoptMax))
	r.note("median of %d, %d of them are the same processes", adoptRounds, kept)
	if kept < h.adopted && err == nil {
		err = fmt.Errorf("%d of %d plugins were adopted", kept, h.adopted)
	}
	return r, err
}

// pids are the plugins' processes by name.
func (d *daemon) pids(ctx context.Context) (map[string]int, error) {
	all := map[string]int{}
	for r, err := range d.AllPlugins(ctx, client.ListOptions{Limit: pageSize}) {
		if err != nil {
			return nil, err
		}
		if all[r.Metadata.Name], err = strconv.Atoi(r.Status.Facts["pid"]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// end kills processes whose daemon cannot.
func end(pids map[string]int) {
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}
