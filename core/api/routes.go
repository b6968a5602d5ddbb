package api

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Scope is what a caller must be allowed to use a route. Today the one token has
// every scope but none is needed for Open.
type Scope string

// The scopes.
const (
	Open    Scope = "open"    // nobody is asked
	Read    Scope = "read"    // look
	Control Scope = "control" // apply, start, stop, restart, reload, roll back, pin, delete
	Call    Scope = "invoke"  // invoke operations
)

// Route is one row of the table: everything about one way to call the API.
type Route struct {
	// ID is the operationId, and the name of the client's method.
	ID      string
	Method  string
	Path    string // with {parameters}; {operation} may hold slashes
	Scope   Scope
	Summary string
	Query   []Param // and headers
	Input   *Body   // nil: none
	Output  Body    // of Status
	Status  int     // of success
	handler func(*API, echo.Context) error
}

// Param is a query parameter or a request header.
type Param struct {
	Name, Doc string
	In        string // "query" when empty
	Type      string // of JSON Schema; "string" when empty
}

// checkQuery refuses parameters that the row does not take: one that is misspelt,
// such as dryrun, must not do the opposite of what was meant.
func (r Route) checkQuery(raw string) error {
	if raw == "" {
		return nil
	}
	given, err := url.ParseQuery(raw)
	if err != nil {
		return fmt.Errorf("query: %w: %w", plugin.ErrInvalid, err)
	}
	var known []string
	for _, p := range r.Query {
		if p.In == "" || p.In == "query" {
			known = append(known, p.Name)
		}
	}
	for name := range given {
		if slices.Contains(known, name) {
			continue
		}
		if len(known) == 0 {
			return fmt.Errorf("query: %w: %q is not known here; this route takes no parameters", plugin.ErrInvalid, name)
		}
		return fmt.Errorf("query: %w: %q is not known here; known: %s", plugin.ErrInvalid, name, strings.Join(known, ", "))
	}
	return nil
}

// Body is what travels: a Go value whose type is the schema (nil: any), in
// one of the media types.
type Body struct {
	Of    any
	Media []string
}

func jsonOf(of any) Body { return Body{of, []string{wire.JSONType}} }

// manifestDoc stands for a manifest in the table; its schema is served.
type manifestDoc struct{}

