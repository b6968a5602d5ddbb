package portable

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// recordBytesMax bounds a record: a few hundred sources and sinks with long
// configurations, and restsBytesMax in base64.
const recordBytesMax = 16 << 20

// A record is what the next daemon must know and cannot see. It comes from where
// the plugin could reach it, and is read accordingly.
type record struct {
	Functions []string         `json:"functions"` // in the order of the marks, after that of control
	OpIDs     int              `json:"opIds"`
	Symbols   []recordedSymbol `json:"symbols,omitempty"`
	Sockets   []recordedSocket `json:"sockets,omitempty"` // in the order of the descriptors
}

type recordedSymbol struct {
	Kind   string         `json:"kind"`
	Name   string         `json:"name"`
	OpID   string         `json:"opId"`
	Source string         `json:"source,omitempty"`
	Config plugin.RawJSON `json:"config,omitempty"`
}

type recordedSocket struct {
	Name  string `json:"name"`
	Rest  []byte `json:"rest,omitempty"`
	Whole bool   `json:"whole,omitempty"`
}

// readRecord reads and checks a record that goes with so many connections.
func readRecord(file *os.File, functions []string, sockets int) (r record, err error) {
	if err := sealed(file, 0); err != nil {
		return r, err
	}
	text, err := io.ReadAll(io.NewSectionReader(file, 0, recordBytesMax))
	if err != nil {
		return r, err
	}
	return parseRecord(text, functions, sockets)
}

func parseRecord(text []byte, functions []string, sockets int) (r record, err error) {
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("its record: %w", err)
	}
	if !slices.Equal(r.Functions, functions) || len(r.Sockets) != sockets || r.OpIDs < 0 {
		return r, errors.New("its record is of something else")
	}
	for _, s := range r.Symbols {
		if s.Kind != kindSource && s.Kind != kindSink || !validName(s.Name) || !validOpID(s.OpID) {
			return r, fmt.Errorf("its record has no such symbol: %.80q", s.Name)
		}
	}
	return r, nil
}

// memory is a file with the text that is nowhere else.
func memory(text []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("patchbay-record", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "record")
	if _, err = file.Write(text); err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, sizeSeals|unix.F_SEAL_WRITE)
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// sealed returns nil when file is such memory, with at least so many bytes.
func sealed(file *os.File, least int64) error {
	seals, err := unix.FcntlInt(file.Fd(), unix.F_GET_SEALS, 0)
	if err != nil || seals&sizeSeals != sizeSeals {
		return errors.New("not sealed memory")
	}
	info, err := file.Stat()
	if err == nil && info.Size() < least {
		err = fmt.Errorf("%d bytes of memory, want %d", info.Size(), least)
	}
	return err
}
