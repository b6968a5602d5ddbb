package proc

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// stopDefault is the time for the ladder when ctx has no end of its own.
	stopDefault = 10 * time.Second
	// askShare divides the time left: one part for ask and for ending upon it,
	// the rest for ending upon SIGTERM. Half each, because a program that
	// understood the question is as likely to have something to finish as one
	// that gets a signal.
	askShare = 2
	// killMax is how long a killed process may take to vanish. Longer means
	// that the kernel holds it, in a dead network file system for instance.
	killMax = 5 * time.Second
)

// Stop ends the child and its group and returns once they are gone. It calls ask
// (may be nil), which has half of the time until ctx ends to answer and to take
// effect; then it sends SIGTERM to the group, and at ctx's end SIGKILL. Stopping
// twice is harmless: a second caller waits for the first, and kills when its own
// ctx ends sooner. It returns plugin.ErrDeadline only when even SIGKILL did not
// help.
func (p *Process) Stop(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if p.stopping.TryLock() {
		defer p.stopping.Unlock()
		p.walk(ctx, ask)
	} else {
		p.endsBefore(ctx)
	}
	p.Kill()
	select {
	case <-p.gone:
		return nil
	case <-time.After(killMax):
		return fmt.Errorf("stop: %w: process %d is still there %s after SIGKILL", plugin.ErrDeadline, p.pid, killMax)
	}
}

func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, stopDefault)
}

// walk goes down the ladder, as far as it needs to, and times each step. A child
// that has ended already is not asked.
func (p *Process) walk(ctx context.Context, ask func(context.Context) error) {
	if p.ended() {
		return
	}
	if ask != nil && p.steps.step("ask", func() string { return p.askToEnd(ctx, ask) }) == stepEnded {
		return
	}
	term := p.steps.step("term", func() string {
		p.signal(syscall.SIGTERM)
		p.signal(syscall.SIGCONT) // a frozen one would not see it
		return p.endsBefore(ctx)
	})
	if term != stepEnded {
		p.steps.step("kill", func() string {
			p.Kill()
			select {
			case <-p.done:
				return stepEnded
			case <-time.After(killMax):
				return stepLate
			}
		})
	}
}

// askToEnd says whether the child ended upon being asked. The answer of ask does
// not matter when it did: some protocols break the line by ending.
func (p *Process) askToEnd(ctx context.Context, ask func(context.Context) error) (outcome string) {
	end, _ := ctx.Deadline()
	ctx, cancel := context.WithTimeout(ctx, time.Until(end)/askShare)
	defer cancel()
	answer := make(chan error, 1)
	go func() { answer <- ask(ctx) }() // ends with ctx, as ask promises
	select {
	case <-p.done:
		return stepEnded
	case <-ctx.Done():
		return stepLate
	case err := <-answer:
		if err != nil && p.ended() {
			return stepEnded
		}
		if err != nil {
			return stepDone
		}
	}
	return p.endsBefore(ctx)
}

func (p *Process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *Process) endsBefore(ctx context.Context) (outcome string) {
	select {
	case <-p.done:
		return stepEnded
	case <-ctx.Done():
		if p.ended() {
			return stepEnded
		}
		return stepLate
	}
}
