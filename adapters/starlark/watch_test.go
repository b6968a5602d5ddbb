package starlark_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/starlark"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// long is one builtin that takes about a second, more with -race: no step in it
// where it could be cancelled.
const long = "def long(): return max(range(20000000))\ndef quick(): return 1\n"

// A caller does not wait for a builtin that it gave no time for; a plugin with too
// many of them is busy; and what is left ends with the plugin all the same.
func TestInvoke_builtinTakesTooLong(t *testing.T) {
	i := launch(t, starlark.New(), inline(t, long), &core{})
	for range 2 {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		_, err := i.Invoke(ctx, plugin.Invocation{Operation: "long"})
		cancel()
		if !errors.Is(err, plugin.ErrDeadline) || !strings.Contains(err.Error(), "a builtin was still at work") {
			t.Fatalf("got %v, want a deadline that blames the builtin", err)
		}
	}
	if _, err := i.Invoke(t.Context(), plugin.Invocation{Operation: "quick"}); !errors.Is(err, plugin.ErrBusy) {
		t.Errorf("two builtins still at work: got %v, want plugin.ErrBusy", err)
	}
	now, cancel := context.WithCancel(context.Background())
	cancel()
	if err := i.Stop(now); !errors.Is(err, plugin.ErrDeadline) {
		t.Errorf("stop meanwhile: got %v, want plugin.ErrDeadline", err)
	}
	select {
	case <-i.(plugin.Ender).Ended():
	case <-time.After(time.Minute):
		t.Fatal("the builtins never ended")
	}
}

// What was left behind no longer counts once it has ended.
func TestInvoke_afterALongBuiltin(t *testing.T) {
	i := launch(t, starlark.New(), inline(t, strings.ReplaceAll(long, "20000000", "5000000")), &core{})
	for range 2 {
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(10*time.Millisecond, cancel)
		if _, err := i.Invoke(ctx, plugin.Invocation{Operation: "long"}); err != nil && !errors.Is(err, plugin.ErrUnavailable) {
			t.Fatalf("the caller left: got %v, want plugin.ErrUnavailable", err)
		}
	}
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-ticker.C {
		_, err := i.Invoke(t.Context(), plugin.Invocation{Operation: "quick"})
		if err == nil {
			break
		}
		if !errors.Is(err, plugin.ErrBusy) || time.Now().After(deadline) {
			t.Fatalf("afterwards: %v", err)
		}
	}
}
