package logs

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// batchLines is a usual message. When more than pressureLines wait, messages
	// grow to batchLinesMax, so that a flood waits for fewer acknowledgements.
	batchLines, batchLinesMax, pressureLines = 256, 1024, 1024
	// batchBytesMax, one more line of 64 KiB and what encoding adds to both (six
	// bytes for one, at worst) stay within NATS's 1 MiB.
	batchBytesMax = 80 << 10
	// batchAgeMax is how long a line waits for others: less than people notice.
	batchAgeMax = 50 * time.Millisecond
	// queueLinesMax bounds what one instance keeps in memory for a bus that is
	// slow or down: some 2 MiB of usual lines.
	queueLinesMax = 16 << 10
	// queueBytesMax bounds the same for long lines, which could be 1 GiB.
	queueBytesMax = 8 << 20
	// closeMax is how long Close waits for the bus.
	closeMax = 2 * time.Second
	// retryEvery is how soon a bus that is down is tried again.
	retryEvery = 250 * time.Millisecond
)

// Log is where one instance's output goes. It is safe for concurrent use.
type Log struct {
	hub              *Hub
	plugin, instance string
	dir              string
	captureBytesMax  int
	matches          matches
	resumed          bool // an earlier daemon began it
	past             bool // it was put aside, and is shipped now
	settings         settings

	mu       sync.Mutex
	streams  map[plugin.LogStream]*stream
	ring     ring
	queue    []*batch
	queued   int           // lines in queue
	bytes    int           // of them
	shipping bool          // a goroutine ships
	hurry    chan struct{} // told when a batch is full or all must go
	room     sync.Cond     // told when queue has shrunk, or closing
	closing  chan struct{} // closed by Close
	shipped  chan struct{} // closed when nothing is queued; made by Close
	giveUpAt time.Time     // set by Close
	ending   ending        // set by Close
	bucket   bucket
}

// stream is one of an instance's streams.
type stream struct {
	name     plugin.LogStream
	sequence uint64
	backlog  int64       // printed while no daemon was there: up to here no rate holds
	stored   uint64      // the last sequence that the bus has acknowledged
	dropped  uint64      // since the last line
	fold     *fold       // a stack trace that may go on; nil: none
	folding  atomic.Bool // fold is not nil; set by the stream's only writer
	open     *batch      // the last of queue, if it is this stream's and not full
	file     *follower
	cutter   cutter // of writes
	writing  sync.Mutex
	skip     uint64 // lines to come that are kept already
	captured []byte
	recalled sync.Once        // sequence is that of the earlier daemon
	waits    bool             // the bus did not take all of the file before the end
	saved    []plugin.LogLine // of a writer: what the bus did not take before the end
}

// batch is lines that travel as one message.
type batch struct {
	stream *stream
	lines  []plugin.LogLine
	bytes  int
	began  time.Time
	upto   int64 // the file is read to here once this is stored: behind the last line
	told   bool  // followers have it, without IDs
}

// full reports whether a batch travels as it is, with so many lines waiting.
func (b *batch) full(waiting int) bool {
	lines := batchLines
	if waiting > pressureLines {
		lines = batchLinesMax
	}
	return len(b.lines) >= lines || b.bytes >= batchBytesMax
}

// File opens a stream for a child process.
func (l *Log) File(name plugin.LogStream) (*os.File, error) {
	path := filepath.Join(l.dir, string(name)+".log")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stream(name)
	if s.file == nil && !l.closed() {
		if err := l.follow(s, path); err != nil {
			_ = file.Close() // nothing was written
			return nil, err
		}
	}
	return file, nil
}

// Writer takes a stream of something in the daemon or behind a connection.
func (l *Log) Writer(name plugin.LogStream) io.Writer {
	return writer{l, l.recall(name)}
}

// stream returns a stream's record. The caller holds mu.
func (l *Log) stream(name plugin.LogStream) *stream {
	s := l.streams[name]
	if s == nil {
		if l.streams == nil {
			l.streams = map[plugin.LogStream]*stream{}
			l.hurry, l.room.L = make(chan struct{}, 1), &l.mu
			l.hub.seen(l)
		}
		s = &stream{name: name}
		l.streams[name] = s
	}
	return s
}

func (l *Log) closed() bool {
	select {
	case <-l.closing:
		return true
	default:
		return false
	}
}

type writer struct {
	log    *Log
	stream *stream
}

// Write takes bytes; it never fails and never waits for the bus.
func (w writer) Write(data []byte) (int, error) {
	w.stream.writing.Lock()
	defer w.stream.writing.Unlock()
	if w.log.closed() {
		return len(data), nil
	}
	if room := w.log.captureBytesMax + 1 - len(w.stream.captured); w.log.captureBytesMax > 0 && room > 0 && w.stream.name == plugin.Stdout {
		w.stream.captured = append(w.stream.captured, data[:min(len(data), room)]...)
	}
	now := time.Now()
	w.stream.cutter.write(data, func(text []byte, cut bool) {
		if w.stream.skip > 0 {
			w.stream.skip--
			return
		}
		w.log.add(w.stream, printed{text: text, cut: cut, at: now}, dropOldest)
	})
	return len(data), nil
}

// valid makes bytes a text; what is not UTF-8 becomes U+FFFD.
func valid(text []byte) string {
	if utf8.Valid(text) {
		return string(text)
	}
	return strings.ToValidUTF8(string(text), "\uFFFD")
}

// policy says what happens to a line when the queue is full.
type policy int

const (
	dropOldest  policy = iota // a writer must not wait
	waitForRoom               // a file keeps what is not read yet
)

// printed is one line as a plugin printed it.
type printed struct {
	text []byte // valid during the call
	cut  bool
	at   time.Time
	upto int64 // where the next one begins in the file
}

