package logs

import (
	"errors"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// ship publishes batches in order until none is left. One goroutine at a time
// does it for a log.
func (l *Log) ship() {
	for {
		b := l.next()
		if b == nil {
			return
		}
		ticket := l.hub.order.begin()
		sequence, err := l.hub.options.Publish(plugin.LogBatch{
			Plugin: l.plugin, Instance: l.instance, Stream: b.stream.name, Lines: b.lines, Upto: b.upto,
			Keep: l.settings.now(l, time.Now()).Keep,
		})
		if err == nil {
			l.done(b, ticket, sequence)
			continue
		}
		l.hub.order.end(ticket, 0, nil, l.hub.tell) // others may have waited for it
		l.tellEarly()
		if !l.pause() {
			l.abandon()
			return
		}
	}
}

// tellEarly shows followers everything that the bus does not take now, without
// IDs.
func (l *Log) tellEarly() {
	l.mu.Lock()
	var early [][]plugin.LogLine
	for _, b := range l.queue {
		if b.told {
			continue
		}
		b.told = true // and complete: what comes now is told with another
		if b.stream.open == b {
			b.stream.open = nil
		}
		early = append(early, b.lines)
	}
	l.room.Broadcast() // a flood is noticed by those who wait
	l.mu.Unlock()
	for _, lines := range early {
		l.hub.tell(0, lines)
	}
}

// next waits until the oldest batch is full, old enough, or must go because
// nothing more will come. It returns nil, and the goroutine is over, when none is left.
func (l *Log) next() *batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if len(l.queue) == 0 {
			l.shipping = false
			l.tellShipped()
			return nil
		}
		b := l.queue[0]
		left := batchAgeMax - time.Since(b.began)
		if b.stream.open != b || left <= 0 || b.told || l.shipped != nil {
			if b.stream.open == b {
				b.stream.open = nil
			}
			return b
		}
		l.mu.Unlock()
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-l.hurry:
		}
		timer.Stop()
		l.mu.Lock()
	}
}

// done tells the followers of a stored batch, and frees what it held; its part of
// the file is freed later.
func (l *Log) done(b *batch, ticket, sequence uint64) {
	var lines []plugin.LogLine
	if !b.told {
		lines = b.lines
	}
	l.hub.order.end(ticket, sequence, lines, l.hub.tell)
	l.mu.Lock()
	l.queue[0] = nil
	l.queue = l.queue[1:]
	l.queued -= len(b.lines)
	l.bytes -= b.bytes
	b.stream.stored = b.lines[len(b.lines)-1].Sequence
	if file := b.stream.file; file != nil {
		file.acknowledged(place{b.upto, b.stream.stored})
	}
	l.room.Broadcast()
	l.mu.Unlock()
}

// pause waits before a failed batch is tried again; false means that the log has
// been closing for too long.
func (l *Log) pause() bool {
	timer := time.NewTimer(retryEvery)
	defer timer.Stop()
	l.mu.Lock()
	abandoned := l.abandoned()
	l.mu.Unlock()
	if abandoned {
		return false
	}
	<-timer.C
	return true
}

// abandoned reports that Close has given up waiting. The caller holds mu.
func (l *Log) abandoned() bool { return !l.giveUpAt.IsZero() && !time.Now().Before(l.giveUpAt) }

// abandon gives up what is queued.
func (l *Log) abandon() {
	l.mu.Lock()
	defer l.mu.Unlock()
	lost := 0
	for _, b := range l.queue {
		switch {
		case l.putsAside(b.stream):
			b.stream.waits = true
		case l.ending == gone && l.hub.options.AsideDir != "":
			b.stream.saved = append(b.stream.saved, b.lines...)
		case l.ending == gone || b.stream.file == nil: // the next daemon reads the file
			lost += len(b.lines)
		}
	}
	l.queue, l.queued, l.bytes, l.shipping = nil, 0, 0, false
	for _, s := range l.streams {
		s.open = nil
	}
	l.tellShipped()
	l.room.Broadcast()
	l.hub.lost(l.plugin, l.instance, lost, errAway)
}

var errAway = errors.New("it was away for too long")

// tellShipped tells Close that nothing is queued. The caller holds mu.
func (l *Log) tellShipped() {
	if l.shipped != nil {
		close(l.shipped)
		l.shipped = nil
	}
}

// ending says what is left of the instance when its log ends.
type ending int

const (
	gone ending = iota // nothing: this was all that it printed
	left               // it runs on: the next daemon reads on
)

// Close ships what was written before, waiting at most closeMax for the bus, puts
// aside what is left then, and frees files and goroutines. Tail and Stdout still
// answer. Closing twice is harmless.
func (l *Log) Close() { l.end(gone) }

// Leave is Close for an instance that is left running: what was read is shipped,
// a line that has begun and not ended is not, and the files stay as they are for
// Hub.Resume. So a writer that is not resumed loses the beginning of such a line.
func (l *Log) Leave() { l.end(left) }

func (l *Log) end(how ending) {
	l.mu.Lock()
	if l.closed() {
		l.mu.Unlock()
		return
	}
	l.giveUpAt, l.ending = time.Now().Add(closeMax), how
	files, writers := l.parts()
	close(l.closing)
	l.room.Broadcast()
	l.mu.Unlock()
	stop := time.AfterFunc(closeMax, l.room.Broadcast) // wakes whoever waits for room
	defer stop.Stop()
	for _, f := range files {
		f.finish()
	}
	for _, s := range writers {
		s.writing.Lock()
		l.finish(s, how)
		s.writing.Unlock()
	}
	l.mu.Lock()
	shipped := make(chan struct{})
	l.shipped = shipped // from here on nothing waits for others
	poke(l.hurry)
	if !l.shipping {
		l.tellShipped()
	}
	l.mu.Unlock()
	<-shipped
	if how == gone {
		l.putAside(files)
	}
	for _, f := range files {
		f.close(how)
	}
	l.hub.forget(l)
	l.tellDropped()
}

// tellDropped says what no line comes after to tell of.
func (l *Log) tellDropped() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.streams {
		if s.dropped > 0 && !s.waits { // what waits tells
			l.hub.options.Log.Warn("the last lines of a plugin were dropped", "plugin", l.plugin, "instance", l.instance, "stream", s.name, "lines", s.dropped)
			if l.hub.options.Lost != nil {
				l.hub.options.Lost(l.plugin, s.dropped)
			}
		}
	}
}

// finish takes the last line of a writer, which was never ended, and a stack trace
// that may have gone on. The caller holds s.writing.
func (l *Log) finish(s *stream, how ending) {
	if how == gone && s.skip == 0 {
		s.cutter.finish(func(text []byte, cut bool) { l.add(s, printed{text: text, cut: cut, at: time.Now()}, dropOldest) })
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.file == nil {
		l.unfold(s, dropOldest)
	}
}

func (l *Log) parts() (files []*follower, writers []*stream) {
	for _, s := range l.streams {
		if s.file != nil {
			files = append(files, s.file)
		}
		writers = append(writers, s)
	}
	return files, writers
}

var _ plugin.Output = (*Log)(nil)
