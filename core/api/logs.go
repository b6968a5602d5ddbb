package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/patchbay-dev/patchbay/core/logs"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// logNamesMax bounds the plugins that are named; a selector may choose more.
	logNamesMax = 100
	// grepBytesMax bounds an expression, which runs over every line: RE2 takes time
	// in proportion to both.
	grepBytesMax = 1 << 10
	// logPage is how many plugins are looked at at once for a selector.
	logPage = 1000
)

// logs tells what one plugin printed.
func (a *API) logs(c echo.Context) error {
	r, err := a.found(c)
	if err != nil {
		return err
	}
	q, err := logQuery(c, time.Now())
	if err != nil {
		return err
	}
	q.Plugin, q.Instance = r.Metadata.Name, c.QueryParam("instance")
	before, err := previous(c, q)
	if err != nil {
		return err
	}
	if before {
		if q.Instance, err = a.deps.Logs.Previous(c.Request().Context(), q.Plugin, r.Status.Instance); err != nil {
			return err
		}
	}
	return a.tellLogs(c, q)
}

// mergedLogs tells what several plugins printed, in the order in which it came.
func (a *API) mergedLogs(c echo.Context) error {
	q, err := logQuery(c, time.Now())
	if err != nil {
		return err
	}
	chosen, err := a.chosen(c)
	if err != nil {
		return err
	}
	before, err := previous(c, q)
	if err != nil {
		return err
	}
	switch {
	case !before && chosen.everything():
		return a.tellLogs(c, q)
	case !before:
		q.Select, q.Joins = chosen.sources, chosen.joins
		if !chosen.all {
			q.Joins = nil
		}
		return a.tellLogs(c, q)
	}
	sources, err := a.previousOf(c.Request().Context(), chosen)
	if err != nil {
		return err
	}
	q.Select = func() []plugin.LogSource { return sources }
	return a.tellLogs(c, q)
}

func (a *API) tellLogs(c echo.Context, q logs.Query) error {
	f := formatOf(c, ndjsonFormat)
	return a.follow(c, f, func(ctx context.Context, put func([]byte) error) error {
		var frame []byte // put copies it
		if f.resumes(c) {
			q.Gap = func(after string) { _ = put(f.gap(nil, q.After, after)) } // the next put fails, too
		}
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

// selection is the plugins that are asked for: those that are named, and those
// whose labels match. Neither: all.
type selection struct {
	plugins  Plugins
	names    []string
	selector Selector
	all      bool // the selector chooses, though it may be empty
}

func (a *API) chosen(c echo.Context) (selection, error) {
	s := selection{plugins: a.deps.Plugins}
	params := c.QueryParams()
	for _, value := range params["plugin"] {
		s.names = append(s.names, strings.Split(value, ",")...)
	}
	slices.Sort(s.names)
	if s.names = slices.Compact(s.names); len(s.names) > logNamesMax {
		return s, fmt.Errorf("plugin: %w: %d are named, the most is %d; choose by labels", plugin.ErrInvalid, len(s.names), logNamesMax)
	}
	for _, name := range s.names {
		if _, ok := s.plugins.Get(name); !ok {
			return s, fmt.Errorf("plugin %q: %w: nothing of this name is applied", name, plugin.ErrNotFound)
		}
	}
	var err error
	s.selector, err = ParseSelector(c.QueryParam("selector"))
	s.all = len(s.selector) > 0 || len(s.names) == 0
	return s, err
}

// everything reports that all plugins are asked for, those that are deleted too.
func (s selection) everything() bool { return s.all && len(s.selector) == 0 && len(s.names) == 0 }

// sources are the plugins as they are now.
func (s selection) sources() []plugin.LogSource {
	var found []plugin.LogSource
	for _, name := range s.names {
		found = append(found, plugin.LogSource{Plugin: name})
	}
	if !s.all {
		return found
	}
	for after := ""; ; {
		page, next := s.plugins.List(after, logPage, s.selector.Match)
		for _, r := range page {
			found = append(found, plugin.LogSource{Plugin: r.Metadata.Name})
		}
		if after = next; next == "" {
			return found
		}
	}
}

// joins reports whether a plugin that was not there is chosen, too.
func (s selection) joins(name string) bool {
	r, ok := s.plugins.Get(name)
	return ok && s.selector.Match(r.Metadata.Labels)
}

// previousOf are the instances before the current ones, of plugins that had some.
func (a *API) previousOf(ctx context.Context, s selection) (found []plugin.LogSource, err error) {
	sources := s.sources()
	if len(sources) > logNamesMax {
		return nil, fmt.Errorf("previous: %w: %d plugins are chosen, the most is %d; choose fewer", plugin.ErrInvalid, len(sources), logNamesMax)
	}
	for _, source := range sources {
		r, ok := a.deps.Plugins.Get(source.Plugin)
		if !ok {
			continue // deleted meanwhile
		}
		instance, err := a.deps.Logs.Previous(ctx, source.Plugin, r.Status.Instance)
		switch {
		case errors.Is(err, plugin.ErrNotFound):
			continue
		case err != nil:
			return nil, err
		}
		found = append(found, plugin.LogSource{Plugin: source.Plugin, Instance: instance})
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("previous: %w: nothing of earlier instances is kept in the log", plugin.ErrNotFound)
	}
	return found, nil
}

// previous reads whether the instance before the current one is asked for.
func previous(c echo.Context, q logs.Query) (bool, error) {
	before, err := boolean(c, "previous")
	switch {
	case err != nil || !before:
		return false, err
	case q.Follow:
		return false, fmt.Errorf("previous: %w: an instance that is gone prints nothing more; leave out follow", plugin.ErrInvalid)
	case q.Instance != "":
		return false, fmt.Errorf("previous: %w: give it or instance, not both", plugin.ErrInvalid)
	}
	return true, nil
}

func logQuery(c echo.Context, now time.Time) (logs.Query, error) {
	q := logs.Query{After: lastID(c)}
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
	if err = chooseLines(c, &q); err != nil {
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

// chooseLines reads which lines are wanted.
func chooseLines(c echo.Context, q *logs.Query) (err error) {
	q.Level = c.QueryParam("level")
	if levels := logs.Levels(); q.Level != "" && !slices.Contains(levels, q.Level) {
		return fmt.Errorf("level: %w: %q is none; give one of %s", plugin.ErrInvalid, q.Level, strings.Join(levels, ", "))
	}
	grep := c.QueryParam("grep")
	switch {
	case grep == "":
		return nil
	case len(grep) > grepBytesMax:
		return fmt.Errorf("grep: %w: has %d bytes, the most is %d", plugin.ErrInvalid, len(grep), grepBytesMax)
	}
	if q.Grep, err = regexp.Compile(grep); err != nil {
		return fmt.Errorf("grep: %w: no regular expression (RE2): %w", plugin.ErrInvalid, err)
	}
	return nil
}