// line makes a line of what was printed.
func (l *Log) line(s *stream, p printed) plugin.LogLine {
	line := plugin.LogLine{
		Time: p.at, Plugin: l.plugin, Instance: l.instance, Stream: s.name,
		Message: valid(p.text), Truncated: p.cut,
	}
	lift(&line, p.at)
	return line
}

// add takes one line. A stream has one caller at a time.
func (l *Log) add(s *stream, p printed, full policy) {
	if rate := l.settings.now(l, p.at).LineRate; rate > 0 && !l.allow(s, p, rate) {
		return
	}
	if trace := traceOf(p); (trace != nil || s.folding.Load()) && l.folds(s, p, trace, full) {
		return
	}
	line := l.line(s, p)
	l.mu.Lock()
	defer l.mu.Unlock()
	if full == waitForRoom && l.crowded() {
		l.awaitRoom(s)
	}
	if l.again() {
		return
	}
	s.sequence++
	line.Sequence, line.Dropped = s.sequence, s.dropped
	s.dropped = 0
	l.take(s, line, p.upto, full)
}

// again reports that lines of files are the next daemon's from now on. The caller
// holds mu.
func (l *Log) again() bool { return l.ending == left && l.abandoned() }

// take queues a line, or counts it as dropped when there is no room. The caller
// holds mu.
func (l *Log) take(s *stream, line plugin.LogLine, upto int64, full policy) {
	l.ring.push(line)
	l.matches.look(line.Message)
	if l.putsAside(s) {
		s.waits = true
		return
	}
	if !l.makeRoom(full) {
		s.dropped += line.Dropped + max(1, line.Lines)
		return
	}
	l.enqueue(s, line, upto)
}

// awaitRoom keeps a file's reader until there is room, or it must go on. The time
// it waits is not held against the plugin. The caller holds mu.
func (l *Log) awaitRoom(s *stream) {
	began := time.Now()
	for l.crowded() && !l.abandoned() && !s.file.flooded() {
		l.room.Wait()
	}
	l.bucket.waited += time.Since(began)
}

func (l *Log) crowded() bool { return l.queued >= queueLinesMax || l.bytes >= queueBytesMax }

// enqueue puts a line into its stream's open batch, or a new one.
func (l *Log) enqueue(s *stream, line plugin.LogLine, upto int64) {
	b := s.open
	if b == nil {
		room := 8
		if l.queued >= batchLines { // a flood: it will be full
			room = batchLines
		}
		// Now, and not by the line's time: that is what the plugin says, or when a
		// read began that may take longer than a batch.
		b = &batch{stream: s, began: time.Now(), lines: make([]plugin.LogLine, 0, room)}
		s.open = b
		l.queue = append(l.queue, b)
	}
	b.lines, b.upto = append(b.lines, line), upto
	size := sizeOf(&line)
	b.bytes += size
	l.bytes += size
	l.queued++
	if b.full(l.queued) {
		s.open = nil
		poke(l.hurry)
	}
	if !l.shipping {
		l.shipping = true
		go l.ship() // ends when nothing is queued; Close waits for it
	}
}

// makeRoom gives up the oldest batches, but not the first, which may be on its way.
// A writer may not crowd out what a file could still keep: false, if there is
// nothing else.
func (l *Log) makeRoom(full policy) bool {
	for i := 1; l.crowded(); {
		switch {
		case i >= len(l.queue):
			return false
		case full == dropOldest && l.queue[i].stream.file != nil:
			i++
		default:
			l.drop(i)
		}
	}
	return true
}

// drop gives up a batch. The next line of its stream tells.
func (l *Log) drop(i int) {
	b, lost := l.queue[i], uint64(0)
	for _, line := range b.lines {
		lost += max(1, line.Lines) + line.Dropped
	}
	l.queue = slices.Delete(l.queue, i, i+1)
	l.queued -= len(b.lines)
	l.bytes -= b.bytes
	if b.stream.open == b {
		b.stream.open = nil
	}
	for _, next := range l.queue[i:] {
		if next.stream == b.stream {
			next.missed(lost)
			return
		}
	}
	b.stream.dropped += lost
}

func (b *batch) missed(lost uint64) {
	if b.told {
		b.lines = slices.Clone(b.lines) // followers read the others
	}
	b.lines[0].Dropped += lost
}

// recent returns the last n lines that are complete.
func (l *Log) recent(n int) []plugin.LogLine {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ring.last(n)
}

// Tail returns the last n lines, oldest first, and at the end stack traces that may
// go on.
func (l *Log) Tail(n int) []plugin.LogLine {
	l.mu.Lock()
	defer l.mu.Unlock()
	n = max(0, n)
	lines := l.ring.last(n)
	for _, s := range l.streams {
		if s.fold != nil {
			lines = append(lines, l.record(s))
		}
	}
	return lines[max(0, len(lines)-n):]
}

// Stdout returns what a job printed to stdout, at most bytesMax bytes, and
// whether that is all.
func (l *Log) Stdout(bytesMax int) (data []byte, whole bool) {
	l.mu.Lock()
	s := l.streams[plugin.Stdout]
	isFile := s != nil && s.file != nil
	l.mu.Unlock()
	if s == nil {
		return nil, true
	}
	if isFile {
		return readHead(filepath.Join(l.dir, string(plugin.Stdout)+".log"), bytesMax)
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.captured[:min(bytesMax, len(s.captured))], len(s.captured) <= bytesMax
}

func readHead(path string, bytesMax int) ([]byte, bool) {
	file, err := os.Open(path)
	if err != nil {
		return nil, false
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, int64(bytesMax)+1))
	return data[:min(bytesMax, len(data))], err == nil && len(data) <= bytesMax
}
