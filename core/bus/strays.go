package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// StrayStatuses lists the statuses that are kept of instances which keep does not
// know: an earlier daemon published them, and was killed.
func (b *Bus) StrayStatuses(ctx context.Context, keep func(name, instance string) bool) ([]plugin.Stray, error) {
	ctx, cancel := context.WithTimeout(ctx, requestMax)
	defer cancel()
	s, err := b.js[control].Stream(ctx, streamStatus)
	if err != nil {
		return nil, unavailable("strays", err)
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(statusSubject("*", "*")))
	if err != nil {
		return nil, unavailable("strays", err)
	}
	var strays []plugin.Stray
	for _, subject := range slices.Sorted(maps.Keys(info.State.Subjects)) {
		tokens := strings.Split(subject, ".")
		name, instance := tokens[len(tokens)-2], tokens[len(tokens)-1]
		if !keep(name, instance) {
			strays = append(strays, plugin.Stray{Kind: "stream", Name: subject, Instance: instance})
		}
	}
	return strays, nil
}

// SweepStatuses removes what StrayStatuses has listed, and returns what is gone.
func (b *Bus) SweepStatuses(ctx context.Context, strays []plugin.Stray) (removed []plugin.Stray, err error) {
	s, err := b.js[control].Stream(ctx, streamStatus)
	if err != nil {
		return nil, unavailable("sweep", err)
	}
	var failed []error
	for _, one := range strays {
		ctx, cancel := context.WithTimeout(ctx, requestMax)
		err := s.Purge(ctx, jetstream.WithPurgeSubject(one.Name))
		cancel()
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", one.Name, err))
			continue
		}
		removed = append(removed, one)
	}
	return removed, errors.Join(failed...)
}
