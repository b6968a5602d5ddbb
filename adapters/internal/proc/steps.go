package proc

import (
	"slices"
	"sync"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// The outcomes of a stop's step.
const (
	stepEnded = "ended" // the process did
	stepLate  = "late"  // the time of the step was over
	stepDone  = "done"  // it was answered, and the process went on
)

// stepsMax keeps the first steps of a process that no stop ends: it is asked again
// and again.
const stepsMax = 12

// ladder times the steps of a stop. It is safe for concurrent use.
type ladder struct {
	mu    sync.Mutex
	steps []plugin.StopStep
}

// step runs one step, which returns its outcome.
func (l *ladder) step(name string, step func() (outcome string)) (outcome string) {
	began := time.Now()
	outcome = step()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.steps) == stepsMax {
		return outcome
	}
	l.steps = append(l.steps, plugin.StopStep{Name: name, DurationMillis: time.Since(began).Milliseconds(), Outcome: outcome})
	return outcome
}

// StopSteps says how the stop went: ask, term, kill, as far as it came.
func (p *Process) StopSteps() []plugin.StopStep {
	p.steps.mu.Lock()
	defer p.steps.mu.Unlock()
	return slices.Clone(p.steps.steps)
}
