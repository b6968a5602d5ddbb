package logs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// lastMax bounds one question for the place in the log, and so how much longer
	// Close takes when the bus hangs.
	lastMax = 2 * time.Second
	// recallTries is how often the bus is asked for the place of a writer, which
	// must know it before it takes anything: longer than a link takes to be
	// made anew.
	recallTries = 5
)

// Resume goes on with the log of an instance that an earlier daemon left, or died
// from: files in dir are read on behind the last line that is stored, lines are
// counted on, and Tail begins with what was printed last before.
func (h *Hub) Resume(name, instance, dir string, captureBytesMax int) *Log {
	l := h.Open(name, instance, dir, captureBytesMax)
	l.goOn()
	return l
}

// goOn follows the files that are there already.
func (l *Log) goOn() {
	l.resumed = true
	if l.dir == "" {
		return
	}
	for _, stream := range logStreams {
		path := filepath.Join(l.dir, string(stream)+".log")
		if _, err := os.Stat(path); err != nil {
			continue // it has no such file
		}
		l.mu.Lock()
		if err := l.follow(l.stream(stream), path); err != nil {
			l.hub.options.Log.Warn("a plugin's output cannot be read", "plugin", l.plugin, "instance", l.instance, "error", err)
		}
		l.mu.Unlock()
	}
}

// leaves reports that the next daemon reads on.
func (l *Log) leaves() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed() && l.ending == left
}

// resume finds the place of a file that an earlier daemon has read from, and tries
// until the bus answers: the file keeps what comes meanwhile. False means that the
// log was closed before, or that the file cannot be read.
func (f *follower) resume() bool {
	if !f.log.resumed {
		return true
	}
	at, lost, err := f.log.place(f.stream.name)
	for ; err != nil; at, lost, err = f.log.place(f.stream.name) {
		timer := time.NewTimer(retryEvery)
		select {
		case <-timer.C:
		case <-f.stop:
			timer.Stop()
			f.log.hub.options.Log.Warn("a plugin's last lines were not read: the bus does not tell where to go on",
				"plugin", f.log.plugin, "instance", f.log.instance, "error", err)
			return false
		}
	}
	f.offset, f.cutter.at = at.upto, at.upto
	before, err := f.before()
	if err != nil {
		f.log.hub.options.Log.Warn("a plugin's last words cannot be read", "plugin", f.log.plugin, "instance", f.log.instance, "error", err)
	}
	f.log.mu.Lock()
	defer f.log.mu.Unlock()
	s := f.stream
	s.sequence, s.stored, s.dropped = at.sequence, at.sequence, lost
	s.backlog = f.size()
	for i, line := range before {
		line.Sequence = at.sequence - min(at.sequence, uint64(len(before)-1-i))
		f.log.ring.push(line)
	}
	return true
}

// place is where to go on with a stream, and how many lines before it are lost:
// the bus's last line, unless what was kept beside the file is farther on.
func (l *Log) place(name plugin.LogStream) (at place, lost uint64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), lastMax) // no caller waits: Close does
	defer cancel()
	sequence, upto, err := l.hub.options.Last(ctx, l.plugin, l.instance, name)
	if err != nil {
		return place{}, 0, err
	}
	if l.dir == "" {
		return place{upto, sequence}, 0, nil
	}
	kept, stored := readPlace(l.dir, name)
	if kept.sequence <= sequence {
		return place{upto, sequence}, 0, nil
	}
	return kept, kept.sequence - min(kept.sequence, max(stored, sequence)), nil
}

// before reads the lines that end at the place, oldest first. Their time is not
// known any more, but that the file was not written later than its own.
func (f *follower) before() ([]plugin.LogLine, error) {
	from := max(0, f.offset-lastBytes)
	data := make([]byte, f.offset-from)
	n, err := f.file.ReadAt(data, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	data = bytes.TrimLeft(data[:n], "\x00") // a hole
	if from > 0 {
		_, data, _ = bytes.Cut(data, []byte{'\n'})
	}
	at := time.Now()
	if info, err := f.file.Stat(); err == nil {
		at = info.ModTime()
	}
	var lines []plugin.LogLine
	take := func(text []byte, cut bool) {
		lines = append(lines, f.log.line(f.stream, printed{text: text, cut: cut, at: at}))
	}
	var c cutter
	c.write(data, take)
	c.finish(take)
	return lines, nil
}

// recall gives the record of a writer's stream. With an instance of an earlier
// daemon it counts on from the last line stored.
func (l *Log) recall(name plugin.LogStream) *stream {
	l.mu.Lock()
	s := l.stream(name)
	known := !l.resumed || s.file != nil
	l.mu.Unlock()
	if known {
		return s
	}
	s.recalled.Do(func() {
		at, lost, err := l.place(name)
		for try := 1; err != nil && try < recallTries && !l.closed(); try++ {
			<-time.After(retryEvery)
			at, lost, err = l.place(name)
		}
		if err != nil {
			l.hub.options.Log.Warn("a plugin's lines are counted anew: the bus does not tell where to go on",
				"plugin", l.plugin, "instance", l.instance, "error", err)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		s.sequence, s.stored, s.dropped = at.sequence, at.sequence, lost
	})
	return s
}

// Lines returns how many lines of a stream have been taken, those of earlier
// daemons included.
func (l *Log) Lines(name plugin.LogStream) uint64 {
	s := l.recall(name)
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.sequence
}

// Resume says that what is written next begins behind so many lines. A line that
// had begun is forgotten: it comes again. Lines beyond what was taken are told
// as dropped.
func (l *Log) Resume(name plugin.LogStream, lines uint64) {
	s := l.recall(name)
	s.writing.Lock()
	defer s.writing.Unlock()
	s.cutter.rest = s.cutter.rest[:0]
	l.mu.Lock()
	defer l.mu.Unlock()
	if lines <= s.sequence {
		s.skip = s.sequence - lines
		return
	}
	s.skip = 0
	s.dropped += lines - s.sequence
	s.sequence = lines
}

var _ plugin.Resumer = (*Log)(nil)
