package container

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// endWait is how long the end of the stream may come before the exit that
	// explains it, before the stream is taken for cut off and attached to again:
	// the engine tears the network down in between.
	endWait = time.Second
	// settle is how long the engine is given, after it accepted a connection, to
	// join it to the container's output (it does not say when), and to write down
	// what was printed before: both take it a millisecond.
	settle = 250 * time.Millisecond
	// joinTries is how often the engine's log is read before what it has and what
	// the connection brings are taken as they are.
	joinTries = 2
	// fillMax bounds one reading of the engine's log: all of it takes two seconds.
	fillMax = 30 * time.Second
	// lateBytesMax bounds, per stream, what the log has of the time since the
	// connection was made; a container cannot print more while heldBytesMax waits.
	lateBytesMax = 2 * heldBytesMax
	// disorder is more than what records of two streams are out of order by: a
	// record gets its time before its place.
	disorder = time.Second

	// keepEvery is how often the position is written down, if it changed.
	keepEvery = time.Second
	// markBytes is how much is printed before the mark moves: what is read again
	// at an adoption, and 1/300 of what the engine's log holds at least.
	markBytes = 64 << 10
	// markQuiet is how long nothing was printed when the mark moves, so that the
	// engine's log and what was read are the same.
	markQuiet = 20 * time.Millisecond
)

// forever is later than any record.
var forever = time.Date(9999, time.December, 31, 0, 0, 0, 0, time.UTC)

// follow reads the output to its end: over conn, or nil for a container that is
// adopted. When the stream ends before the container does, the engine has been
// away. What was printed while there was no stream is read from the engine's log.
// Streams end with reading, all else with ctx.
func (i *instance) follow(reading, ctx context.Context, conn *types.HijackedResponse) {
	joined := conn != nil
	if joined {
		i.read(reading, *conn)
	}
	for {
		if joined && i.ends(ctx, endWait) {
			break
		}
		joined = i.rejoin(reading, ctx) == nil
		if !joined && i.ends(ctx, endWait) {
			break
		}
	}
	select {
	case <-i.output.over:
		if !joined || i.breaks > 0 {
			_ = i.lastOutput(ctx) // what it has is all there is
		}
	default: // left
	}
}

// ends waits for the container's end, or for ctx.
func (i *instance) ends(ctx context.Context, within time.Duration) bool {
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case <-i.output.over:
	case <-ctx.Done():
	case <-t.C:
		return false
	}
	return true
}

// read demultiplexes one connection until it ends or ctx does, and closes it.
func (i *instance) read(ctx context.Context, conn types.HijackedResponse) {
	defer conn.Close()
	defer context.AfterFunc(ctx, conn.Close)() // unblocks the read
	_, _ = stdcopy.StdCopy(i.output.streams[plugin.Stdout], i.output.streams[plugin.Stderr], conn.Reader)
}

// feed gives a job its input and its end. A job that does not read it, or ends
// before, is no fault.
func feed(conn types.HijackedResponse, input []byte) {
	_, _ = conn.Conn.Write(input)
	_ = conn.CloseWrite()
}

// rejoin attaches to the running container, reads what was printed before from
// the engine's log, and then the connection to its end.
func (i *instance) rejoin(reading, ctx context.Context) error {
	i.output.setFlow(holding)
	begin, err := i.engineTime(ctx)
	if err != nil {
		return err
	}
	conn, err := attach(ctx, i.engine, i.id, container.AttachOptions{Stream: true, Stdout: true, Stderr: true})
	if err != nil {
		return err
	}
	read := make(chan struct{})
	go func() { // ends with the connection; waited for below
		defer close(read)
		i.read(reading, conn)
	}()
	err = i.fill(ctx, begin)
	if err != nil {
		i.output.setFlow(ignoring)
		conn.Close()
	}
	<-read
	return err
}

// engineTime is the time by the engine's clock, which may be another machine's.
func (i *instance) engineTime(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, callMax)
	defer cancel()
	info, err := i.engine.Info(ctx)
	if err != nil {
		return time.Time{}, class("engine's time", err)
	}
	at, err := time.Parse(time.RFC3339Nano, info.SystemTime)
	if err != nil {
		return time.Time{}, fmt.Errorf("engine's time: %w: %w", plugin.ErrInvalid, err)
	}
	return at, nil
}

