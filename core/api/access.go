package api

import (
	"context"
	"encoding/json"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/patchbay-dev/patchbay/core/api/wire"
)

const (
	// accessBytesMax is what may wait to be written: about 1,000 lines. When it is
	// full, lines are dropped, and the next one says how many.
	accessBytesMax = 256 << 10
	// accessFlushEvery bounds how late a line is.
	accessFlushEvery = 200 * time.Millisecond
)

// accessLog writes one JSON line per request, in batches, so that a request pays
// for its text only. A nil *accessLog logs nothing. It never logs a query, a
// header or a body.
type accessLog struct {
	to io.Writer

	mu      sync.Mutex
	buf     []byte
	dropped uint64
	fuller  chan struct{} // holds one token when buf is half full
}

func newAccessLog(to io.Writer) *accessLog {
	if to == nil {
		return nil
	}
	return &accessLog{to: to, fuller: newToken()}
}

// add logs one finished request. It never waits for the writer.
func (l *accessLog) add(c echo.Context, route string, began time.Time) {
	if l == nil {
		return
	}
	var scratch [512]byte
	line := accessLine(scratch[:0], c, route, began)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.buf)+len(line) > accessBytesMax {
		l.dropped++
		return
	}
	l.buf = append(l.buf, line...)
	if l.dropped > 0 {
		l.buf = append(l.buf[:len(l.buf)-1], `,"dropped":`...)
		l.buf = append(strconv.AppendUint(l.buf, l.dropped, 10), '}')
		l.dropped = 0
	}
	l.buf = append(l.buf, '\n')
	if len(l.buf) > accessBytesMax/2 {
		signal(l.fuller)
	}
}

// accessLine appends the line in the form of slog's JSON, without the newline.
func accessLine(to []byte, c echo.Context, route string, began time.Time) []byte {
	r, response := c.Request(), c.Response()
	to = append(to, `{"time":"`...)
	to = began.UTC().AppendFormat(to, "2006-01-02T15:04:05.000000Z07:00")
	to = append(to, `","level":"INFO","msg":"request","method":`...)
	to = appendText(to, r.Method)
	to = appendText(append(to, `,"route":`...), route)
	to = appendText(append(to, `,"path":`...), r.URL.Path)
	to = strconv.AppendInt(append(to, `,"status":`...), int64(response.Status), 10)
	to = strconv.AppendInt(append(to, `,"bytes":`...), response.Size, 10)
	to = strconv.AppendInt(append(to, `,"micros":`...), time.Since(began).Microseconds(), 10)
	to = appendText(append(to, `,"remote":`...), r.RemoteAddr)
	if id := response.Header()[wire.InvocationHeader]; len(id) == 1 {
		to = appendText(append(to, `,"invocation":`...), id[0])
	}
	return append(to, '}')
}

// appendText appends s as JSON; nearly all are plain.
func appendText(to []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			text, _ := json.Marshal(s) // a string always marshals
			return append(to, text...)
		}
	}
	return append(append(append(to, '"'), s...), '"')
}

// run writes what is added until ctx ends, and then what is left.
func (l *accessLog) run(ctx context.Context) {
	if l == nil {
		return
	}
	tick := time.NewTicker(accessFlushEvery)
	defer tick.Stop()
	var spare []byte
	for {
		select {
		case <-tick.C:
		case <-l.fuller:
		case <-ctx.Done():
			l.flush(spare)
			return
		}
		spare = l.flush(spare)
	}
}

// flush writes what is pending and returns its buffer to be used again.
func (l *accessLog) flush(empty []byte) []byte {
	l.mu.Lock()
	full := l.buf
	l.buf = empty[:0]
	l.mu.Unlock()
	if len(full) > 0 {
		l.to.Write(full) // nobody is left to tell when the log cannot be written
	}
	return full
}
