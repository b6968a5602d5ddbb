package starlark

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	star "go.starlark.net/starlark"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	callKey = "call"
	// printBytesMax bounds what one invocation prints: a loop fills a disk.
	printBytesMax = 64 << 10
	// messageBytesMax bounds a refusal's text and backtrace: they are logged.
	messageBytesMax = 8 << 10
	// framesMax bounds recursion: the interpreter's own bound, 100,000, is 100 MB
	// of stack. It is looked at every stepsBetween steps.
	framesMax    = 2000
	stepsBetween = 5000
	// scratchBytesMax is the largest buffer that is kept for the next invocation.
	scratchBytesMax = 64 << 10
)

// call is one invocation: a thread and what belongs to it. It is used again when
// nothing can reach it any more.
type call struct {
	thread   star.Thread
	instance *instance
	ctx      context.Context
	index    int // in instance.running
	loading  bool
	limit    string // which one was reached, "" for none
	spent    bool   // cancelled or panicked: not to be used again
	over     bool   // it is not running any more; instance.mu is for it and for left
	left     bool   // its caller has gone without waiting for the end
	done     chan error
	printed  int
	stdout   io.Writer
	scratch  []byte
	cancel   func()
}

func newCall() *call {
	c := &call{done: make(chan error, 1)}
	c.thread.Print = c.print
	c.thread.OnMaxSteps = c.account
	c.thread.SetLocal(callKey, c)
	c.cancel = func() { c.thread.Cancel("cancelled") }
	return c
}

// account is called by the interpreter every stepsBetween steps.
func (c *call) account(t *star.Thread) {
	switch {
	case t.Steps >= c.instance.steps:
		c.limit = "steps"
	case t.CallStackDepth() > framesMax:
		c.limit = "depth"
	default:
		t.SetMaxExecutionSteps(min(t.Steps+stepsBetween, c.instance.steps))
		return
	}
	t.Cancel(c.limit)
}

// release makes c ready for another invocation, or drops it.
func (a *Adapter) release(c *call) {
	if c.spent {
		return
	}
	c.thread.Steps = 0
	c.instance, c.ctx, c.stdout = nil, nil, nil
	c.loading, c.printed = false, 0
	c.over = false
	if cap(c.scratch) > scratchBytesMax {
		c.scratch = nil
	}
	a.calls.Put(c)
}

// ended turns the end of a context into the house's words.
func ended(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("starlark: %w: the code was still at work when the time was over; do less, or allow more", plugin.ErrDeadline)
	}
	return fmt.Errorf("starlark: %w: the caller left: %w", plugin.ErrUnavailable, err)
}

// explain turns an error of the interpreter into a refusal, or into an error of
// the class that its cause has.
func (c *call) explain(err error) error {
	var failed *failure
	var refusal *plugin.Refusal
	switch {
	case c.limit != "":
		c.spent = true
		return c.overLimit(err)
	case errors.As(err, &failed):
		return &plugin.Refusal{Code: "fail", Message: clip(failed.text)}
	case errors.As(err, &refusal): // another plugin's, by host.invoke
		return refusal
	case strings.HasPrefix(err.Error(), "Starlark computation cancelled") && c.ctx.Err() != nil:
		return ended(c.ctx.Err())
	case strings.HasPrefix(err.Error(), "Starlark computation cancelled"):
		return fmt.Errorf("starlark: %w: the plugin is being stopped", plugin.ErrUnavailable)
	case hasClass(err):
		return fmt.Errorf("starlark: %w", err)
	}
	return &plugin.Refusal{Code: "error", Message: clip(err.Error()), Details: backtrace(err)}
}

func (c *call) overLimit(err error) error {
	text := fmt.Sprintf("more than %d steps; do less, or raise spec.starlark.steps (at most %d)", c.instance.steps, stepsMax)
	if c.limit == "depth" {
		text = fmt.Sprintf("calls are nested more than %d deep; use a loop", framesMax)
	}
	return &plugin.Refusal{Code: c.limit, Message: text, Details: backtrace(err)}
}

// hasClass reports whether err carries one of the classes of the house, which
// here only the host can have put in.
func hasClass(err error) bool {
	for _, class := range [...]error{plugin.ErrInvalid, plugin.ErrDenied, plugin.ErrNotFound, plugin.ErrConflict,
		plugin.ErrBusy, plugin.ErrUnavailable, plugin.ErrDeadline} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

// backtrace returns {"backtrace": text} of an evaluation error, else nil.
func backtrace(err error) plugin.RawJSON {
	var eval *star.EvalError
	if !errors.As(err, &eval) {
		return nil
	}
	const most = 20 // frames: a runaway recursion has a hundred thousand
	short := *eval
	if n := len(short.CallStack); n > most {
		short.CallStack = short.CallStack[n-most:]
	}
	details, err := json.Marshal(map[string]string{"backtrace": clip(short.Backtrace())})
	if err != nil {
		return nil
	}
	return details
}

// clip bounds a text of the plugin's and makes it valid.
func clip(s string) string {
	if len(s) <= messageBytesMax {
		return strings.ToValidUTF8(s, "\ufffd")
	}
	return strings.ToValidUTF8(s[:messageBytesMax], "") + "..."
}

// print writes one line to the log.
func (c *call) print(_ *star.Thread, text string) {
	if c.printed > printBytesMax {
		return
	}
	if c.stdout == nil {
		c.stdout = c.instance.output.Writer(plugin.Stdout)
	}
	c.printed += len(text) + 1
	if c.printed > printBytesMax {
		text = fmt.Sprintf("print: cut: more than %d bytes in one invocation", printBytesMax)
	}
	// One write per line: lines of invocations at the same time do not mix.
	_, _ = io.WriteString(c.stdout, text+"\n")
}
