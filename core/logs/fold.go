package logs

import (
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// foldWait is how long a stack trace waits for more of it: programs print one in
// a few writes.
const foldWait = 100 * time.Millisecond

// fold is a stack trace that becomes one line. Its lines are counted as they come;
// what is stored ends before it until it is over, so that the next daemon reads
// all of it again. It is guarded by Log.mu.
type fold struct {
	trace trace
	text  []byte // of at most plugin.LogLineBytesMax
	lines uint64 // in text
	whole bool   // nothing of it was taken before text
	at    time.Time
	// What the last line of text had.
	last     time.Time
	upto     int64
	sequence uint64
	dropped  uint64 // before and between its lines
	timer    *time.Timer
}

// folds takes a line if it belongs to a stack trace. It ends the one before that
// it does not belong to.
func (l *Log) folds(s *stream, p printed, begins trace, full policy) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := s.fold; f != nil {
		if !p.cut && f.trace.takes(p.text) {
			l.unfoldFull(s, len(p.text), full)
			l.append(s, p)
			return true
		}
		l.unfold(s, full)
	}
	if begins == nil || l.again() {
		return false
	}
	f := &fold{trace: begins, whole: true, at: p.at}
	s.fold = f
	s.folding.Store(true)
	l.append(s, p)
	f.timer = time.AfterFunc(foldWait, func() { l.foldOver(s, f) }) // stopped by unfold
	return true
}

// append puts a line into the fold. The caller holds mu.
func (l *Log) append(s *stream, p printed) {
	f := s.fold
	if f.lines > 0 {
		f.text = append(f.text, '\n')
	}
	f.text = append(f.text, p.text...)
	f.lines++
	s.sequence++
	f.last, f.upto, f.sequence = p.at, p.upto, s.sequence
	f.dropped += s.dropped
	s.dropped = 0
}

// unfoldFull queues what is folded when there is no room in it for a line; the
// trace goes on. The caller holds mu.
func (l *Log) unfoldFull(s *stream, size int, full policy) {
	f := s.fold
	if len(f.text)+1+size <= plugin.LogLineBytesMax {
		return
	}
	line := l.record(s)
	line.Truncated = true
	upto := f.upto
	f.text, f.lines, f.dropped, f.whole = f.text[:0], 0, 0, false
	if full == waitForRoom && l.crowded() {
		s.fold = nil // whoever looks meanwhile finds nothing
		l.awaitRoom(s)
		s.fold = f
	}
	f.timer.Reset(foldWait)
	if !l.again() {
		l.take(s, line, upto, full)
	}
}

// unfold ends the fold and queues it. The caller holds mu.
func (l *Log) unfold(s *stream, full policy) {
	f := s.fold
	if f == nil {
		return
	}
	line := l.record(s)
	s.fold = nil
	s.folding.Store(false)
	f.timer.Stop()
	if full == waitForRoom && l.crowded() {
		l.awaitRoom(s)
	}
	if f.lines > 0 && !l.again() {
		l.take(s, line, f.upto, full)
	}
}

// foldOver ends a fold that got no more lines. One whose file must wait for room
// stays: its reader does not wait for us.
func (l *Log) foldOver(s *stream, f *fold) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.fold != f || l.closed() {
		return // Close ends it
	}
	left := foldWait - time.Since(f.last)
	switch {
	case left > 0:
		f.timer.Reset(left)
	case s.file != nil && l.crowded():
		f.timer.Reset(foldWait)
	default:
		l.unfold(s, dropOldest)
	}
}

// record is what the fold holds, as one line. One that is a single line after all,
// and no fault by itself, is lifted as any. The caller holds mu.
func (l *Log) record(s *stream) plugin.LogLine {
	f := s.fold
	p := printed{text: f.text, at: f.at}
	if f.whole && f.lines <= 1 && !f.trace.fault() {
		line := l.line(s, p)
		line.Sequence, line.Dropped = f.sequence, f.dropped
		return line
	}
	line := plugin.LogLine{
		Time: f.at, Plugin: l.plugin, Instance: l.instance, Stream: s.name, Level: "error", Message: valid(f.text),
		Sequence: f.sequence, Dropped: f.dropped,
	}
	if f.lines > 1 {
		line.Lines = f.lines
	}
	return line
}
