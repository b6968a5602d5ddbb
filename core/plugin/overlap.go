package plugin

import (
	"errors"
	"fmt"
)

// MayOverlap returns nil when two instances of m can be there at the same time, else
// why not. a is the manifest's adapter.
func MayOverlap(a Adapter, m Manifest) error {
	o, ok := a.(Overlapper)
	switch {
	case m.Spec.Mode == Job:
		return errors.New("a job has no instance that stays")
	case m.Spec.Update == Replace:
		return errors.New("spec.update is replace: there are never two instances of it")
	case !ok:
		return fmt.Errorf("two instances of a %s plugin cannot be there at the same time", m.Spec.Adapter)
	}
	return o.Overlap(m)
}
