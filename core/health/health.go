// Package health answers "is it working?": it asks what the daemon needs, and what
// is good to know, and tells who said no, why and since when.
//
// It promises that an answer is at most freshMax old and comes within askMax, so
// that a fault and its cure are told within five seconds, however many ask. Of each
// question at most one is under way: callers share it, and one that hangs is a no
// until it ends, and is not asked again. It owns the goroutine of each question
// under way, and nothing else.
package health

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// askMax bounds one question: a balancer asks every few seconds.
	askMax = 2 * time.Second
	// freshMax is how long an answer is given again, so that many who ask do not
	// become many syncs of the disk.
	freshMax = time.Second
)

// Question is one thing that can be asked.
type Question struct {
	Name string
	// Advisory: the daemon does its work without it; a no is shown, and no more.
	Advisory bool
	// Ask returns nil when it works, and why not otherwise. It should end with ctx;
	// one that does not is left alone, with its goroutine, until it does.
	Ask func(ctx context.Context) error
}

// Answer is what is known of one thing.
type Answer struct {
	Name     string
	Advisory bool
	Err      error // nil: it works
	// Since is when it began to be so, as far as anybody asked.
	Since time.Time
	// Took is how long the answer took.
	Took time.Duration
}

// Checker asks. It is safe for concurrent use.
type Checker struct{ questions []*question }

// New makes a Checker of questions; their answers come in this order.
func New(questions ...Question) *Checker {
	c := &Checker{}
	for _, q := range questions {
		c.questions = append(c.questions, &question{Question: q})
	}
	return c
}

// Needed asks what the daemon cannot do without.
func (c *Checker) Needed(ctx context.Context) []Answer {
	return c.ask(ctx, func(q *question) bool { return !q.Advisory })
}

// All asks everything.
func (c *Checker) All(ctx context.Context) []Answer {
	return c.ask(ctx, func(*question) bool { return true })
}

func (c *Checker) ask(ctx context.Context, wanted func(*question) bool) []Answer {
	var asked []*question
	for _, q := range c.questions {
		if wanted(q) {
			q.begin(ctx)
			asked = append(asked, q)
		}
	}
	answers := make([]Answer, len(asked))
	for i, q := range asked {
		answers[i] = q.await(ctx)
	}
	return answers
}

// question is a Question, what was answered last, and the asking under way.
type question struct {
	Question

	mu     sync.Mutex
	last   Answer
	at     time.Time // of last
	began  time.Time // of the asking under way
	flying chan struct{}
}

// begin asks, unless that is under way or the last answer is fresh.
func (q *question) begin(ctx context.Context) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.flying != nil || !q.at.IsZero() && time.Since(q.at) < freshMax {
		return
	}
	q.began, q.flying = time.Now(), make(chan struct{})
	// An impatient caller must not make the answer of the others.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askMax)
	go func() { // ends with the question
		defer cancel()
		q.end(q.Ask(ctx))
	}()
}

func (q *question) end(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.set(err)
	close(q.flying)
	q.flying = nil
}

// set keeps an answer; q.mu is held.
func (q *question) set(err error) {
	now := time.Now()
	since := q.last.Since
	if q.at.IsZero() || (err == nil) != (q.last.Err == nil) {
		since = now
	}
	q.last = Answer{Name: q.Name, Advisory: q.Advisory, Err: err, Since: since, Took: now.Sub(q.began)}
	q.at = now
}

// await waits for the asking under way, as long as one may take.
func (q *question) await(ctx context.Context) Answer {
	q.mu.Lock()
	flying, left := q.flying, askMax-time.Since(q.began)
	q.mu.Unlock()
	if flying != nil {
		timer := time.NewTimer(left)
		defer timer.Stop()
		select {
		case <-flying:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.flying == flying && flying != nil { // it hangs
		q.set(fmt.Errorf("%w: it has not answered for %s", plugin.ErrDeadline, time.Since(q.began).Round(time.Millisecond)))
	}
	return q.last
}
