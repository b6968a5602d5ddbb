package plugin

import (
	"errors"
	"fmt"
)

// MayOverlap returns nil when a new instance of m can be launched beside the old, else
// why not. a is the manifest's adapter.
func MayOverlap(a Adapter, m Manifest) error {
	switch {
	case m.Spec.Mode == Job:
		return errors.New("a job has no instance that stays")
	case m.Spec.Update == Replace:
		return errors.New("spec.update is replace: the old instance is stopped first")
	}
	return MayCoexist(a, m)
}

// MayCoexist is MayOverlap whatever spec.update says.
func MayCoexist(a Adapter, m Manifest) error {
	o, ok := a.(Overlapper)
	if !ok {
		return fmt.Errorf("two instances of a %s plugin cannot be there at the same time", m.Spec.Adapter)
	}
	return o.Overlap(m)
}
