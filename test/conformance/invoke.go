package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func echoes(t *testing.T, f Fixture) {
	r := f.start(t)
	for n := range 3 {
		if err := f.echo(r, n); err != nil {
			t.Error(err)
		}
	}
}

// refuses: a plugin's own no is a *plugin.Refusal, and the plugin works on.
func refuses(t *testing.T, f Fixture) {
	r := f.start(t)
	_, err := do(t.Context(), r, f.Refuse, 1)
	var no *plugin.Refusal
	if !errors.As(err, &no) {
		t.Fatalf("refuse: got %v, want a *plugin.Refusal", err)
	}
	if want := numbered(f.Refuse.WantMessage, 1); !strings.Contains(no.Message, want) {
		t.Errorf("refuse: got message %q, want %q in it", no.Message, want)
	}
	if err := f.echo(r, 2); err != nil {
		t.Errorf("after a refusal: %v", err)
	}
}

func unknownOperation(t *testing.T, f Fixture) {
	r := f.start(t)
	for _, name := range []string{"no-such-operation", "", "../echo", strings.Repeat("x", 300)} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := do(ctx, r, Call{Operation: name, Data: f.Echo.Data}, 1)
		cancel()
		if !errors.Is(err, plugin.ErrNotFound) {
			t.Errorf("operation %.40q: got %v, want plugin.ErrNotFound", name, err)
		}
	}
	if err := f.echo(r, 2); err != nil {
		t.Errorf("after unknown operations: %v", err)
	}
}

// describes: a Describer lists what it offers, sorted.
func describes(t *testing.T, f Fixture) {
	r := f.start(t)
	d, ok := r.Instance.(plugin.Describer)
	if !ok {
		t.Fatal("the instance is no plugin.Describer")
	}
	ops, err := d.Describe(t.Context())
	if err != nil {
		t.Fatalf("describe: %v", err)
	}
	var names []string
	for _, op := range ops {
		names = append(names, op.Name)
	}
	if !slices.IsSorted(names) {
		t.Errorf("describe: got %v, want it sorted", names)
	}
	if !slices.Contains(names, f.Echo.Operation) {
		t.Errorf("describe: got %v, want %s among them", names, f.Echo.Operation)
	}
}

// probes: a Prober says yes while the instance runs and no once it is gone.
func probes(t *testing.T, f Fixture) {
	r := f.start(t)
	p, ok := r.Instance.(plugin.Prober)
	if !ok {
		return // an optional ability that some protocols lack
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Probe(ctx); err != nil {
		t.Errorf("probe of a running instance: %v", err)
	}
	f.end(t, r)
	if err := p.Probe(ctx); err == nil {
		t.Error("probe of a stopped instance: got nil, want why not")
	}
}

func logsArrive(t *testing.T, f Fixture) {
	r := f.start(t)
	if _, err := do(t.Context(), r, f.Print, 7); err != nil {
		t.Fatalf("print: %v", err)
	}
	want := numbered(f.Print.Want, 7)
	Eventually(t, patience, func() error {
		if !strings.Contains(r.out.All(), want) {
			return fmt.Errorf("logs: got %q, want %q in them", r.out.All(), want)
		}
		return nil
	})
}

// environment: the plugin's is what the launch says, and nothing of the daemon's.
func environment(t *testing.T, f Fixture) {
	const leak = "PATCHBAY_CONFORMANCE_LEAK"
	t.Setenv(leak, "secret")
	r := f.start(t)
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid(t, r)))
	if err != nil {
		t.Fatal(err)
	}
	vars := strings.Split(string(data), "\x00")
	if want := markName + "=" + r.launch.ID; !slices.Contains(vars, want) {
		t.Errorf("environment: got %q, want %s in it", vars, want)
	}
	if slices.Contains(vars, leak+"=secret") {
		t.Errorf("environment: %s of the daemon's own is in it", leak)
	}
}

// sharesNoPipe: a plugin that holds the daemon's pipes blocks on it and dies with it.
func sharesNoPipe(t *testing.T, f Fixture) {
	r := f.start(t)
	own := ownPipes()
	for _, pipe := range pipes(strconv.Itoa(pid(t, r))) {
		if own[pipe] {
			t.Errorf("the plugin shares %s with the daemon", pipe)
		}
	}
}

// invocationDeadline: a call ends with its context, as ErrDeadline, and the
// instance answers the next.
func invocationDeadline(t *testing.T, f Fixture) {
	const deadline = 50 * time.Millisecond
	r := f.start(t)
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	begin := time.Now()
	_, err := do(ctx, r, f.Slow, 1)
	took := time.Since(begin)
	if !errors.Is(err, plugin.ErrDeadline) {
		t.Errorf("slow call with %v: got %v, want plugin.ErrDeadline", deadline, err)
	}
	if most := deadline + overtimeMost + f.Slack; took > most {
		t.Errorf("slow call with %v: took %v, want at most %v", deadline, took, most)
	}
	if err := f.echo(r, 2); err != nil {
		t.Errorf("after a deadline: %v", err)
	}
}

// invocationCancelled: a caller that goes away does not wait, nor harm the others.
func invocationCancelled(t *testing.T, f Fixture) {
	r := f.start(t)
	ctx, cancel := context.WithCancel(t.Context())
	answer := inFlight(ctx, t, f, r)
	cancel()
	select {
	case err := <-answer:
		if err == nil {
			t.Error("cancelled call: got an answer, want an error")
		}
	case <-time.After(overtimeMost + f.Slack):
		t.Error("cancelled call: does not return")
	}
	if err := f.echo(r, 2); err != nil {
		t.Errorf("after a cancelled call: %v", err)
	}
}

// inFlight makes the Slow call and returns once it counts as under way; the
// channel gives its end.
func inFlight(ctx context.Context, t *testing.T, f Fixture, r running) <-chan error {
	t.Helper()
	answer := make(chan error, 1)
	go func() { // ends with ctx or the instance
		_, err := do(ctx, r, f.Slow, 1)
		answer <- err
	}()
	select {
	case err := <-answer:
		t.Fatalf("slow call: ended after less than %v: %v", headStart, err)
	case <-time.After(headStart):
	}
	return answer
}

// Sizes of manyAtOnce: more callers than CPUs, more instances than callers.
const (
	instances       = 8
	callers         = 4
	echoesPerCaller = 50
)

// manyAtOnce: instances launched at the same time, each called from several
// sides; no answer crosses over.
func manyAtOnce(t *testing.T, f Fixture) {
	var all errgroup.Group
	for range instances {
		all.Go(func() error {
			r, err := f.try(t)
			if err != nil {
				return err
			}
			var calls errgroup.Group
			for caller := range callers {
				calls.Go(func() error { return f.echoMany(r, caller*echoesPerCaller) })
			}
			return calls.Wait()
		})
	}
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
}

func (f Fixture) echoMany(r running, from int) error {
	for n := range echoesPerCaller {
		if err := f.echo(r, from+n); err != nil {
			return err
		}
	}
	return nil
}
