package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// The daemon's limits: milliseconds, and megabytes when idle.
const (
	startMillisMax = 150
	idleMBMax      = 60
)

// daemonStart starts the real binary, on a new folder and on one that it knows.
func daemonStart(ctx context.Context, h *harness) ([]row, error) {
	var fresh, known []time.Duration
	var memory []float64
	for n := range h.starts {
		name := fmt.Sprintf("start-%d", n)
		for _, into := range []*[]time.Duration{&fresh, &known} {
			d, err := h.serve(ctx, name)
			if err != nil {
				return nil, err
			}
			*into = append(*into, d.answer)
			if n == 0 {
				pause(ctx, h.quiet)
				held, err := resident(d.pid())
				if err != nil {
					d.stop()
					return nil, err
				}
				memory = append(memory, megabytes(held))
			}
			d.stop()
		}
	}
	started := func(name string, took []time.Duration) row {
		ms := millis(took)
		r := absolute(name, "ms", median(ms), atMost(startMillisMax))
		r.note("median of %d, %.0f to %.0f", len(ms), slices.Min(ms), slices.Max(ms))
		return r
	}
	return []row{
		started("start to first answer, new folder", fresh),
		started("start to first answer, known folder", known),
		absolute("idle memory", "MB", slices.Max(memory), atMost(idleMBMax)),
	}, nil
}
