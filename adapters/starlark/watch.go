package starlark

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// builtinGrace is how long a call that is cancelled may take to end: between
	// two steps that is microseconds, so what takes longer is a builtin.
	builtinGrace = 50 * time.Millisecond
	// leftMax bounds the builtins of one plugin that nobody waits for any more: each
	// occupies a processor until it ends.
	leftMax = 2
	// stackBytes makes a stack of 16 KiB, the largest that the runtime keeps at hand.
	stackBytes = 8 << 10
)

// run executes f on the call's thread with the limits of the instance and of ctx. It
// returns soon after ctx has ended, whatever f does: a builtin that is under way
// cannot be interrupted, so it is left to its end. Only when run returns waited is c
// the caller's again.
func (c *call) run(ctx context.Context, i *instance, f func(*call) error) (waited bool, err error) {
	if err := ctx.Err(); err != nil {
		return true, ended(err)
	}
	if err := i.begin(c); err != nil {
		return true, err
	}
	c.instance, c.ctx = i, ctx
	c.thread.SetMaxExecutionSteps(min(stepsBetween, i.steps))
	go c.execute(f) // ends with f, at the latest with its builtin
	select {
	case err := <-c.done:
		return true, err
	case <-ctx.Done():
	}
	c.cancel()
	grace := time.NewTimer(builtinGrace)
	defer grace.Stop()
	select {
	case err = <-c.done:
	case <-grace.C:
		if i.leave(c) {
			return false, leftBehind(ctx.Err())
		}
		err = <-c.done
	}
	c.spent = true
	return true, err
}

func leftBehind(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("starlark: %w: a builtin was still at work when the time was over; give it less", plugin.ErrDeadline)
	}
	return ended(err)
}

// execute is the goroutine of one call.
func (c *call) execute(f func(*call) error) {
	grow()
	c.done <- c.guard(f)
}

// guard runs f and takes c out of the running calls before anybody is told.
func (c *call) guard(f func(*call) error) (err error) {
	defer c.instance.end(c)
	defer func() {
		if v := recover(); v != nil {
			c.spent = true
			err = fmt.Errorf("starlark: %w: the interpreter panicked: %v", plugin.ErrUnavailable, v)
		}
	}()
	if err := f(c); err != nil {
		return c.explain(err)
	}
	return nil
}

// grow gives a new goroutine at once the stack that the interpreter needs for a
// small function, instead of by doubling it several times: a third of a call.
//
//go:noinline
func grow() {
	var room [stackBytes]byte
	keep(&room)
}

//go:noinline
func keep(*[stackBytes]byte) {}
