package api

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"golang.org/x/sync/errgroup"
)

// Limits of the listener. Writes are bounded where they happen: a response may
// rightly take as long as its invocation.
const (
	// headerBytesMax is ample for a token, a trace and some metadata.
	headerBytesMax = 32 << 10
	// headerReadMax ends connections that dribble their headers.
	headerReadMax = 10 * time.Second
	// requestReadMax is for headers and body: 64 MiB at 1 MiB/s. It does not run
	// while the handler works on what was read.
	requestReadMax = 64 * time.Second
	// idleMax keeps connections of clients that call every minute or so.
	idleMax = 2 * time.Minute
	// drainMax is what requests under way get when Run's context ends: less than
	// the time after which service managers kill.
	drainMax = 10 * time.Second
	// tellBefore is how long before that an invocation in parts is interrupted, so that
	// its caller is told.
	tellBefore = time.Second
)

// API serves the control plane. It is safe for concurrent use.
type API struct {
	deps   Deps
	echo   *echo.Echo
	access *accessLog // nil when off
	shown  http.Handler

	prefix string // begins the ids of invocations
	count  atomic.Uint64

	draining atomic.Bool
	// streams ends when no stream shall go on.
	streams    context.Context
	endStreams context.CancelFunc
	// calls ends when invocations in parts shall not go on either.
	calls    context.Context
	endCalls context.CancelFunc
}

// New makes an API. It starts nothing; an empty token is a programmer's mistake
// and lets nobody in.
func New(d Deps) *API {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	d.Version.API, d.Version.Go = "v1", runtime.Version()
	var random [6]byte
	rand.Read(random[:]) // never fails: crypto/rand
	a := &API{
		deps: d, echo: echo.New(),
		access: newAccessLog(d.AccessLog), prefix: hex.EncodeToString(random[:]) + "-",
	}
	a.streams, a.endStreams = context.WithCancel(context.Background())
	a.calls, a.endCalls = context.WithCancel(context.Background())
	a.shown = exposition(d)
	a.echo.HTTPErrorHandler = a.unrouted
	for _, r := range Routes() {
		a.echo.Add(r.Method, echoPath(r.Path), a.serve(r))
	}
	return a
}

// ServeHTTP answers one request, for tests and benchmarks without a listener.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.echo.ServeHTTP(w, r) }

// Run serves on ln until ctx ends, then ends the streams, waits at most drainMax
// for requests under way, and returns nil. It closes ln. It runs once.
func (a *API) Run(ctx context.Context, ln net.Listener) error {
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true) // for callers that know beforehand: nothing is negotiated
	server := &http.Server{
		Handler: a.echo, Protocols: both, ReadHeaderTimeout: headerReadMax, ReadTimeout: requestReadMax,
		IdleTimeout: idleMax, MaxHeaderBytes: headerBytesMax,
		ErrorLog: slog.NewLogLogger(a.deps.Log.Handler(), slog.LevelDebug),
	}
	logging, stopLogging := context.WithCancel(context.Background())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { // ends when logging does, after the last request
		a.access.run(logging)
		return nil
	})
	g.Go(func() error { // ends when the server is shut down, or cannot serve
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("rest: %w", err)
		}
		return nil
	})
	g.Go(func() error { // ends with ctx and the drain
		<-ctx.Done()
		defer stopLogging()
		a.drain(server)
		return nil
	})
	return g.Wait()
}

func (a *API) drain(server *http.Server) {
	a.draining.Store(true)
	a.endStreams()
	defer time.AfterFunc(drainMax-tellBefore, a.endCalls).Stop()
	ctx, cancel := context.WithTimeout(context.Background(), drainMax)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		a.deps.Log.Warn("requests were cut off by the shutdown", "after", drainMax)
		server.Close()
	}
}

// serve wraps a row's handler: token, panic, error, access log, metrics. It is
// the only middleware, because it stands in the path of every invocation.
func (a *API) serve(r Route) echo.HandlerFunc {
	seen := a.deps.Metrics.route(r.Method, r.Path)
	counted := a.deps.Metrics != nil || a.access != nil
	answer := a.answer
	if a.deps.Trace != nil && strings.HasPrefix(r.Path, "/v1/") { // the rest is asked by machines, all day
		answer = a.answerTraced
	}
	return func(c echo.Context) error {
		if !counted {
			answer(c, r)
			return nil
		}
		began := time.Now()
		seen.begin()
		defer func() { // also when the connection is cut by a panic
			seen.end(c.Response().Status)
			a.access.add(c, r.Path, began)
		}()
		answer(c, r)
		return nil
	}
}

func (a *API) answerTraced(c echo.Context, r Route) {
	request, end := a.deps.Trace.Request(c.Request(), r.Path)
	c.SetRequest(request)
	defer func() { end(c.Response().Status) }() // also when the connection is cut by a panic
	a.answer(c, r)
}

func (a *API) answer(c echo.Context, r Route) {
	defer a.recover(c)
	if r.Scope != Open {
		if err := a.authorize(c.Request()); err != nil {
			a.fail(c, err)
			return
		}
	}
	if err := r.checkQuery(c.Request().URL.RawQuery); err != nil {
		a.fail(c, err)
		return
	}
	if err := r.handler(a, c); err != nil {
		a.fail(c, err)
	}
}

// recover turns a panic of a handler into an answer, or cuts the connection when
// the answer has begun.
func (a *API) recover(c echo.Context) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler {
		panic(v)
	}
	a.fail(c, panicked(v))
}

// authorize tells a token that is wrong from one that is not there.
func (a *API) authorize(r *http.Request) error {
	given := r.Header["Authorization"]
	if len(given) != 1 {
		return unauthorized("a bearer token is needed")
	}
	scheme, token, _ := strings.Cut(given[0], " ")
	token = strings.Trim(token, " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return unauthorized("a bearer token is needed")
	}
	if a.deps.Token == "" || subtle.ConstantTimeCompare([]byte(token), []byte(a.deps.Token)) != 1 {
		return unauthorized("the token is wrong")
	}
	return nil
}

// invocationID makes an id that is unique among all daemons.
func (a *API) invocationID() string { return a.prefix + strconv.FormatUint(a.count.Add(1), 36) }

// echoPath writes {name} as echo does. A parameter at the end takes the rest of
// the path: operations may have slashes in their names.
func echoPath(path string) string {
	if i := strings.LastIndex(path, "/{operation}"); i >= 0 {
		path = path[:i] + "/*"
	}
	return strings.NewReplacer("{", ":", "}", "").Replace(path)
}

// unrouted answers what no row takes.
func (a *API) unrouted(err error, c echo.Context) {
	began := time.Now()
	a.fail(c, errNoRoute(err, c.Request()))
	a.access.add(c, "", began)
}

var _ http.Handler = (*API)(nil)

// body reads the whole request body, at most limit bytes. A larger one is refused
// with the advice what to do instead.
func body(c echo.Context, limit int64, advice string) ([]byte, error) {
	r := c.Request()
	if r.ContentLength > limit {
		return nil, tooLarge(limit, advice)
	}
	if r.ContentLength >= 0 {
		data := make([]byte, r.ContentLength)
		if _, err := io.ReadFull(r.Body, data); err != nil {
			return nil, unreadable(err)
		}
		return data, nil
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, unreadable(err)
	}
	if int64(len(data)) > limit {
		return nil, tooLarge(limit, advice)
	}
	return data, nil
}
