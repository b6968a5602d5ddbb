package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/patchbay-dev/patchbay/core/api/wire"
)

const (
	// heartbeatEvery keeps proxies from cutting a quiet stream, and lets both
	// sides notice a dead connection.
	heartbeatEvery = 15 * time.Second
	// pendingBytesMax is what may wait for a slow reader. When it is full the
	// producer waits; the reader is cut off after writeMax without progress.
	pendingBytesMax = 256 << 10
	// keepBytesMax: a buffer that one large part made larger is not kept.
	keepBytesMax = 64 << 10
	// commitAfter is how long a stream waits for a first item or an error before
	// it answers 200 with nothing yet: an error before that has its own status. It
	// is also ample for following to have begun, so that a reader who sees the
	// answer misses nothing that happens from then on.
	commitAfter = 20 * time.Millisecond
)

// format is how items are framed.
type format int

const (
	plainFormat format = iota // not a stream
	ndjsonFormat
	sseFormat
)

// formatOf reads Accept: the first of the stream types named there, else
// otherwise.
func formatOf(c echo.Context, otherwise format) format {
	for _, value := range c.Request().Header["Accept"] {
		for part := range strings.SplitSeq(value, ",") {
			media, _, _ := strings.Cut(part, ";")
			switch strings.TrimSpace(media) {
			case wire.NDJSONType:
				return ndjsonFormat
			case wire.SSEType:
				return sseFormat
			}
		}
	}
	return otherwise
}

func (f format) media() string {
	if f == sseFormat {
		return wire.SSEType
	}
	return wire.NDJSONType
}

// frame appends one item, JSON without line breaks, and its id if it has one.
func (f format) frame(to []byte, id string, item []byte) []byte {
	if f == ndjsonFormat {
		return append(append(to, item...), '\n')
	}
	if id != "" {
		to = append(append(append(to, "id: "...), id...), '\n')
	}
	return append(append(append(to, "data: "...), item...), "\n\n"...)
}

// problem appends the frame that says why the stream ended early.
func (f format) problem(to []byte, p wire.Problem) []byte {
	text, _ := json.Marshal(p) // of strings and numbers
	if f == ndjsonFormat {
		return append(append(append(to, `{"problem":`...), text...), "}\n"...)
	}
	return append(append(append(to, "event: "+wire.ProblemEvent+"\ndata: "...), text...), "\n\n"...)
}

// gap appends the frame that says that a reader's place is not kept.
func (f format) gap(to []byte, lost, after string) []byte {
	text, _ := json.Marshal(wire.Gap{ // of strings
		Lost: lost, After: after,
		Detail: "what came after " + lost + " is not all kept; it goes on after " + after + ", and some of it may come again",
	})
	return append(append(append(to, "event: "+wire.GapEvent+"\nid: "+after+"\ndata: "...), text...), "\n\n"...)
}

// resumes reports whether the reader is one that came back by itself, as browsers do:
// it is told of a gap, where others are told that the place is not found.
func (f format) resumes(c echo.Context) bool {
	return f == sseFormat && c.Request().Header.Get("Last-Event-ID") != ""
}

func (f format) end(to []byte) []byte {
	if f == ndjsonFormat {
		return to
	}
	return append(to, "event: "+wire.EndEvent+"\ndata: {}\n\n"...)
}

func (f format) heartbeat(to []byte) []byte {
	if f == ndjsonFormat {
		return append(to, '\n')
	}
	return append(to, ": heartbeat\n\n"...)
}

// compact removes line breaks between the tokens of valid JSON.
func compact(text []byte) []byte {
	if bytes.IndexByte(text, '\n') < 0 && bytes.IndexByte(text, '\r') < 0 {
		return text
	}
	var b bytes.Buffer
	if json.Compact(&b, text) != nil {
		return text
	}
	return b.Bytes()
}

// errLeft tells a producer that nobody reads any more.
var errLeft = errors.New("the reader left")

// pending is what was produced and not yet written. Frames that come while a
// write is under way go out together with the next one.
type pending struct {
	mu    sync.Mutex
	buf   []byte
	fresh chan struct{} // holds one token when buf has something new
	room  chan struct{} // holds one token when buf was taken
	done  context.Context
}

// put adds a frame. It waits while too much is pending.
func (p *pending) put(frame []byte) error {
	for {
		p.mu.Lock()
		if len(p.buf) == 0 || len(p.buf)+len(frame) <= pendingBytesMax {
			p.buf = append(p.buf, frame...)
			p.mu.Unlock()
			signal(p.fresh)
			return nil
		}
		p.mu.Unlock()
		select {
		case <-p.room:
		case <-p.done.Done():
			return errLeft
		}
	}
}

// take swaps the pending bytes for an empty buffer.
func (p *pending) take(empty []byte) []byte {
	p.mu.Lock()
	full := p.buf
	p.buf = empty[:0]
	p.mu.Unlock()
	signal(p.room)
	return full
}

func newToken() chan struct{} { return make(chan struct{}, 1) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is signalled already
	}
}

