package logs

import (
	"bytes"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// cutter cuts bytes into lines. A line longer than plugin.LogLineBytesMax is
// handed on in pieces, all but the last marked as cut.
type cutter struct {
	rest []byte // begun and not ended; at most plugin.LogLineBytesMax
	at   int64  // where what was not handed on yet begins
}

// write hands every complete line of data to line, without its end. The bytes are
// valid during the call, in which c.at is where the line's successor begins.
func (c *cutter) write(data []byte, line func(text []byte, cut bool)) {
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n')
		if end < 0 {
			c.begin(data, line)
			return
		}
		c.end(data[:end], line)
		data = data[end+1:]
	}
}

// begin keeps the start of a line that has not ended.
func (c *cutter) begin(data []byte, line func([]byte, bool)) {
	c.rest = append(c.rest, c.spill(data, line)...)
}

// end completes a line.
func (c *cutter) end(data []byte, line func([]byte, bool)) {
	data = c.spill(data, line)
	c.at += int64(len(c.rest)+len(data)) + 1
	if len(c.rest) > 0 {
		c.rest = append(c.rest, data...)
		data = c.rest
	}
	line(bytes.TrimSuffix(data, []byte{'\r'}), false)
	c.rest = c.rest[:0]
}

// spill hands on full pieces until rest and data together fit in one.
func (c *cutter) spill(data []byte, line func([]byte, bool)) []byte {
	for len(c.rest)+len(data) > plugin.LogLineBytesMax {
		room := plugin.LogLineBytesMax - len(c.rest)
		c.at += plugin.LogLineBytesMax
		line(append(c.rest, data[:room]...), true)
		c.rest, data = c.rest[:0], data[room:]
	}
	return data
}

// finish hands on a last line that was never ended.
func (c *cutter) finish(line func([]byte, bool)) {
	if len(c.rest) > 0 {
		c.at += int64(len(c.rest))
		line(c.rest, false)
		c.rest = c.rest[:0]
	}
}
