package conformance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// outlives: what does not live in the daemon is found again by the next one.
func outlives(f Fixture) bool {
	_, resident := f.Adapter.(plugin.Resident)
	return !resident
}

// leave lets go of an instance as a daemon does that ends, and returns its handle.
func (f Fixture) leave(t *testing.T, r running) plugin.RawJSON {
	t.Helper()
	s, ok := r.Instance.(plugin.Survivor)
	if !ok {
		t.Fatalf("%T is no plugin.Survivor", r.Instance)
	}
	handle, err := s.Handle(context.Background())
	if err != nil {
		t.Fatalf("handle: %v", err)
	}
	s.Leave()
	if e, err := ends(r, patience); err != nil || e.Success() {
		t.Errorf("wait of what was left: got %v, %v, want an exit that says so", e, err)
	}
	return handle
}

func (f Fixture) adopt(t *testing.T, r running, handle plugin.RawJSON) (running, error) {
	t.Helper()
	a, ok := f.Adapter.(plugin.Adopter)
	if !ok {
		t.Fatalf("%T is no plugin.Adopter", f.Adapter)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel() // the instance must outlive its adoption's context
	i, err := a.Adopt(ctx, r.launch, handle)
	return running{i, r.launch, r.out}, err
}

// isAdopted: the same process goes on, is called, prints and is stopped.
func isAdopted(t *testing.T, f Fixture) {
	first := f.start(t)
	if err := f.echo(first, 1); err != nil {
		t.Fatal(err)
	}
	handle := f.leave(t, first)
	second, err := f.adopt(t, first, handle)
	if err != nil {
		t.Fatalf("adopt: %v", err)
	}
	t.Cleanup(func() { f.end(t, second) })
	if f.Process && pid(t, second) != pid(t, first) {
		t.Errorf("adopted process %d, want %d", pid(t, second), pid(t, first))
	}
	if err := f.echo(second, 2); err != nil {
		t.Errorf("after the adoption: %v", err)
	}
	if d, ok := second.Instance.(plugin.Describer); ok {
		if ops, err := d.Describe(context.Background()); err != nil || len(ops) == 0 {
			t.Errorf("describe after the adoption: got %d operations, %v", len(ops), err)
		}
	}
	if s, ok := second.Instance.(plugin.Survivor); !ok {
		t.Errorf("%T is no plugin.Survivor", second.Instance)
	} else if again, err := s.Handle(context.Background()); err != nil || sameJSON(again, handle) != nil {
		t.Errorf("its handle: got %s, %v, want %s", again, err, handle)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := do(ctx, second, f.Print, 3); err != nil {
		t.Errorf("print after the adoption: %v", err)
	}
	Eventually(t, patience, func() error {
		if want := numbered(f.Print.Want, 3); !strings.Contains(second.out.All(), want) {
			return fmt.Errorf("after the adoption %q was not printed", want)
		}
		return nil
	})
	f.stopIn(t, second, patience)
}

// isAdoptedTwice: a daemon may be upgraded any number of times.
func isAdoptedTwice(t *testing.T, f Fixture) {
	r := f.start(t)
	for n := range 3 {
		next, err := f.adopt(t, r, f.leave(t, r))
		if err != nil {
			t.Fatalf("adoption %d: %v", n+1, err)
		}
		r = next
		t.Cleanup(func() { f.end(t, next) })
		if err := f.echo(r, n); err != nil {
			t.Fatalf("after adoption %d: %v", n+1, err)
		}
	}
	f.stopIn(t, r, patience)
}

// diedMeanwhile: what is gone is not found, and nothing of it is left.
func diedMeanwhile(t *testing.T, f Fixture) {
	r := f.start(t)
	handle := f.leave(t, r)
	f.signal(t, r, syscall.SIGKILL)
	Eventually(t, patience, func() error {
		_, err := f.adopt(t, r, handle)
		if !errors.Is(err, plugin.ErrNotFound) {
			return fmt.Errorf("adopt what was killed: got %v, want plugin.ErrNotFound", err)
		}
		return nil
	})
	nothingLeft(t, r.launch)
}

// strangeHandles: a handle comes from a file, and proves nothing by itself.
func strangeHandles(t *testing.T, f Fixture) {
	r := f.start(t)
	for _, handle := range []string{``, `null`, `{}`, `[]`, `"x"`, `{"pid":1}`, `{"process":{"pid":-1}}`} {
		if i, err := f.adopt(t, r, plugin.RawJSON(handle)); err == nil {
			t.Errorf("handle %q: got %v, want an error", handle, i)
		}
	}
	if err := f.echo(r, 1); err != nil {
		t.Errorf("the running instance after strange handles: %v", err)
	}
}
