package container

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// frameHeaderBytes precede each record: its stream, three zeros, its length.
	frameHeaderBytes = 8
	// recordBytesMax is far more than the 16 KiB at which engines cut a line.
	recordBytesMax = 1 << 20
)

// record is one entry of the engine's own log: a line, or a piece of a long one.
type record struct {
	at     time.Time // the engine's; pieces of one line have the same
	stream plugin.LogStream
	text   []byte // with the newline that ends a line; valid until the next record
}

// part says which of the engine's records are wanted: those from since on, and
// of these the last tail, if it is not 0.
type part struct {
	since time.Time
	tail  int
}

// recorded hands the records that the engine has now to take, until it returns
// false. It does not follow: engines lose most of a burst when they rotate a log
// that is followed.
func (i *instance) recorded(ctx context.Context, p part, take func(record) bool) error {
	o := container.LogsOptions{ShowStdout: true, ShowStderr: true, Timestamps: true}
	if !p.since.IsZero() {
		o.Since = p.since.UTC().Format(time.RFC3339Nano)
	}
	if p.tail > 0 {
		o.Tail = strconv.Itoa(p.tail)
	}
	body, err := i.engine.ContainerLogs(ctx, i.id, o)
	if err != nil {
		return class("engine's log", err)
	}
	defer body.Close()
	return records(body, take)
}

// records reads the engine's form of a log with timestamps.
func records(from io.Reader, take func(record) bool) error {
	r := bufio.NewReader(from)
	var header [frameHeaderBytes]byte
	var data []byte
	for {
		switch _, err := io.ReadFull(r, header[:]); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return class("engine's log", err)
		}
		size := int(binary.BigEndian.Uint32(header[4:]))
		if size > recordBytesMax {
			return fmt.Errorf("engine's log: %w: a record of %d bytes", plugin.ErrInvalid, size)
		}
		data = slices.Grow(data[:0], size)[:size]
		if _, err := io.ReadFull(r, data); err != nil {
			return class("engine's log", err)
		}
		one, err := parseRecord(stdcopy.StdType(header[0]), data)
		if err != nil {
			return err
		}
		if !take(one) {
			return nil
		}
	}
}

func parseRecord(kind stdcopy.StdType, data []byte) (record, error) {
	r := record{stream: plugin.Stdout}
	switch kind {
	case stdcopy.Stdout:
	case stdcopy.Stderr:
		r.stream = plugin.Stderr
	default: // the engine's own words, such as why it cannot read on
		return r, fmt.Errorf("engine's log: %w: stream %d: %.200q", plugin.ErrUnavailable, kind, data)
	}
	stamp, text, _ := bytes.Cut(data, []byte{' '})
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return r, fmt.Errorf("engine's log: %w: a record without a time: %.100q", plugin.ErrInvalid, data)
	}
	r.at, r.text = at, text
	return r, nil
}
