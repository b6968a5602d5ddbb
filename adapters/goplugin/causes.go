package goplugin

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// What net/rpc's server prints before it closes a stream because gob cannot
// encode an answer; mostly, what follows says which type is not registered.
const (
	encodingFailed = "rpc: gob error encoding body: "
	notRegistered  = "gob: type not registered for interface: "
)

const (
	// lookBytesMax is how far back standard error is read for it. The line is
	// printed just before the stream ends; what the core has shipped it keeps for
	// 32 KiB at least.
	lookBytesMax = 256 << 10
	// causesMax bounds the lines that are remembered: far more than calls that
	// fail at once.
	causesMax = 256
	// causeBytesMax bounds what is kept of a line.
	causeBytesMax = 500
	// lateMost is how long a line is waited for that comes by another way than the
	// file, as when the plugin made os.Stderr its log's output.
	lateMost = 50 * time.Millisecond
)

// A cause is why one answer could not be encoded.
type cause struct {
	number int64
	class  string // the Go type of an error; empty when it is something else
	text   string
	taken  bool
}

// causes finds in what the plugin prints why a stream ended. The server prints
// the line, then closes the stream: who sees the end finds the line. It is
// safe for concurrent use, and owns nothing open.
type causes struct {
	open func() (*os.File, error)
	// last is the number of the last line found.
	last atomic.Int64
	// doubt: a call was given up whose line may come, and is nobody's.
	doubt atomic.Bool

	mu    sync.Mutex
	read  int64 // of the file, up to the end of a line
	found []*cause
	more  chan struct{} // closed and replaced when a line was found
}

// newCauses begins at the end of what is printed by now.
func newCauses(open func() (*os.File, error)) *causes {
	c := &causes{open: open, more: make(chan struct{})}
	if f, err := open(); err == nil {
		c.read, _ = f.Seek(0, io.SeekEnd)
		_ = f.Close()
	}
	return c
}

// openStderr opens the file of the plugin's standard error for reading.
func (p *process) openStderr() (*os.File, error) {
	name := p.stderr.Path
	if name == "" { // adopted
		f, err := p.launch.Output.File(plugin.Stderr)
		if err != nil {
			return nil, err
		}
		name = f.Name()
		_ = f.Close() // nothing was written
	}
	return os.Open(name)
}

// mark is taken before a call: only lines after it can be about that call.
func (c *causes) mark() int64 {
	if c.doubt.Load() && c.doubt.Swap(false) {
		c.mu.Lock()
		c.look()
		c.mu.Unlock()
	}
	return c.last.Load()
}

// givenUp says that a call is not waited for any more.
func (c *causes) givenUp() { c.doubt.Store(true) }

// since returns the causes of the calls that failed since mark, of which one is
// the caller's: one of each class. A single one is the caller's for certain, and is
// not given to another.
func (c *causes) since(mark int64) []cause {
	late := time.NewTimer(lateMost)
	defer late.Stop()
	for {
		c.mu.Lock()
		c.look()
		classes := c.choose(mark)
		more := c.more
		c.mu.Unlock()
		if len(classes) > 0 {
			return classes
		}
		select {
		case <-more:
		case <-late.C:
			return nil
		}
	}
}

// choose is called with mu held.
func (c *causes) choose(mark int64) (classes []cause) {
	var mine *cause
next:
	for _, one := range c.found {
		if one.number <= mark || one.taken {
			continue
		}
		for _, known := range classes {
			if known.class == one.class && (one.class != "" || known.text == one.text) {
				continue next
			}
		}
		classes = append(classes, *one)
		mine = one
	}
	if len(classes) == 1 {
		mine.taken = true
	}
	return classes
}

// look reads what was printed to the file since the last time. It is called with
// mu held.
func (c *causes) look() {
	f, err := c.open()
	if err != nil {
		return // its folder is gone, and the plugin with it
	}
	defer func() { _ = f.Close() }()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || size <= c.read {
		return
	}
	c.read = max(c.read, size-lookBytesMax)
	data, _ := io.ReadAll(io.NewSectionReader(f, c.read, size-c.read))
	whole := bytes.LastIndexByte(data, '\n') + 1
	c.read += int64(whole)
	for line := range bytes.Lines(data[:whole]) {
		c.line(line)
	}
}

// line takes in a line, which matters seldom. It is called with mu held.
func (c *causes) line(line []byte) {
	_, rest, ok := bytes.Cut(line, []byte(encodingFailed))
	if !ok {
		return
	}
	// The line may be the text of a log in JSON.
	rest, _, _ = bytes.Cut(bytes.TrimRight(rest, "\r\n"), []byte(`"`))
	one := &cause{text: string(rest[:min(len(rest), causeBytesMax)])}
	if class, ok := strings.CutPrefix(one.text, notRegistered); ok {
		one.class = class
	}
	one.number = c.last.Add(1)
	if len(c.found) == causesMax {
		c.found = append(c.found[:0], c.found[1:]...)
	}
	c.found = append(c.found, one)
	close(c.more)
	c.more = make(chan struct{})
}

// tee returns a writer that hands on to w and looks at the lines.
func (c *causes) tee(w io.Writer) io.Writer { return &tee{causes: c, w: w} }

// tee looks at lines that come through the connection.
type tee struct {
	*causes
	w       io.Writer
	partial []byte
}

func (t *tee) Write(p []byte) (int, error) {
	n, err := t.w.Write(p)
	for part := range bytes.Lines(p) {
		if len(t.partial)+len(part) <= lookBytesMax {
			t.partial = append(t.partial, part...)
		}
		if part[len(part)-1] != '\n' {
			break
		}
		if bytes.Contains(t.partial, []byte(encodingFailed)) {
			t.mu.Lock()
			t.line(t.partial)
			t.mu.Unlock()
		}
		t.partial = t.partial[:0]
	}
	return n, err
}
