// Package wire is the JSON of the REST API that is not vocabulary of the house:
// lists, plans, problems. The server (core/api), the client (sdk/go/client) and the
// OpenAPI document share it. It owns no state and does no I/O; fields are only
// ever added.
package wire

import (
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// The query parameters, headers and media types that server and client share.
const (
	// ProblemType is the media type of every error.
	ProblemType = "application/problem+json"
	JSONType    = "application/json"
	YAMLType    = "application/yaml"
	// NDJSONType has one JSON value per line; an empty line is a sign of life.
	// A last line {"problem": {...}} says why it ended early.
	NDJSONType = "application/x-ndjson"
	// SSEType is Server-Sent Events: messages carry the items, "event: problem"
	// says why it ended early, "event: end" that nothing more will come.
	SSEType = "text/event-stream"

	// InvocationHeader names the invocation in the answer, and in the request when
	// the caller wants to choose the name.
	InvocationHeader = "Patchbay-Invocation"
	// MetadataPrefix begins headers that travel to the plugin as metadata.
	MetadataPrefix = "Patchbay-Meta-"
	// WantMetadataHeader asks for metadata that the plugin sends beside its answer: keys
	// with commas between, or *. It comes as headers of the answer, and behind an
	// answer in parts as trailers.
	WantMetadataHeader = "Patchbay-Want-Metadata"
	// OutcomeTrailer follows every stream: ok, or the code of the problem in it.
	OutcomeTrailer = "Patchbay-Outcome"
	// OutcomeOK is its value when nothing went wrong.
	OutcomeOK = "ok"
)

// The names of the SSE events besides the default one.
const (
	EndEvent     = "end"
	ProblemEvent = "problem"
	// GapEvent says that what follows Last-Event-ID is not all kept. Its data is a Gap,
	// its id that of Gap.After.
	GapEvent = "gap"
)

// Gap is where a stream goes on whose place was lost.
type Gap struct {
	Lost   string `json:"lost"`   // the place that was asked for
	After  string `json:"after"`  // it goes on after this one
	Detail string `json:"detail"` // for people
}

// The files of the data folder in which a daemon says where it is.
const (
	APIAddrFile   = "api.addr"   // http://127.0.0.1:7420
	APITokenFile  = "api.token"  // the bearer token, mode 0600
	NATSAddrFile  = "nats.addr"  // nats://127.0.0.1:7422
	NATSTokenFile = "nats.token" // mode 0600
)

// PluginList is one page of plugins, sorted by name.
type PluginList struct {
	Items []plugin.Resource `json:"items"`
	// Continue asks for the next page; absent on the last.
	Continue string `json:"continue,omitempty" doc:"Give it as continue to get the next page; absent on the last."`
}

// RevisionList is what was applied to a plugin.
type RevisionList struct {
	Items []plugin.Revision `json:"items"` // newest first
}

// OperationList is what a plugin offers.
type OperationList struct {
	Items []plugin.Operation `json:"items"`
}

// InstanceList is the running copies of a plugin: one for now.
type InstanceList struct {
	Items []plugin.Status `json:"items"`
}

// StrayList is what earlier daemons left behind and nobody keeps.
type StrayList struct {
	Items []plugin.Stray `json:"items"`
	// Unknown says where nobody could look, such as at an engine that is away.
	Unknown []string `json:"unknown,omitempty" doc:"Where nobody could look now, such as at an engine that is away."`
	// Problems say what could not be removed.
	Problems []string `json:"problems,omitempty" doc:"What could not be removed."`
}

// EventTypeList is the catalogue of Patchbay's own events.
type EventTypeList struct {
	Items []EventType `json:"items"`
}

// EventType is one row of the catalogue.
type EventType struct {
	Type    string `json:"type"`
	Since   string `json:"since" doc:"The version of Patchbay that told it first."`
	Summary string `json:"summary"`
	// Schema is of the event's data.
	Schema plugin.RawJSON `json:"schema" doc:"JSON Schema (2020-12) of the event's data."`
}

// Files is several manifest files in one request.
type Files struct {
	Files []File `json:"files" doc:"Manifest files; each may hold several documents."`
}

// File is one file of manifests.
type File struct {
	Name string `json:"name" doc:"Named in faults."`
	// Source becomes metadata.source of the documents that have none.
	Source  string `json:"source,omitempty" doc:"Absolute folder that relative paths start from, for documents that do not say so themselves."`
	Content string `json:"content" doc:"YAML or JSON text."`
}

// Action is what apply did, or would do, to one plugin.
type Action string

// The actions.
const (
	Created   Action = "created"
	Changed   Action = "changed"
	Unchanged Action = "unchanged"
)

// ApplyResult is what apply did, or with dryRun would do, in the order of the
// documents.
type ApplyResult struct {
	DryRun bool      `json:"dryRun,omitempty"`
	Items  []Applied `json:"items"`
}

// Applied is what happened to one plugin.
type Applied struct {
	Name   string `json:"name"`
	Action Action `json:"action,omitempty" doc:"What was done, or would be with dryRun; absent when it could not be." enum:"created,changed,unchanged"`
	// Revision is the new one; the present one with dryRun, 0 if there is none.
	Revision uint64 `json:"revision,omitempty"`
	// Restarts is true when a running instance is replaced.
	Restarts bool     `json:"restarts,omitempty" doc:"A running instance is replaced."`
	Changes  []Change `json:"changes,omitempty"`
	// Problem says why this plugin could not be applied.
	Problem *Problem `json:"problem,omitempty" doc:"Why this plugin could not be applied."`
}

// Change is one field that differs. Secrets are references, so no value is one.
type Change struct {
	Path string `json:"path"`
	// Old and New are JSON texts, empty when the field is absent.
	Old      string `json:"old,omitempty" doc:"JSON text; absent when the field was."`
	New      string `json:"new,omitempty" doc:"JSON text; absent when the field is."`
	Restarts bool   `json:"restarts,omitempty" doc:"This change replaces a running instance."`
}

// Validation lists the plugins of manifests without a fault.
type Validation struct {
	Names []string `json:"names"`
}

// Version says what is running.
type Version struct {
	Version string `json:"version"`
	// Node names this daemon among others on the same bus.
	Node string `json:"node,omitempty"`
	Go   string `json:"go,omitempty"`
	API  string `json:"api" doc:"Version of this API: v1."`
}

// Liveness is the answer of a process that is up.
type Liveness struct {
	Live bool `json:"live"`
}

// Readiness says whether the daemon can do its work, and what cannot.
type Readiness struct {
	Ready      bool        `json:"ready"`
	Components []Component `json:"components"`
}

// Component is one thing that the daemon needs.
type Component struct {
	Name   string `json:"name"`
	Ready  bool   `json:"ready"`
	Detail string `json:"detail,omitempty" doc:"Why it is not ready."`
	// Advisory, Since and LatencyMicros are told when verbose is asked for.
	Advisory      bool       `json:"advisory,omitempty" doc:"The daemon does its work without it."`
	Since         *time.Time `json:"since,omitempty" doc:"When it began to be so, as far as anybody asked."`
	LatencyMicros int64      `json:"latencyMicros,omitempty" doc:"How long its answer took."`
}
