package container

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"
)

const (
	positionFile = "log-position"
	// positionBytesMax is several times what a position takes.
	positionBytesMax = 4 << 10
)

// nowhere is a mark that no log has: there is nothing to go back to.
var nowhere = time.Unix(2, 0).UTC()

// position says how far the output was read, in terms of the engine's log: what
// was printed since can be read there.
type position struct {
	// Mark is the engine's time of one record that was read; zero means the first.
	Mark   time.Time `json:"mark,omitzero"`
	Stdout place     `json:"stdout"`
	Stderr place     `json:"stderr"`
	// Seen is when something was last read. It is for a log that has lost its mark.
	Seen time.Time `json:"seen,omitzero"`
}

// place is how much of one stream was taken: lines before the mark, and bytes
// from the mark on.
type place struct {
	Lines uint64 `json:"lines"`
	Bytes uint64 `json:"bytes"`
}

// loadPosition reads what save wrote. Without a file it is the beginning: a
// daemon writes one within a second of the first line.
func loadPosition(dir string) position {
	var p position
	data, err := os.ReadFile(filepath.Join(dir, positionFile))
	if err != nil || len(data) > positionBytesMax || json.Unmarshal(data, &p) != nil {
		return position{}
	}
	return p
}

// save replaces the file as a whole. When that fails the older one still holds: it
// only means that more is read again.
func (p position) save(dir string) {
	data, err := json.Marshal(p)
	if err != nil {
		return
	}
	path := filepath.Join(dir, positionFile)
	if os.WriteFile(path+".new", data, 0o600) == nil {
		_ = os.Rename(path+".new", path)
	}
}
