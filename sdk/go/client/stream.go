package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// againFirst doubles up to againMost between attempts to come back.
	againFirst = 100 * time.Millisecond
	againMost  = 3 * time.Second
	// awayMax is how long a daemon may be away before a stream gives up: a restart
	// takes seconds.
	awayMax = time.Minute
	// silenceMax is how long a stream may be silent: three heartbeats of the daemon.
	silenceMax = 45 * time.Second
)

// EventOptions chooses events.
type EventOptions struct {
	// Type is one type, empty for all.
	Type string
	// Since and After (an event's Sequence) are where to begin. Without either,
	// with Follow it is now, else the start of the history.
	Since time.Time
	After uint64
	// Follow goes on with what comes until ctx ends.
	Follow bool
}

// Events gives the events of all plugins. An error is the last thing it yields.
func (c *Client) Events(ctx context.Context, o EventOptions) iter.Seq2[plugin.Event, error] {
	return c.events(ctx, "/v1/events", o)
}

// PluginEvents gives the events of one plugin. An error is the last thing it yields.
func (c *Client) PluginEvents(ctx context.Context, name string, o EventOptions) iter.Seq2[plugin.Event, error] {
	return c.events(ctx, pluginPath(name, "events"), o)
}

func (c *Client) events(ctx context.Context, path string, o EventOptions) iter.Seq2[plugin.Event, error] {
	q := url.Values{}
	put(q, "type", o.Type)
	f := following{client: c, path: path, query: q, since: o.Since, follow: o.Follow}
	if o.After > 0 {
		f.last = strconv.FormatUint(o.After, 10)
	}
	return follow(ctx, f, func(m message) (plugin.Event, place, error) {
		var e plugin.Event
		err := json.Unmarshal(m.data, &e)
		return e, place{id: m.id, at: e.Time, name: e.Source + "#" + e.ID}, err
	})
}

// LogOptions chooses log lines.
type LogOptions struct {
	// Tail is how many of the last lines to begin with; 0: all that are kept.
	Tail int
	// Since and After (a line's ID) are where to begin.
	Since time.Time
	After string
	// Follow goes on with what comes until ctx ends.
	Follow bool
	// Level is the least level, Grep a regular expression (RE2) that a line's
	// message or fields must match.
	Level, Grep string
	// Instance is one instance's lines only; Previous those of the one before the
	// current. Previous does not go with Follow. MergedLogs has no Instance.
	Instance string
	Previous bool
	// Plugins and Selector (labels) are for MergedLogs: whose lines. Neither: all
	// plugins'.
	Plugins  []string
	Selector string
}

// Logs gives what a plugin printed. An error is the last thing it yields. With
// Follow it goes on over restarts of the plugin and of the daemon, each line once.
func (c *Client) Logs(ctx context.Context, name string, o LogOptions) iter.Seq2[plugin.LogLine, error] {
	q := o.query()
	put(q, "instance", o.Instance)
	return c.logs(ctx, following{client: c, path: pluginPath(name, "logs"), query: q, since: o.Since, last: o.After, follow: o.Follow})
}

// MergedLogs gives what several plugins printed, in the order in which it came. An
// error is the last thing it yields.
func (c *Client) MergedLogs(ctx context.Context, o LogOptions) iter.Seq2[plugin.LogLine, error] {
	q := o.query()
	put(q, "plugin", strings.Join(o.Plugins, ","))
	put(q, "selector", o.Selector)
	return c.logs(ctx, following{client: c, path: "/v1/logs", query: q, since: o.Since, last: o.After, follow: o.Follow})
}

func (o LogOptions) query() url.Values {
	q := url.Values{}
	if o.Tail > 0 {
		q.Set("tail", strconv.Itoa(o.Tail))
	}
	put(q, "level", o.Level)
	put(q, "grep", o.Grep)
	if o.Previous {
		q.Set("previous", "true")
	}
	return q
}

func (c *Client) logs(ctx context.Context, f following) iter.Seq2[plugin.LogLine, error] {
	return func(yield func(plugin.LogLine, error) bool) {
		seen := newSeen()
		f.overlap, f.broke = true, seen.broke
		for line, err := range follow(ctx, f, decodeLine) {
			if err == nil && seen.again(line) {
				continue
			}
			if !yield(line, err) {
				return
			}
		}
	}
}

func decodeLine(m message) (plugin.LogLine, place, error) {
	var l plugin.LogLine
	err := json.Unmarshal(m.data, &l)
	l.ID = m.id
	return l, place{id: m.id, at: l.Time}, err
}

// following is a stream that is read, perhaps over several connections.
type following struct {
	client *Client
	path   string
	query  url.Values
	follow bool
	// last is the id to go on after; since is the time to begin at without one.
	last  string
	since time.Time
	// reached is true once a connection was made: a daemon that is not there at
	// the start is not waited for. away is true from then on while none is.
	reached, away bool
	// overlap begins again a little before the last item, when a connection breaks:
	// whoever reads skips what comes twice. broke tells it.
	overlap bool
	broke   func()
	anchor  anchor
	// early are the names of items that came before they were stored.
	early earlyNames
}

// place is where an item stands: its id, empty when it is not stored yet, its time,
// and a name that it keeps when it is stored, if it has one.
type place struct {
	id   string
	at   time.Time
	name string
}