// produce makes the frames of one stream and puts them until it is done, put
// fails or ctx ends.
type produce func(ctx context.Context, put func(frame []byte) error) error

// manner is how a stream is written.
type manner struct {
	// until ends it when the daemon shuts down.
	until context.Context
	// patience is how long it waits for a first frame before it answers that there is
	// none yet.
	patience time.Duration
	// resumes: its reader comes back by itself, and is not told that it was interrupted.
	resumes bool
	told    *told // nil when it is not asked for
}

// follow streams what does not end by itself: it ends when the daemon drains.
func (a *API) follow(c echo.Context, f format, from produce) error {
	return a.stream(c, f, manner{until: a.streams, patience: commitAfter, resumes: f == sseFormat}, from)
}

// stream writes what from puts, until from returns, the reader leaves or m.until
// ends. An error of from before anything was put is returned and becomes an
// ordinary answer, if it comes within m.patience.
func (a *API) stream(c echo.Context, f format, m manner, from produce) error {
	ctx, cancel := context.WithCancel(c.Request().Context())
	defer context.AfterFunc(m.until, cancel)()
	p := &pending{fresh: newToken(), room: newToken(), done: ctx}
	ended := make(chan error, 1)
	go func() { ended <- guarded(ctx, p.put, from) }() // ends with ctx; waited for below
	w := &streamWriter{api: a, c: c, f: f, manner: m, control: http.NewResponseController(c.Response().Writer)}
	defer w.control.SetWriteDeadline(time.Time{}) // the connection may be used again
	running, err := w.run(p, ended)
	cancel()
	if running {
		<-ended
	}
	return err
}

// guarded keeps a panic of a producer, which runs outside of the handler, from
// ending the daemon.
func guarded(ctx context.Context, put func([]byte) error, from produce) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = panicked(v)
		}
	}()
	return from(ctx, put)
}

// streamWriter is the writing half of one stream.
type streamWriter struct {
	manner
	api     *API
	c       echo.Context
	f       format
	control *http.ResponseController
	spare   []byte
}

// run returns when the stream is over. running tells whether the producer still
// has to be waited for.
func (w *streamWriter) run(p *pending, ended <-chan error) (running bool, err error) {
	beat := time.NewTimer(w.patience)
	defer beat.Stop()
	for {
		select {
		case <-p.fresh:
			if w.send(p.take(w.spare)) != nil {
				return true, nil
			}
		case <-beat.C:
			if w.send(w.f.heartbeat(w.spare[:0])) != nil {
				return true, nil
			}
		case err := <-ended:
			return false, w.finish(p, err)
		case <-w.until.Done():
			w.interrupt(p)
			return true, nil
		case <-w.c.Request().Context().Done():
			return true, nil
		}
		beat.Reset(heartbeatEvery)
	}
}

// finish writes what is left and how it ended.
func (w *streamWriter) finish(p *pending, err error) error {
	response := w.c.Response()
	if w.until.Err() != nil {
		w.interrupt(p)
		return nil
	}
	rest := p.take(nil)
	if err != nil && len(rest) == 0 && !response.Committed {
		w.told.headers(response.Header())
		return err
	}
	if w.c.Request().Context().Err() != nil {
		return nil
	}
	if err != nil {
		problem := problemOf(err, w.c.Request().URL.Path)
		if problem.Status == http.StatusInternalServerError {
			w.api.logInternal(err, w.c.Request())
		}
		w.last(w.f.problem(rest, problem), problem.Code)
		return nil
	}
	w.last(w.f.end(rest), wire.OutcomeOK)
	return nil
}

// interrupt ends a stream because the daemon shuts down. Readers that come back, to
// the next daemon, get no end.
func (w *streamWriter) interrupt(p *pending) {
	rest := p.take(nil)
	if !w.resumes {
		rest = w.f.problem(rest, wire.NewProblem(wire.CodeUnavailable, "the daemon is shutting down"))
	}
	w.last(rest, wire.CodeUnavailable)
}

// last sends the end of a stream, and says behind it how it went: an item may look like
// a problem, a trailer does not.
func (w *streamWriter) last(data []byte, outcome string) {
	w.send(data)
	header := w.c.Response().Header()
	header.Set(wire.OutcomeTrailer, outcome)
	w.told.trailers(header)
}

// send writes and flushes; it keeps data as the next spare buffer.
func (w *streamWriter) send(data []byte) error {
	response := w.c.Response()
	w.control.SetWriteDeadline(time.Now().Add(writeMax)) // best effort: a test's recorder has none
	if !response.Committed {
		header := response.Header()
		header.Set("Content-Type", w.f.media())
		header.Set("Cache-Control", "no-store")
		header.Set("X-Accel-Buffering", "no") // for nginx
		header.Set("Trailer", wire.OutcomeTrailer)
		w.told.begin(header)
		response.WriteHeader(http.StatusOK)
	}
	if _, err := response.Write(data); err != nil {
		return fmt.Errorf("stream: %w", err)
	}
	if cap(data) <= keepBytesMax {
		w.spare = data
	} else {
		w.spare = nil
	}
	if err := w.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}
