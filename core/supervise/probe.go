package supervise

import (
	"context"
	"sync"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// startProbes asks the instance for a sign of life again and again, beside
// watch, so that a probe that hangs does not hide an exit.
func (p *Plugin) startProbes(phase context.Context, one *living) (<-chan error, func()) {
	prober, ok := one.instance.(plugin.Prober)
	if !ok {
		return nil, func() {}
	}
	ctx, cancel := context.WithCancel(phase)
	results := make(chan error)
	var done sync.WaitGroup
	done.Go(func() { p.probe(ctx, prober, results) }) // ends with ctx
	return results, func() { cancel(); done.Wait() }
}

// probe hands each answer to results until ctx ends. A probe that does not return
// is a failure each time, and no second one is begun beside it.
func (p *Plugin) probe(ctx context.Context, prober plugin.Prober, results chan<- error) {
	var asked *call
	for {
		settings := p.Wanted().Manifest.Spec.Probe // as they are now
		timer := time.NewTimer(settings.Interval.Std())
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		one, end := context.WithTimeout(ctx, settings.Timeout.Std())
		if asked == nil || asked.over() {
			asked = p.begin("probe", func() error { return prober.Probe(one) })
		}
		err := asked.wait(one, probeOvertime)
		end()
		select {
		case results <- err:
		case <-ctx.Done():
			return
		}
	}
}

func (c *call) over() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}
