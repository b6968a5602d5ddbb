package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// callers is how many call at the same time: on an idle machine one caller
// measures how long a halted processor takes to wake.
const callers = 16

// effort says how much is measured.
type effort struct {
	pairs int           // A,B
	aa    int           // A,A before them
	turn  time.Duration // of each side of a pair
	warm  time.Duration // before the first
	calib time.Duration // of the calibration

	events  int           // told to the clients of fanout
	clients int           // of fanout
	lines   int           // per second of turn, of logs
	starts  int           // of the daemon
	many    int           // plugins
	kills   int           // of each kind of plugin
	adopted int           // plugins
	quiet   time.Duration // before memory is looked at
}

// fullEffort is what `make bench` does: 7 pairs of 2 s each are the least whose
// median is worth a decision.
func fullEffort() effort {
	return effort{
		pairs: 7, aa: 3, turn: 2 * time.Second, warm: 500 * time.Millisecond, calib: 300 * time.Millisecond,
		events: 200, clients: 1000, lines: 500_000, starts: 9, many: 10_000, kills: 40, adopted: 100, quiet: 5 * time.Second,
	}
}

// smokeEffort runs every path once, so that none can rot.
func smokeEffort() effort {
	return effort{
		pairs: 1, aa: 1, turn: 20 * time.Millisecond, warm: time.Millisecond, calib: 5 * time.Millisecond,
		events: 2, clients: 10, lines: 50_000, starts: 1, many: 20, kills: 1, adopted: 3, quiet: time.Millisecond,
	}
}

// Bounds within which a measurement is not called noisy.
const (
	aaLow, aaHigh = 0.95, 1.05
	calibLow      = 0.85 // of the best calibration of this run
)

// aaTries: an A/A pass that is outside its bounds is done again this often.
const aaTries = 2

// harness is what the benchmarks share.
type harness struct {
	effort
	out io.Writer
	bin string // folder with patchbay and plugins/
	dir string // everything temporary

	fastest, slowest float64 // calibrations
}

func newHarness(e effort, bin string, out io.Writer) (*harness, error) {
	if bin == "" {
		root, err := repository()
		if err != nil {
			return nil, err
		}
		bin = filepath.Join(root, "bin")
	}
	// Short, so that sockets fit into it.
	dir, err := os.MkdirTemp("", "pbb")
	if err != nil {
		return nil, err
	}
	h := &harness{effort: e, out: out, bin: bin, dir: dir}
	if _, err := os.Stat(h.patchbay()); err != nil {
		h.close()
		return nil, fmt.Errorf("%w; make build plugins", err)
	}
	return h, nil
}

func (h *harness) close() { _ = os.RemoveAll(h.dir) }

func (h *harness) patchbay() string            { return filepath.Join(h.bin, "patchbay") }
func (h *harness) plugin(name string) string   { return filepath.Join(h.bin, "plugins", name) }
func (h *harness) temp(name string) string     { return filepath.Join(h.dir, name) }
func (h *harness) say(format string, a ...any) { fmt.Fprintf(h.out, format+"\n", a...) }

// repository is the folder of go.mod, here or above.
func repository() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod here or above: run it inside the repository")
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}

// run runs one benchmark between two calibrations.
func (h *harness) run(ctx context.Context, b benchmark) ([]row, error) {
	h.say("%s: %s", b.name, b.about)
	before := h.calibrate()
	rows, err := b.run(ctx, h)
	after := h.calibrate()
	if slow := min(before, after); slow < calibLow*h.fastest {
		for i := range rows {
			rows[i].mark("calibration %.0f of %.0f MB/s", slow, h.fastest)
		}
	}
	for _, r := range rows {
		h.say("  %s", r)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", b.name, err)
	}
	return rows, err
}

