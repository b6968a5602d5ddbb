package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// named is where an argument in parts comes from.
type named struct {
	io.Reader
	name string
}

// source is argument for one that is read in parts: nothing given is standard input.
func source(stdin io.Reader, data string) (from named, closes func(), err error) {
	name, isFile := strings.CutPrefix(data, "@")
	switch {
	case data == "" || data == "-":
		return named{stdin, "standard input"}, func() {}, nil
	case !isFile:
		return named{strings.NewReader(data), "--data"}, func() {}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return named{}, nil, usage("--data: %s", err)
	}
	return named{f, name}, func() { f.Close() }, nil
}

// part is one JSON value, or why there is none.
type part struct {
	value []byte
	err   error
}

// partsOf reads JSON values, one when it is asked for. A reader that waits for its
// terminal cannot be told to stop: the goroutine behind it then ends with the process.
func partsOf(from named) func(context.Context) ([]byte, error) {
	v := values{from: from, bounded: &io.LimitedReader{R: from}}
	v.decoder = json.NewDecoder(v.bounded)
	return func(ctx context.Context) ([]byte, error) {
		got := make(chan part, 1)
		go func() { got <- v.next() }() // ends with the value
		select {
		case p := <-got:
			return p.value, p.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// values are read one by one.
type values struct {
	from    named
	bounded *io.LimitedReader
	decoder *json.Decoder
	count   int
}

func (v *values) next() part {
	v.count++
	v.bounded.N = plugin.PayloadBytesMax + 1
	var value json.RawMessage
	err := v.decoder.Decode(&value)
	switch {
	case err == nil && len(value) <= plugin.PayloadBytesMax:
		return part{value: value}
	case errors.Is(err, io.EOF):
		return part{err: io.EOF}
	case v.bounded.N <= 0 || err == nil:
		err = fmt.Errorf("has more than %d bytes, the most that a part may have", plugin.PayloadBytesMax)
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("it is cut off")
	}
	return part{err: usage("%s: value %d: %s", v.from.name, v.count, err)}
}
