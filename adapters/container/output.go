package container

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// lastBytesMax is how much of the output is kept for the error of a launch
	// that ends early: a screenful of a stack trace.
	lastBytesMax = 2 << 10
	// tailBytesMax is how much of a stream's end is compared with the engine's log.
	tailBytesMax = 256
	// heldBytesMax bounds what one stream holds back while the engine's log is
	// read. A flood beyond it waits, for as long as that takes.
	heldBytesMax = 8 << 20
)

// flow says what becomes of what a connection brings.
type flow int

const (
	passing  flow = iota // it is taken
	holding              // it is kept until what came before has been read
	ignoring             // it will be read from the engine's log
)

// output takes what the container prints, from connections and from the engine's
// log, and knows how far it is.
type output struct {
	streams map[plugin.LogStream]*sink // stdout and stderr; not changed
	note    io.Writer                  // for what is to be said about the output
	resumer plugin.Resumer             // nil: nobody remembers lines
	dir     string                     // of the position's file; "" keeps none
	secrets []string                   // values that must not show up in an error

	over chan struct{} // closed when the container has ended

	mu   sync.Mutex
	room sync.Cond // of mu: told when flow changes
	flow flow
	mark time.Time // see position
	seen time.Time
	last []byte
}

// sink is one stream. Its fields are guarded by output.mu.
type sink struct {
	o    *output
	to   io.Writer
	at   place
	had  uint64 // lines that an earlier daemon took
	tail []byte // the last bytes taken
	held []byte
}

func newOutput(l plugin.Launch) *output {
	o := &output{
		over: make(chan struct{}), note: l.Output.Writer(plugin.PluginLog), streams: map[plugin.LogStream]*sink{},
	}
	o.room.L = &o.mu
	for _, name := range []plugin.LogStream{plugin.Stdout, plugin.Stderr} {
		o.streams[name] = &sink{o: o, to: l.Output.Writer(name)}
	}
	if l.Manifest.Spec.Detached() {
		o.dir = l.Dir
		o.resumer, _ = l.Output.(plugin.Resumer)
	}
	for name, v := range l.Manifest.Spec.Env {
		if v.Secret != "" && l.Env[name] != "" {
			o.secrets = append(o.secrets, l.Env[name])
		}
	}
	return o
}

func (o *output) end() { close(o.over) }

// restore goes on where an earlier daemon stopped. The core knows to the line
// what it has; one that does not remember is given what the file says.
func (o *output) restore() {
	p := loadPosition(o.dir)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mark, o.seen, o.flow = p.Mark, p.Seen, holding
	for name, at := range map[plugin.LogStream]place{plugin.Stdout: p.Stdout, plugin.Stderr: p.Stderr} {
		s := o.streams[name]
		s.at = at
		if o.resumer != nil {
			s.had, s.at.Bytes = o.resumer.Lines(name), 0
			o.resumer.Resume(name, at.Lines)
		}
	}
}

// Write takes what a connection brings.
func (s *sink) Write(p []byte) (int, error) {
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	for s.o.flow == holding && len(s.held) >= heldBytesMax {
		s.o.room.Wait()
	}
	switch s.o.flow {
	case passing:
		s.take(p)
	case holding:
		s.held = append(s.held, p...)
	case ignoring:
	}
	return len(p), nil
}

// take hands on. The caller holds mu, so that what is counted here and what the
// core counts agree whenever somebody looks.
func (s *sink) take(p []byte) {
	if len(p) == 0 {
		return
	}
	_, _ = s.to.Write(p) // returns no error
	s.at.Bytes += uint64(len(p))
	s.tail = keepLast(s.tail, p, tailBytesMax)
	s.o.last = keepLast(s.o.last, p, lastBytesMax)
	s.o.seen = time.Now()
}

func keepLast(kept, p []byte, most int) []byte {
	kept = append(kept, p[max(0, len(p)-most):]...)
	return append(kept[:0], kept[max(0, len(kept)-most):]...)
}

// setFlow changes what becomes of what connections bring; what was held is dropped.
func (o *output) setFlow(f flow) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flow = f
	for _, s := range o.streams {
		s.held = nil
	}
	o.room.Broadcast()
}

// join puts what the engine's log has of the time since the connection was made
// before what the connection brought, less what is in both, and lets it pass.
// Unless it must, it refuses when the two do not meet yet: one may still lag.
func (o *output) join(late map[plugin.LogStream][]byte, must bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	before := map[plugin.LogStream]int{}
	for name, s := range o.streams {
		var met bool
		if before[name], met = overlap(late[name], s.held); !met && !must {
			return false
		}
	}
	for name, s := range o.streams {
		s.take(late[name][:before[name]])
		s.take(s.held)
		s.held = nil
	}
	o.flow = passing
	o.room.Broadcast()
	return true
}

// reached returns the position. Its lines hold for the mark.
func (o *output) reached() position {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.position()
}

func (o *output) position() position {
	return position{Mark: o.mark, Stdout: o.streams[plugin.Stdout].at, Stderr: o.streams[plugin.Stderr].at, Seen: o.seen}
}

func (o *output) save() {
	if o.dir != "" {
		o.reached().save(o.dir)
	}
}

// markFirst marks r, from which on all is to be taken, if nothing is marked.
func (o *output) markFirst(r record) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mark.IsZero() || o.mark.Equal(nowhere) {
		o.mark = r.at
	}
}

// markLast moves the mark to the log's last record, if nothing was printed since
// the position was p and that record is the last thing that was taken.
func (o *output) markLast(p position, r record) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.streams[r.stream]
	same := min(len(s.tail), len(r.text))
	if o.flow != passing || o.position() != p || !bytes.Equal(s.tail[len(s.tail)-same:], r.text[len(r.text)-same:]) {
		return
	}
	for name, each := range o.streams {
		if n := len(each.tail); n > 0 && each.tail[n-1] != '\n' {
			return // a line is begun, and the log does not have it
		}
		each.at = place{Lines: o.lines(name)}
	}
	if o.resumer != nil {
		s.at.Lines-- // the record itself comes after the mark
	}
	s.at.Bytes = uint64(len(r.text))
	o.mark = r.at
}

func (o *output) lines(name plugin.LogStream) uint64 {
	if o.resumer == nil {
		return 0
	}
	return o.resumer.Lines(name)
}

// lacks reports whether an earlier daemon took more lines of a stream than a log
// has that should have them all.
func (o *output) lacks(lines map[plugin.LogStream]uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for name, s := range o.streams {
		if s.had > lines[name] {
			return true
		}
	}
	return false
}

// lost says that the log no longer has the mark, and begins anew behind the lines
// that the core has.
func (o *output) lost() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for name, s := range o.streams {
		s.at = place{Lines: max(s.had, o.lines(name))}
		if o.resumer != nil {
			o.resumer.Resume(name, s.at.Lines)
		}
	}
	o.mark = nowhere
	_, _ = io.WriteString(o.note, "output is missing here, and it is not known how many lines: the engine rotated its log while nobody read it\n")
}

// words are the last bytes printed, on one line, without secrets.
func (o *output) words() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	text := strings.ToValidUTF8(string(o.last), "")
	for _, secret := range o.secrets {
		text = strings.ReplaceAll(text, secret, "***")
	}
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", " | ")
}
