package api

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/patchbay-dev/patchbay/core/bus"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

func (a *API) events(c echo.Context) error {
	q, err := eventQuery(c, time.Now())
	if err != nil {
		return err
	}
	f := formatOf(c, ndjsonFormat)
	return a.follow(c, f, func(ctx context.Context, put func([]byte) error) error {
		var frame []byte // put copies it
		if f.resumes(c) {
			lost := eventID(q.After)
			q.Gap = func(after uint64) { _ = put(f.gap(nil, lost, strconv.FormatUint(after, 10))) } // the next put fails, too
		}
		for item, err := range a.deps.Events.EventItems(ctx, q) {
			if err != nil {
				return err
			}
			frame = f.frame(frame[:0], eventID(item.Event.Sequence), item.JSON)
			if err := put(frame); err != nil {
				return err
			}
		}
		return nil
	})
}

// eventID is what to resume after; an event that is not stored yet has none.
func eventID(sequence uint64) string {
	if sequence == 0 {
		return ""
	}
	return strconv.FormatUint(sequence, 10)
}

func eventQuery(c echo.Context, now time.Time) (bus.EventQuery, error) {
	q := bus.EventQuery{Plugin: param(c, "name"), Type: c.QueryParam("type")}
	if q.Plugin != "" && !plugin.ValidName(q.Plugin) {
		return q, fmt.Errorf("plugin %q: %w: no plugin can have this name", q.Plugin, plugin.ErrNotFound)
	}
	var err error
	if q.Follow, err = boolean(c, "follow"); err != nil {
		return q, err
	}
	if q.Since, err = since(c, now); err != nil {
		return q, err
	}
	if after := lastID(c); after != "" {
		if q.After, err = strconv.ParseUint(after, 10, 64); err != nil {
			return q, fmt.Errorf("after: %w: %q is no id of an event; it is a number", plugin.ErrInvalid, after)
		}
		q.Since = time.Time{} // after is exact
		return q, nil
	}
	q.NoHistory = q.Follow && q.Since.IsZero()
	return q, nil
}

// since reads a time, or how long ago.
func since(c echo.Context, now time.Time) (time.Time, error) {
	text := c.QueryParam("since")
	if text == "" {
		return time.Time{}, nil
	}
	if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return at, nil
	}
	var ago plugin.Duration
	if err := ago.UnmarshalText([]byte(text)); err != nil {
		return time.Time{}, fmt.Errorf("since: %w: %q is neither a time, such as 2026-01-31T12:00:00Z, nor how long ago, such as 10m", plugin.ErrInvalid, text)
	}
	return now.Add(-ago.Std()), nil
}

// lastID is where a reader was interrupted. The header is newer than the query:
// browsers repeat the query when they come back.
func lastID(c echo.Context) string {
	if id := c.Request().Header.Get("Last-Event-ID"); id != "" {
		return id
	}
	return c.QueryParam("after")
}