// Routes is the API on one screen.
func Routes() []Route {
	var (
		one     = plugin.Resource{}
		follow  = Param{Name: "follow", Type: "boolean", Doc: "Go on with what comes. Without since or after, events begin now."}
		since   = Param{Name: "since", Doc: "Begin at this time: RFC 3339, or how long ago, such as 10m."}
		after   = Param{Name: "after", Doc: "Begin after the item with this id, exactly."}
		resume  = Param{Name: "Last-Event-ID", In: "header", Doc: "The same as after, as browsers and clients send it. When that is not kept, Server-Sent Events go on at the next best place, and an event gap says so."}
		tail    = Param{Name: "tail", Type: "integer", Doc: "Only the last so many kept lines, of those that are chosen."}
		level   = Param{Name: "level", Doc: "The least level: trace, debug, info, warn or error. A line without one counts as info."}
		grep    = Param{Name: "grep", Doc: "Only lines whose message or fields match this regular expression (RE2, at most 1 KiB)."}
		before  = Param{Name: "previous", Type: "boolean", Doc: "The instance before the current one instead of all."}
		which   = Param{Name: "instance", Doc: "Only this instance."}
		whose   = Param{Name: "plugin", Doc: "Names of plugins, with commas between; at most 100. Without these and selector: all plugins."}
		labels  = Param{Name: "selector", Doc: "Plugins by their labels, as labelSelector; those that come later, too."}
		kind    = Param{Name: "type", Doc: "Only events of this type."}
		ifMatch = Param{Name: "If-Match", In: "header", Doc: "Only if the plugin has this revision (its ETag); else 412. With *: only if it exists."}
		ifNone  = Param{Name: "If-None-Match", In: "header", Doc: "With *: only if there is no such plugin; else 412."}
		source  = Param{Name: "source", Doc: "Absolute folder that relative paths start from, for manifests that do not say so themselves."}
		file    = Param{Name: "file", Doc: "Name of the file, for the faults."}
		dryRun  = Param{Name: "dryRun", Type: "boolean", Doc: "Change nothing; answer what would."}
		timeout = Param{Name: "timeout", Doc: "Answer within this, such as 5s; the manifest's spec.timeouts.invoke when that is less."}
		to      = Param{Name: "to", Type: "integer", Doc: "The generation to go back to; the newest before the present one unless told."}
		verbose = Param{Name: "verbose", Type: "boolean", Doc: "Tell also of what is good to know, such as each adapter, and since when each is as it is."}
		paging  = []Param{
			{Name: "labelSelector", Doc: "Terms that must all hold, with commas between: k=v, k!=v, k, !k."},
			{Name: "limit", Type: "integer", Doc: "Items on a page: 100 unless told, at most 1000."},
			{Name: "continue", Doc: "The previous page's continue."},
		}
		events    = Body{plugin.Event{}, []string{wire.NDJSONType, wire.SSEType}}
		lines     = Body{plugin.LogLine{}, []string{wire.NDJSONType, wire.SSEType}}
		manifest  = &Body{manifestDoc{}, []string{wire.YAMLType, wire.JSONType}}
		manifests = &Body{wire.Files{}, []string{wire.JSONType, wire.YAMLType}}
		wanted    = Param{Name: wire.WantMetadataHeader, In: "header", Doc: "Keys, with commas between, or *: of what the plugin says beside its answer, as " + wire.MetadataPrefix + "KEY. Headers, or behind an answer in parts trailers."}
		anything  = &Body{nil, []string{wire.JSONType, wire.NDJSONType, "*/*"}}
		result    = Body{nil, []string{wire.JSONType, wire.NDJSONType, wire.SSEType, "*/*"}}
	)
	const name = "/v1/plugins/{name}"
	return []Route{
		{"Plugins", "GET", "/v1/plugins", Read, "List plugins, sorted by name.", paging, nil, jsonOf(wire.PluginList{}), 200, (*API).plugins},
		{"Plugin", "GET", name, Read, "One plugin: what was applied, and how it is.", nil, nil, jsonOf(one), 200, (*API).plugin},
		{"Put", "PUT", name, Control, "Apply one manifest; 201 when it is new.", []Param{source, ifMatch, ifNone}, manifest, jsonOf(one), 200, (*API).put},
		{"Delete", "DELETE", name, Control, "Stop a plugin and forget it.", []Param{ifMatch}, nil, Body{}, 204, (*API).remove},
		{"Start", "POST", name + "/start", Control, "Want it running. The answer does not wait for it.", nil, nil, jsonOf(one), 200, (*API).start},
		{"Stop", "POST", name + "/stop", Control, "Want it stopped. The answer does not wait for it.", nil, nil, jsonOf(one), 200, (*API).stop},
		{"Restart", "POST", name + "/restart", Control, "Replace the running instance. The answer does not wait for it.", nil, nil, jsonOf(one), 200, (*API).restart},
		{"Reload", "POST", name + "/reload", Control, "Launch a new instance beside the running one, which gets no more calls once the new one answers, and goes on if it does not; 409 where there cannot be two. The answer does not wait for it.", nil, nil, jsonOf(one), 200, (*API).reload},
		{"Revisions", "GET", name + "/revisions", Read, "What was applied, newest first, as far as it is kept: the last 64 changes.", nil, nil, jsonOf(wire.RevisionList{}), 200, (*API).revisions},
		{"Rollback", "POST", name + "/rollback", Control, "Apply the manifest of an earlier generation anew; 409 while it is pinned. The answer does not wait for it.", []Param{to}, nil, jsonOf(one), 200, (*API).rollback},
		{"Pin", "POST", name + "/pin", Control, "Hold it to its spec and to the digest of what it runs: a change of the spec is 409, another executable is not launched.", nil, nil, jsonOf(one), 200, (*API).pin},
		{"Unpin", "POST", name + "/unpin", Control, "Let it be changed again.", nil, nil, jsonOf(one), 200, (*API).unpin},
		{"Operations", "GET", name + "/operations", Read, "What the plugin offers.", nil, nil, jsonOf(wire.OperationList{}), 200, (*API).operations},
		{"Invoke", "POST", name + "/operations/{operation}", Call, "Invoke an operation. NDJSON or SSE is answered in parts as they come; an argument in NDJSON is given in parts, while the answer comes.", []Param{timeout, wanted}, anything, result, 200, (*API).invoke},
		{"Instances", "GET", name + "/instances", Read, "The running copies.", nil, nil, jsonOf(wire.InstanceList{}), 200, (*API).instances},
		{"Logs", "GET", name + "/logs", Read, "What the plugin printed.", []Param{follow, since, after, tail, level, grep, before, which, resume}, nil, lines, 200, (*API).logs},
		{"MergedLogs", "GET", "/v1/logs", Read, "What several plugins printed, in the order in which it came.", []Param{whose, labels, follow, since, after, tail, level, grep, before, resume}, nil, lines, 200, (*API).mergedLogs},
		{"PluginEvents", "GET", name + "/events", Read, "What happened to one plugin.", []Param{follow, since, after, kind, resume}, nil, events, 200, (*API).events},
		{"Events", "GET", "/v1/events", Read, "What happened to all plugins.", []Param{follow, since, after, kind, resume}, nil, events, 200, (*API).events},
		{"EventTypes", "GET", "/v1/events/types", Read, "The events that Patchbay tells, each with the JSON Schema of its data.", nil, nil, jsonOf(wire.EventTypeList{}), 200, (*API).eventTypes},
		{"Apply", "POST", "/v1/apply", Control, "Apply many manifests: all are checked before any is stored.", []Param{dryRun, source, file}, manifests, jsonOf(wire.ApplyResult{}), 200, (*API).apply},
		{"Validate", "POST", "/v1/validate", Read, "Check manifests and tell every fault.", []Param{source, file}, manifests, jsonOf(wire.Validation{}), 200, (*API).validate},
		{"Schema", "GET", "/v1/schema/plugin.json", Read, "JSON Schema of a manifest.", nil, nil, Body{nil, []string{schemaType}}, 200, (*API).schema},
		{"Strays", "GET", "/v1/strays", Read, "What earlier daemons left behind and nobody keeps: processes, containers, folders, sockets, statuses on the bus.", nil, nil, jsonOf(wire.StrayList{}), 200, (*API).strays},
		{"Sweep", "DELETE", "/v1/strays", Control, "Remove the strays, each proved anew before it is touched, and tell which are gone.", nil, nil, jsonOf(wire.StrayList{}), 200, (*API).sweep},
		{"Live", "GET", "/livez", Open, "The process is up.", nil, nil, jsonOf(wire.Liveness{}), 200, (*API).livez},
		{"Ready", "GET", "/readyz", Open, "The daemon can do its work; 503 says what cannot.", []Param{verbose}, nil, jsonOf(wire.Readiness{}), 200, (*API).readyz},
		{"Metrics", "GET", "/metrics", Read, "Prometheus metrics.", nil, nil, Body{nil, []string{"text/plain"}}, 200, (*API).metrics},
		{"Version", "GET", "/version", Read, "What is running.", nil, nil, jsonOf(wire.Version{}), 200, (*API).version},
		{"OpenAPI", "GET", "/openapi.json", Read, "This document.", nil, nil, Body{nil, []string{wire.JSONType}}, 200, (*API).openAPI},
	}
}