func (f *following) request() request {
	q := maps.Clone(f.query)
	r := request{method: "GET", path: f.path, query: q}
	r.set("Accept", wire.SSEType)
	if f.follow {
		q.Set("follow", "true")
	}
	switch {
	case f.last != "":
		q.Del("tail") // it was for the beginning
		r.set("Last-Event-ID", f.last)
	case !f.since.IsZero():
		q.Set("since", f.since.UTC().Format(time.RFC3339Nano))
	}
	return r
}

// errStopped ends reading because the caller has enough.
var errStopped = errors.New("stopped")

// follow reads a stream and comes back after the last item when the connection
// breaks.
func follow[T any](ctx context.Context, f following, decode func(message) (T, place, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		f, began := f, time.Now() // each range over it begins anew
		f.early = earlyNames{}
		f.query = maps.Clone(f.query)
		again := newRetry()
		for {
			err := f.read(ctx, func(m message) error {
				item, at, err := decode(m)
				if err != nil {
					return fmt.Errorf("stream: %w: %w", plugin.ErrInvalid, err)
				}
				again = newRetry()
				if f.passed(at) {
					return nil
				}
				if !yield(item, nil) {
					return errStopped
				}
				return nil
			})
			if err == nil || errors.Is(err, errStopped) || ctx.Err() != nil {
				return
			}
			if !f.comesBack(err) || !again.wait(ctx) {
				var none T
				yield(none, err)
				return
			}
			f.retreat()
			f.missed(began)
			f.client.findAgain()
		}
	}
}

// passed remembers where to go on, and reports whether the item came before: the
// daemon tells events at once while its bus is down, and stores them later.
func (f *following) passed(p place) (repeated bool) {
	f.anchor.passed(p.id, time.Now())
	switch {
	case p.id != "":
		f.last = p.id
		return f.early.had(p)
	case p.name != "":
		f.early.add(p) // it will come again behind the last that was stored
	default:
		f.query.Del("tail")
		f.last, f.since = "", p.at.Add(1) // time is the second best place
	}
	return false
}

// retreat goes back to an item that the daemon had had stored for long enough not
// to lose it when it is killed.
func (f *following) retreat() {
	if !f.overlap {
		return
	}
	if !f.anchor.latest.at.IsZero() {
		f.last = f.anchor.retreat(time.Now())
	}
	f.broke()
}

// comesBack reports whether to look for the daemon again after err, and says once
// that it is gone.
func (f *following) comesBack(err error) bool {
	if !f.follow || !f.reached || !errors.Is(err, plugin.ErrUnavailable) {
		return false
	}
	if !f.away {
		f.away = true
		f.client.link(err)
	}
	return true
}

// connected says once that the daemon is back.
func (f *following) connected() {
	f.reached = true
	if f.away {
		f.away = false
		f.client.link(nil)
	}
}

func (c *Client) link(why error) {
	if c.options.Link != nil {
		c.options.Link(why)
	}
}

// missed makes a stream that began "now" and gave nothing yet go on at that time.
func (f *following) missed(began time.Time) {
	if !f.overlap && f.last == "" && f.since.IsZero() && f.query.Get("tail") == "" {
		f.since = began
	}
}

// read reads one connection until the stream ends (nil) or breaks (why).
func (f *following) read(ctx context.Context, each func(message) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(silenceMax, func() { cancel(context.DeadlineExceeded) })
	defer silence.Stop()
	response, err := f.client.send(ctx, f.request())
	if err != nil {
		return silent(ctx, err)
	}
	defer response.Body.Close()
	first := !f.reached
	f.connected()
	read := newSSE(response.Body)
	read.alive = func() { silence.Reset(silenceMax) }
	for {
		m, err := read.next()
		switch {
		case errors.Is(err, errTooLong):
			return err
		case err != nil:
			return silent(ctx, fmt.Errorf("stream: %w: %w", plugin.ErrUnavailable, err))
		case m.event == wire.EndEvent:
			return nil
		case m.event == wire.ProblemEvent:
			return m.problem()
		case m.event == wire.GapEvent:
			if err := f.gap(m, first); err != nil {
				return err
			}
			continue
		}
		if err := each(m); err != nil {
			return err
		}
	}
}

// gap goes on where the daemon does. At the first connection the place was the
// caller's, who is told that it is not kept.
func (f *following) gap(m message, first bool) error {
	var g wire.Gap
	if err := json.Unmarshal(m.data, &g); err != nil {
		return fmt.Errorf("stream: %w: %w", plugin.ErrInvalid, err)
	}
	if first {
		return fmt.Errorf("stream: %w: %s", plugin.ErrNotFound, g.Detail)
	}
	f.last, f.anchor = g.After, anchor{settled: g.After}
	if f.broke != nil {
		f.broke()
	}
	if f.client.options.Gap != nil {
		f.client.options.Gap(g.Detail)
	}
	return nil
}

// silent tells a daemon that said nothing from a caller who left.
func silent(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) && errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("stream: %w: nothing came for %s", plugin.ErrUnavailable, silenceMax)
	}
	return err
}

// retry is the wait between attempts to come back.
type retry struct {
	next  time.Duration
	since time.Time
}

func newRetry() *retry { return &retry{next: againFirst} }

// wait returns false when it is time to give up.
func (r *retry) wait(ctx context.Context) bool {
	if r.since.IsZero() {
		r.since = time.Now()
	}
	if time.Since(r.since) > awayMax {
		return false
	}
	timer := time.NewTimer(r.next)
	defer timer.Stop()
	r.next = min(2*r.next, againMost)
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
