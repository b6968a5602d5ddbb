package plugin

import (
	"fmt"
	"time"
)

// Revision is a manifest that is, or was, applied to a plugin.
type Revision struct {
	// Generation is what rollback is told.
	Generation int64     `json:"generation"`
	Applied    time.Time `json:"applied"`
	// Manifest is as it was applied last with this generation.
	Manifest Manifest `json:"manifest"`
	// Fault is why this daemon does not accept the manifest.
	Fault   string `json:"fault,omitempty"`
	Current bool   `json:"current,omitempty"`
}

// Pin holds a plugin to its manifest, and to what its instances run.
type Pin struct {
	Generation int64     `json:"generation"`
	At         time.Time `json:"at"`
	// Digest is that of what ran: nothing else is launched. Empty when the adapter
	// cannot tell it, or nothing ran.
	Digest string `json:"digest,omitempty"`
}

// Refuses is the error of a change to the spec of the pinned plugin.
func (p Pin) Refuses(name string) error {
	return fmt.Errorf("plugin %q: %w: it is pinned to generation %d; to change it: patchbay unpin %s", name, ErrConflict, p.Generation, name)
}
