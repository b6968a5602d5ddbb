package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/manifest"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/store"
)

const (
	// filesBytesMax bounds one upload of several files, each of which is bounded
	// by plugin.ManifestBytesMax: room for 10,000 small manifests.
	filesBytesMax = 16 << 20
	// filesMax bounds the files in it: each costs a parse.
	filesMax = 10000
	// planTries is how often a plan is made anew because somebody else was faster.
	planTries = 3
)

func (a *API) apply(c echo.Context) error {
	dryRun, err := boolean(c, "dryRun")
	if err != nil {
		return err
	}
	manifests, err := a.uploaded(c)
	if err != nil {
		return err
	}
	result := wire.ApplyResult{DryRun: dryRun, Items: make([]wire.Applied, 0, len(manifests))}
	var failed []error
	for _, m := range manifests {
		done, err := a.applyOne(c.Request().Context(), m, dryRun)
		if err != nil {
			problem := problemOf(err, "/v1/plugins/"+m.Metadata.Name)
			done = wire.Applied{Name: m.Metadata.Name, Problem: &problem}
			failed = append(failed, err)
		}
		result.Items = append(result.Items, done)
	}
	if len(failed) > 0 {
		err := fmt.Errorf("%d of %d plugins were not applied: %w", len(failed), len(manifests), failed[0])
		return &coded{err: err, results: result.Items}
	}
	return a.json(c, http.StatusOK, result)
}

// applyOne compares m with what is stored and stores it if it differs. It writes
// against the revision that it compared with, so that the plan it answers is what
// happened.
func (a *API) applyOne(ctx context.Context, m plugin.Manifest, dryRun bool) (wire.Applied, error) {
	for try := 1; ; try++ {
		done, expect, err := a.plan(m)
		if err != nil || dryRun || done.Action == wire.Unchanged {
			return done, err
		}
		r, _, err := a.deps.Plugins.Put(ctx, m, expect)
		if err == nil {
			done.Revision = r.Revision
			return done, nil
		}
		if try == planTries || !errors.Is(err, plugin.ErrConflict) {
			return done, err
		}
	}
}

// plan says what would change. A pinned plugin refuses a change of its spec.
func (a *API) plan(m plugin.Manifest) (wire.Applied, store.Expect, error) {
	done := wire.Applied{Name: m.Metadata.Name, Action: wire.Created}
	old, exists := a.deps.Plugins.Get(m.Metadata.Name)
	if !exists {
		return done, store.Expect{Absent: true}, nil
	}
	done.Action, done.Revision = wire.Unchanged, old.Revision
	for _, change := range manifest.Diff(old.Manifest, m) {
		done.Action = wire.Changed
		done.Restarts = done.Restarts || change.Restarts
		if held(old) && strings.HasPrefix(change.Path, "spec") {
			return done, store.Expect{}, old.Pin.Refuses(m.Metadata.Name)
		}
		done.Changes = append(done.Changes, wire.Change{Path: change.Path, Old: change.Old, New: change.New, Restarts: change.Restarts})
	}
	return done, store.Expect{Revision: old.Revision}, nil
}

// held reports a plugin whose spec must not change. What was pinned and is not accepted
// any more has no spec: any may take its place.
func held(r plugin.Resource) bool { return r.Pin != nil && r.Manifest.Spec.Adapter != "" }

func (a *API) validate(c echo.Context) error {
	manifests, err := a.uploaded(c)
	if err != nil {
		return err
	}
	result := wire.Validation{Names: make([]string, len(manifests))}
	for i, m := range manifests {
		result.Names[i] = m.Metadata.Name
	}
	return a.json(c, http.StatusOK, result)
}

func (a *API) schema(c echo.Context) error {
	text, err := a.deps.Parser.Schema()
	if err != nil {
		return err
	}
	a.write(c, http.StatusOK, schemaType, text)
	return nil
}

// uploaded reads and checks every manifest of the request: several files as
// JSON, or one file as it is.
func (a *API) uploaded(c echo.Context) ([]plugin.Manifest, error) {
	files, err := uploadedFiles(c)
	if err != nil {
		return nil, err
	}
	var all []plugin.Manifest
	var faults plugin.Faults
	where := map[string]string{}
	for _, f := range files {
		manifests, err := a.parse(f)
		if found, ok := errors.AsType[plugin.Faults](err); ok {
			faults = append(faults, found...)
			continue
		}
		if err != nil {
			return nil, err
		}
		for i, m := range manifests {
			if other, twice := where[m.Metadata.Name]; twice {
				faults = append(faults, plugin.Fault{Path: "metadata.name", File: f.Name, Document: i + 1,
					Detail: fmt.Sprintf("%q is also in %s; give each plugin its own name", m.Metadata.Name, other)})
			}
			where[m.Metadata.Name] = f.Name
		}
		all = append(all, manifests...)
	}
	if len(faults) > 0 {
		return nil, faults // in the order of the files, and of the lines in each
	}
	return all, nil
}

func (a *API) parse(f wire.File) ([]plugin.Manifest, error) {
	if f.Source != "" && !filepath.IsAbs(f.Source) {
		return nil, plugin.Faults{{File: f.Name, Path: "source", Detail: fmt.Sprintf("%q is not an absolute folder", f.Source)}}
	}
	return a.deps.Parser.ParseFrom(f.Name, f.Source, []byte(f.Content))
}

func uploadedFiles(c echo.Context) ([]wire.File, error) {
	data, err := body(c, filesBytesMax, "apply fewer files at once")
	if err != nil {
		return nil, err
	}
	media, _, _ := mime.ParseMediaType(c.Request().Header.Get("Content-Type"))
	if media != wire.JSONType {
		return []wire.File{{Name: c.QueryParam("file"), Source: c.QueryParam("source"), Content: string(data)}}, nil
	}
	var upload wire.Files
	if err := json.Unmarshal(data, &upload); err != nil {
		return nil, fmt.Errorf("body: %w: %w", plugin.ErrInvalid, err)
	}
	if len(upload.Files) == 0 || len(upload.Files) > filesMax {
		return nil, fmt.Errorf("body: %w: want 1 to %d files; send one manifest, JSON or YAML, as %s", plugin.ErrInvalid, filesMax, wire.YAMLType)
	}
	return upload.Files, nil
}
