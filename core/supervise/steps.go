package supervise

import (
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// The outcomes of a stop's steps that go well or are cut off.
const (
	stepDone = "done"
	stepLate = "late"
)

// steps times a stop. It is for one goroutine.
type steps struct {
	stop plugin.Stop
}

func beginStop(instance string) *steps {
	return &steps{plugin.Stop{Instance: instance, At: time.Now()}}
}

// do runs one step, which returns its outcome.
func (s *steps) do(name string, step func() (outcome string)) {
	began := time.Now()
	outcome := step()
	s.stop.Steps = append(s.stop.Steps, plugin.StopStep{Name: name, DurationMillis: time.Since(began).Milliseconds(), Outcome: outcome})
}

// end runs the instance's own part: the steps that it tells, or one for all.
func (s *steps) end(p *Plugin, one *living, end func()) {
	began := time.Now()
	end()
	own := p.stopSteps(one.instance)
	if own == nil {
		own = []plugin.StopStep{{Name: "stop", DurationMillis: time.Since(began).Milliseconds(), Outcome: "ended"}}
	}
	s.stop.Steps = append(s.stop.Steps, own...)
}

func (p *Plugin) stopSteps(instance plugin.Instance) (own []plugin.StopStep) {
	i, ok := instance.(plugin.Stepper)
	if !ok {
		return nil
	}
	var err error
	defer p.survive("stop steps", &err)
	return i.StopSteps()
}

// whole is the stop once nothing is left.
func (s *steps) whole() *plugin.Stop {
	s.stop.DurationMillis = time.Since(s.stop.At).Milliseconds()
	return &s.stop
}