// fill takes from the engine's log what was printed before the connection that
// was made after begin, and lets that pass.
func (i *instance) fill(ctx context.Context, begin time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, fillMax)
	defer cancel()
	for try := 1; ; try++ {
		if !sleep(ctx, settle) {
			return ctx.Err()
		}
		late, err := i.catchUp(ctx, begin)
		if err != nil {
			return err
		}
		if i.output.join(late, try == joinTries) {
			return nil
		}
	}
}

// lastOutput takes all that the engine's log has of a container that has ended.
func (i *instance) lastOutput(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fillMax)
	defer cancel()
	_, err := i.catchUp(ctx, forever)
	return err
}

// catchUp takes what the engine's log has and was not taken yet, and returns what
// it has from until on.
func (i *instance) catchUp(ctx context.Context, until time.Time) (late map[plugin.LogStream][]byte, err error) {
	p := i.output.reached()
	c := catcher{o: i.output, until: until, skip: p, late: map[plugin.LogStream][]byte{}, lines: map[plugin.LogStream]uint64{}}
	intact, since := p.Mark.IsZero(), p.Mark
	if !intact {
		since = since.Add(-disorder)
	}
	err = i.recorded(ctx, part{since: since}, func(r record) bool {
		intact = intact || r.at.Equal(p.Mark)
		if intact {
			c.take(r)
		}
		return intact || r.at.Before(p.Mark.Add(disorder))
	})
	switch {
	case err != nil:
		return nil, err
	case p.Mark.IsZero() && i.output.lacks(c.lines): // the position is lost, and the log's beginning
		i.output.lost()
		return c.late, nil
	case intact:
		return c.late, nil
	}
	i.output.lost()
	c.skip = position{}
	err = i.recorded(ctx, part{since: p.Seen}, func(r record) bool {
		if r.at.After(p.Seen) {
			c.take(r)
		}
		return true
	})
	return c.late, err
}

// catcher sorts the records of one reading of the log.
type catcher struct {
	o     *output
	until time.Time
	skip  position // its bytes were taken already
	late  map[plugin.LogStream][]byte
	lines map[plugin.LogStream]uint64 // that ended, of all the records
}

func (c *catcher) take(r record) {
	c.o.markFirst(r)
	c.lines[r.stream] += uint64(bytes.Count(r.text, []byte{'\n'}))
	skip := &c.skip.Stdout.Bytes
	if r.stream == plugin.Stderr {
		skip = &c.skip.Stderr.Bytes
	}
	known := min(*skip, uint64(len(r.text)))
	*skip -= known
	text := r.text[known:]
	if r.at.Before(c.until) {
		c.o.mu.Lock()
		defer c.o.mu.Unlock()
		c.o.streams[r.stream].take(text)
		return
	}
	if len(c.late[r.stream]) < lateBytesMax {
		c.late[r.stream] = append(c.late[r.stream], text...)
	}
}

// keep moves the mark and writes the position down, until ctx ends.
func (i *instance) keep(ctx context.Context) {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	var saved position
	var tried time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if p := i.output.reached(); p.Seen != tried && (p.Mark.IsZero() || time.Since(p.Seen) > markQuiet) {
			if !p.Mark.IsZero() {
				tried = p.Seen
			}
			i.moveMark(ctx, p)
		}
		if p := i.output.reached(); p != saved {
			saved = p
			i.output.save()
		}
	}
}

// moveMark marks the first record of the engine's log, and later on, when much
// was printed since the mark, the last. What the engine does not answer now, it
// may the next time.
func (i *instance) moveMark(ctx context.Context, p position) {
	ctx, cancel := context.WithTimeout(ctx, callMax)
	defer cancel()
	if p.Mark.IsZero() {
		_ = i.recorded(ctx, part{}, func(r record) bool {
			i.output.markFirst(r)
			return false
		})
		return
	}
	if !p.Mark.Equal(nowhere) && p.Stdout.Bytes+p.Stderr.Bytes < markBytes {
		return
	}
	var before, last record
	if i.recorded(ctx, part{tail: 2}, func(r record) bool {
		r.text = append([]byte(nil), r.text...)
		before, last = last, r
		return true
	}) == nil && !before.at.Equal(last.at) { // pieces of one line, or a rare chance
		i.output.markLast(p, last)
	}
}