// calibrate tells how fast the machine is now: MB/s of sha256 in two threads.
func (h *harness) calibrate() float64 {
	var wg sync.WaitGroup
	var done [2]int
	began := time.Now()
	for i := range done {
		wg.Go(func() {
			block := make([]byte, 64<<10)
			for time.Since(began) < h.calib {
				sum := sha256.Sum256(block)
				block[0] = sum[0]
				done[i] += len(block)
			}
		})
	}
	wg.Wait()
	speed := float64(done[0]+done[1]) / 1e6 / time.Since(began).Seconds()
	h.fastest = max(h.fastest, speed)
	if h.slowest == 0 || speed < h.slowest {
		h.slowest = speed
	}
	return speed
}

// sample is what one side did in one turn.
type sample struct {
	ops  int
	wall time.Duration
	cpu  time.Duration
}

// A metric reads one figure from a sample.
type metric func(sample) float64

func rate(s sample) float64      { return float64(s.ops) / s.wall.Seconds() }
func cpuMicros(s sample) float64 { return float64(s.cpu.Microseconds()) / float64(max(s.ops, 1)) }

// side is one of the two that are compared. It runs for about so long.
type side func(ctx context.Context, d time.Duration) (sample, error)

// comparison is what was measured of two sides.
type comparison struct {
	aa         [][2]sample
	ours, bare []sample
}

// compare runs bare against itself, and then both in turns.
func (h *harness) compare(ctx context.Context, ours, bare side, noise metric) (c comparison, err error) {
	for _, warm := range []side{bare, ours} {
		if _, err := warm(ctx, h.warm); err != nil {
			return c, err
		}
	}
	for range aaTries {
		if c.aa, err = h.pairs2(ctx, bare, bare, h.aa); err != nil {
			return c, err
		}
		if !c.noisy(noise) {
			break
		}
	}
	pairs, err := h.pairs2(ctx, bare, ours, h.pairs)
	for _, p := range pairs {
		c.bare, c.ours = append(c.bare, p[0]), append(c.ours, p[1])
	}
	return c, err
}

// pairs2 runs a and b in turns.
func (h *harness) pairs2(ctx context.Context, a, b side, n int) (pairs [][2]sample, err error) {
	for range n {
		var p [2]sample
		for i, one := range []side{a, b} {
			if p[i], err = one(ctx, h.turn); err != nil {
				return pairs, err
			}
			if p[i].ops == 0 {
				return pairs, errors.New("nothing was done in a turn")
			}
		}
		pairs = append(pairs, p)
	}
	return pairs, nil
}

// aaRatio is how far apart the same thing was from itself.
func (c comparison) aaRatio(m metric) float64 {
	var ratios []float64
	for _, p := range c.aa {
		ratios = append(ratios, m(p[1])/m(p[0]))
	}
	return median(ratios)
}

func (c comparison) noisy(m metric) bool {
	r := c.aaRatio(m)
	return r < aaLow || r > aaHigh
}

// row makes a row of one figure: medians of both sides, the median of the pairs'
// ratios, and how far these lie apart.
func (c comparison) row(name, unit string, m metric, limit bar) row {
	var ours, bare, ratios []float64
	for i := range c.ours {
		ours, bare = append(ours, m(c.ours[i])), append(bare, m(c.bare[i]))
		ratios = append(ratios, ours[i]/bare[i])
	}
	r := row{Name: name, Ours: pointer(median(ours)), Bare: pointer(median(bare)), Unit: unit, Ratio: pointer(median(ratios))}
	r.judge(*r.Ratio, limit)
	r.note("pairs %.2f to %.2f, A/A %.2f", slices.Min(ratios), slices.Max(ratios), c.aaRatio(m))
	if c.noisy(m) {
		r.mark("A/A %.2f", c.aaRatio(m))
	}
	return r
}

func median(values []float64) float64 { return quantile(values, 0.5) }

// quantile is the value below which that share lies: the next larger one.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// millis are durations as numbers.
func millis(took []time.Duration) []float64 {
	var out []float64
	for _, t := range took {
		out = append(out, float64(t.Microseconds())/1e3)
	}
	return out
}

// poll asks until ok says yes, ctx ends or it takes longer than within.
func poll(ctx context.Context, within, every time.Duration, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %s: %w", what, within, ctx.Err())
		}
	}
	return nil
}

// pause lets the machine come to rest.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
