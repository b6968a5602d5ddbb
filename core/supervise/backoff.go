package supervise

import (
	"math/rand/v2"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// attempts remembers recent failures, for the backoff and the budget.
type attempts struct {
	inARow   int         // failures since the last healthy spell
	failures []time.Time // within the budget's window, oldest first

	launch     string // of the wish that they are of
	generation int64
}

// are says what is tried now: a new wish begins with the whole budget.
func (a *attempts) are(want *Want) {
	if a.launch != want.Launch || a.generation != want.Generation {
		*a = attempts{launch: want.Launch, generation: want.Generation}
	}
}

func (a *attempts) forget() { a.inARow, a.failures = 0, nil }

// failed notes a failure and reports whether the budget still has room.
func (a *attempts) failed(now time.Time, budget plugin.Budget) bool {
	a.inARow++
	if budget.Failures < 0 {
		return true
	}
	since := now.Add(-budget.Window.Std())
	kept := a.failures[:0]
	for _, at := range a.failures {
		if at.After(since) {
			kept = append(kept, at)
		}
	}
	a.failures = append(kept, now)
	return len(a.failures) < budget.Failures
}

// healthy starts the backoff over after a spell of health. The budget has a window
// of its own.
func (a *attempts) healthy(ran, reset time.Duration) {
	if ran >= reset {
		a.inARow = 0
	}
}

// ceiling is the most that the next wait may be: min, doubled per failure in a
// row after the first, at most max.
func ceiling(inARow int, bounds plugin.BackoffBounds) time.Duration {
	wait := bounds.Min.Std()
	for range inARow - 1 {
		if wait >= bounds.Max.Std()/2 {
			return bounds.Max.Std()
		}
		wait *= 2
	}
	return min(wait, bounds.Max.Std())
}

// fullJitter spreads retries over the whole of the ceiling, so that plugins that
// died together do not come back together.
func fullJitter(most time.Duration) time.Duration {
	return time.Duration(rand.Int64N(int64(most) + 1))
}
