package supervise

import (
	"context"
	"fmt"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// startup is what a launched instance must answer before it is running.
type startup struct {
	asker asker
	field string               // of the probe, for errors
	probe *plugin.StartupProbe // nil: the adapter's handshake is enough
}

// startup is made before the launch, so that it sees every line that is printed.
// Close its asker.
func (p *Plugin) startup(want *Want, one *living) *startup {
	s := &startup{asker: asker{plugin: p, one: one}, field: "spec.probe.startup", probe: want.Manifest.Spec.Probe.Startup}
	if s.probe != nil && s.probe.Log != nil {
		s.asker.take(s.probe.Question)
	}
	return s
}

// pass returns once the probe has passed. When it does not within ctx the
// instance is stopped, and nothing of it is left.
func (s *startup) pass(ctx context.Context) error {
	if s.probe == nil {
		return nil
	}
	err := s.askUntilGood(ctx)
	if err == nil {
		return nil
	}
	p, one := s.asker.plugin, s.asker.one
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.Wanted().Manifest.Spec.Timeouts.Stop.Std())
	defer cancel()
	p.end(stop, one)
	p.bury(one)
	return err
}

func (s *startup) askUntilGood(ctx context.Context) error {
	one := s.asker.one
	ticker := time.NewTicker(s.probe.Interval.Std()) // a slow answer costs a turn: none are saved up
	defer ticker.Stop()
	for {
		err := s.asker.ask(ctx, s.probe.Question, s.probe.Timeout.Std())
		if err == nil || s.asker.fault != nil {
			return err
		}
		select {
		case <-one.exited:
			return fmt.Errorf("%s: %w: it ended before the probe passed: %s; the last: %w",
				s.field, plugin.ErrUnavailable, s.asker.plugin.exit(one.instance), err)
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: the last: %w", s.field, plugin.ErrDeadline, err)
		case <-ticker.C:
		}
	}
}
