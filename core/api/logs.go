package api

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/patchbay-dev/patchbay/core/logs"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

func (a *API) logs(c echo.Context) error {
	r, err := a.found(c)
	if err != nil {
		return err
	}
	q, err := logQuery(c, r.Metadata.Name, time.Now())
	if err != nil {
		return err
	}
	f := formatOf(c, ndjsonFormat)
	return a.follow(c, f, func(ctx context.Context, put func([]byte) error) error {
		var frame []byte // put copies it
		for line, err := range a.deps.Logs.Follow(ctx, q) {
			if err != nil {
				return err
			}
			item, err := json.Marshal(line)
			if err != nil {
				return fmt.Errorf("log line %s: %w", line.ID, err)
			}
			frame = f.frame(frame[:0], line.ID, item)
			if err := put(frame); err != nil {
				return err
			}
		}
		return nil
	})
}

func logQuery(c echo.Context, name string, now time.Time) (logs.Query, error) {
	q := logs.Query{Plugin: name, After: lastID(c)}
	var err error
	if q.Follow, err = boolean(c, "follow"); err != nil {
		return q, err
	}
	if q.Since, err = since(c, now); err != nil {
		return q, err
	}
	if q.Tail, err = whole(c.QueryParam("tail"), "tail", 0); err != nil {
		return q, err
	}
	if q.After == "" {
		return q, nil
	}
	var sequence, line uint64
	if n, err := fmt.Sscanf(q.After, "%d.%d", &sequence, &line); n != 2 || err != nil {
		return q, fmt.Errorf("after: %w: %q is no id of a log line; it looks like 120.3", plugin.ErrInvalid, q.After)
	}
	q.Since, q.Tail = time.Time{}, 0 // after is exact
	return q, nil
}
