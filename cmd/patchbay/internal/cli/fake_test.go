package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// daemon answers as one would, and remembers what it was asked.
type daemon struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string // "METHOD /path"
	files []wire.File
	state plugin.State
	count int // of restarts
	// reloaded is the last reload; nil: there was none.
	reloaded *plugin.Reload
}

func newDaemon(t *testing.T) *daemon {
	t.Helper()
	d := &daemon{state: plugin.Running}
	mux := http.NewServeMux()
	for pattern, answer := range map[string]func(w http.ResponseWriter, r *http.Request){
		"GET /v1/plugins":                            d.list,
		"GET /v1/plugins/{name}":                     d.one,
		"DELETE /v1/plugins/{name}":                  d.remove,
		"POST /v1/plugins/{name}/start":              d.become(plugin.Running),
		"POST /v1/plugins/{name}/stop":               d.become(plugin.Stopped),
		"POST /v1/plugins/{name}/restart":            d.restart,
		"POST /v1/plugins/{name}/reload":             d.reload,
		"POST /v1/plugins/{name}/rollback":           d.restart,
		"POST /v1/plugins/{name}/pin":                d.pin,
		"POST /v1/plugins/{name}/unpin":              d.one,
		"GET /v1/plugins/{name}/revisions":           d.revisions,
		"GET /v1/plugins/{name}/operations":          d.operations,
		"GET /v1/plugins/{name}/instances":           d.instances,
		"POST /v1/plugins/{name}/operations/{op...}": d.invoke,
		"GET /v1/plugins/{name}/logs":                d.logs,
		"GET /v1/logs":                               d.mergedLogs,
		"GET /v1/plugins/{name}/events":              d.events,
		"GET /v1/events":                             d.events,
		"POST /v1/apply":                             d.apply,
		"POST /v1/validate":                          d.validate,
		"GET /v1/strays":                             d.strays,
		"DELETE /v1/strays":                          d.strays,
		"GET /v1/events/types":                       d.eventTypes,
		"GET /readyz":                                d.ready,
		"GET /version":                               d.version,
	} {
		mux.HandleFunc(pattern, answer)
	}
	d.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		d.asked = append(d.asked, r.Method+" "+r.URL.Path)
		d.mu.Unlock()
		if r.Header.Get("Authorization") != "Bearer secret" {
			tell(w, wire.NewProblem(wire.CodeUnauthorized, "a token is needed"))
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(d.Close)
	t.Setenv("PATCHBAY_URL", d.URL)
	t.Setenv("PATCHBAY_TOKEN", "secret")
	t.Setenv("PATCHBAY_DATA_DIR", "")
	t.Setenv("PATCHBAY_TOKEN_FILE", "")
	t.Setenv("PATCHBAY_CONTEXT", "")
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	return d
}

func (d *daemon) eventTypes(w http.ResponseWriter, _ *http.Request) {
	answer(w, wire.EventTypeList{Items: []wire.EventType{{Type: plugin.EventState, Since: "0.1.0", Summary: "It changed.", Schema: plugin.RawJSON(`{"type":"object"}`)}}})
}

func (d *daemon) ready(w http.ResponseWriter, r *http.Request) {
	since := time.Now().Add(-90 * time.Minute)
	w.WriteHeader(http.StatusServiceUnavailable)
	answer(w, wire.Readiness{Components: []wire.Component{
		{Name: "bus", Ready: true, Since: &since, LatencyMicros: 1500}, {Name: "disk", Detail: "1 MiB is free", Since: &since},
		{Name: "adapter/container", Advisory: true, Detail: "no engine"},
	}})
}

func tell(w http.ResponseWriter, p wire.Problem) {
	w.Header().Set("Content-Type", wire.ProblemType)
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p)
}

func answer(w http.ResponseWriter, v any) { json.NewEncoder(w).Encode(v) }

func (d *daemon) resource(name string) plugin.Resource {
	d.mu.Lock()
	defer d.mu.Unlock()
	return plugin.Resource{
		Manifest: plugin.Manifest{
			APIVersion: plugin.APIVersion, Kind: plugin.Kind,
			Metadata: plugin.Metadata{Name: name, Labels: map[string]string{"team": "edge"}},
			Spec:     plugin.Spec{Adapter: "starlark", Block: plugin.RawJSON(`{"module":"hello.star"}`)},
		},
		Revision: 7, Generation: 2, Desired: plugin.DesiredRunning,
		Status: plugin.Status{
			Plugin: name, Instance: fmt.Sprintf("%s-%d", name, d.count), Adapter: "starlark", State: d.state, Reason: "Answers",
			Since: time.Now().Add(-90 * time.Minute), Generation: 2, Restarts: d.count, Facts: map[string]string{"pid": "42"},
			Conditions: []plugin.Condition{{Type: plugin.ConditionReady, Status: plugin.ConditionTrue, Reason: "ProbePassed", LastTransitionTime: time.Now().Add(-time.Hour)},
				{Type: plugin.ConditionLive, Status: plugin.ConditionUnknown, Reason: "ProbeFailed", Message: "deaf"}},
			LastReload: d.reloaded,
			Limits:     []plugin.LimitStatus{{Name: "memory", By: "cgroup2"}, {Name: "cpu", Message: "no controller"}},
			LastStop:   &plugin.Stop{Instance: name + "-9", DurationMillis: 1204, Steps: []plugin.StopStep{{Name: "drain", DurationMillis: 3, Outcome: "done"}, {Name: "kill", DurationMillis: 1201, Outcome: "ended"}}},
		},
	}
}

func (d *daemon) strays(w http.ResponseWriter, _ *http.Request) {
	answer(w, wire.StrayList{Items: []plugin.Stray{{Kind: "process", Name: "4711", Adapter: "provider", Instance: "p-1", Detail: "/bin/p\x1b"}}})
}

func (d *daemon) list(w http.ResponseWriter, r *http.Request) {
	list := wire.PluginList{Items: []plugin.Resource{}}
	switch {
	case r.URL.Query().Get("labelSelector") == "team=none":
	case r.URL.Query().Get("continue") == "":
		list = wire.PluginList{Items: []plugin.Resource{d.resource("hello")}, Continue: "more"}
	default:
		list.Items = append(list.Items, d.resource("world"))
	}
	answer(w, list)
}

// known answers for names that are no plugin.
func known(w http.ResponseWriter, r *http.Request) bool {
	if name := r.PathValue("name"); name == "nobody" {
		tell(w, wire.NewProblem(wire.CodeNotFound, `plugin "nobody": not found`))
		return false
	}
	return true
}

func (d *daemon) one(w http.ResponseWriter, r *http.Request) {
	if known(w, r) {
		answer(w, d.resource(r.PathValue("name")))
	}
}

func (d *daemon) remove(w http.ResponseWriter, r *http.Request) {
	if known(w, r) {
		w.WriteHeader(http.StatusNoContent)
	}
}

func (d *daemon) become(s plugin.State) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		d.state = s
		d.mu.Unlock()
		d.one(w, r)
	}
}

func (d *daemon) restart(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	d.count, d.state = d.count+1, plugin.Running
	d.mu.Unlock()
	d.one(w, r)
}

// reload is over at once; the plugin named world never takes it.
func (d *daemon) reload(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	d.reloaded = &plugin.Reload{At: time.Now(), Outcome: plugin.ReloadDone, From: "hello-1", To: "hello-2", Generation: 2}
	if r.PathValue("name") == "world" {
		d.reloaded.Outcome, d.reloaded.Message = plugin.ReloadFailed, "exit code 7"
	}
	d.mu.Unlock()
	d.one(w, r)
}

func (d *daemon) pin(w http.ResponseWriter, r *http.Request) {
	if known(w, r) {
		answer(w, plugin.Resource{Pin: &plugin.Pin{Generation: 2, Digest: "sha256:ab"}})
	}
}

func (d *daemon) revisions(w http.ResponseWriter, r *http.Request) {
	if known(w, r) {
		answer(w, wire.RevisionList{Items: []plugin.Revision{
			{Generation: 2, Applied: time.Now().Add(-time.Hour), Current: true},
			{Generation: 1, Applied: time.Now().Add(-2 * time.Hour), Fault: "spec.quantum: is no field"},
		}})
	}
}

func (d *daemon) operations(w http.ResponseWriter, r *http.Request) {
	if known(w, r) {
		answer(w, wire.OperationList{Items: []plugin.Operation{
			{Name: "count", Streams: true, Summary: "counts"},
			{Name: "sum", TakesStream: true},
			{Name: "talk", Streams: true, TakesStream: true},
			{Name: "greet", Input: plugin.RawJSON(`{"type":"object","properties":{"name":{}}}`)},
		}})
	}
}

func (d *daemon) instances(w http.ResponseWriter, r *http.Request) {
	answer(w, wire.InstanceList{Items: []plugin.Status{d.resource(r.PathValue("name")).Status}})
}

func (d *daemon) invoke(w http.ResponseWriter, r *http.Request) {
	if r.PathValue("op") == "talk" {
		talk(w, r)
		return
	}
	var body bytes.Buffer
	body.ReadFrom(r.Body)
	switch r.PathValue("op") {
	case "greet":
		w.Header().Set("Content-Type", wire.JSONType)
		fmt.Fprintf(w, `{"got":%q,"timeout":%q}`, body.String(), r.URL.Query().Get("timeout"))
	case "count":
		w.Header().Set("Content-Type", wire.SSEType)
		fmt.Fprint(w, "data: 1\n\n: heartbeat\n\ndata: 2\n\nevent: end\ndata: {}\n\n")
	case "sum":
		w.Header().Set("Content-Type", wire.JSONType)
		w.Header().Set(wire.MetadataPrefix+"Tiny-Bin", "AAE=")
		fmt.Fprintf(w, `{"got":%q,"as":%q,"want":%q}`, body.String(), r.Header.Get("Content-Type"), r.Header.Get(wire.WantMetadataHeader))
	case "refuse":
		p := wire.NewProblem(wire.CodeRefusal, "no thanks")
		p.Refusal = &plugin.Refusal{Code: "E7", Message: "no thanks", Details: plugin.RawJSON(`{"why":"tired"}`)}
		tell(w, p)
	case "break":
		tell(w, wire.NewProblem(wire.CodeUnavailable, "plugin hello: break: unavailable: the link broke"))
	case "late":
		tell(w, wire.NewProblem(wire.CodeDeadline, "plugin hello: late: deadline"))
	default:
		tell(w, wire.NewProblem(wire.CodeNotFound, "no such operation"))
	}
}

// taken returns what was asked since the last time.
func (d *daemon) taken() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	asked := d.asked
	d.asked = nil
	return asked
}

// talk answers each part as it comes, and refuses "no".
func talk(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex()
	w.Header().Set("Content-Type", wire.SSEType)
	for from := bufio.NewScanner(r.Body); from.Scan(); control.Flush() {
		if from.Text() == `"no"` {
			fmt.Fprint(w, "event: problem\ndata: {\"code\":\"refusal\",\"status\":422,\"refusal\":{\"message\":\"enough\"}}\n\n")
			return
		}
		fmt.Fprintf(w, "data: %s\n\n", from.Text())
	}
	fmt.Fprint(w, "event: end\ndata: {}\n\n")
}

func (d *daemon) logs(w http.ResponseWriter, r *http.Request) {
	if !known(w, r) {
		return
	}
	w.Header().Set("Content-Type", wire.SSEType)
	at := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	text, _ := json.Marshal(plugin.LogLine{Time: at, Plugin: "hello", Stream: plugin.Stderr, Level: "warn", Message: "tail=" + r.URL.Query().Get("tail") + "\x1b[31m", Fields: plugin.RawJSON(`{"b":2,"a":"x"}`)})
	fmt.Fprintf(w, "id: 1.1\ndata: %s\n\nevent: end\ndata: {}\n\n", text)
}

func (d *daemon) mergedLogs(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", wire.SSEType)
	for i, l := range []plugin.LogLine{
		{Plugin: "hello", Stream: plugin.Stderr, Sequence: 1, Level: "error", Message: "panic: x\n\tat y\x1b", Lines: 2, Dropped: 120},
		{Plugin: "wider-name", Stream: plugin.Stdout, Sequence: 1, Message: r.URL.RawQuery},
	} {
		text, _ := json.Marshal(l)
		fmt.Fprintf(w, "id: 1.%d\ndata: %s\n\n", i+1, text)
	}
	fmt.Fprint(w, "event: end\ndata: {}\n\n")
}

func (d *daemon) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", wire.SSEType)
	change, _ := json.Marshal(plugin.StateChange{From: plugin.Running, To: plugin.Backoff, Cause: "exited",
		Status: plugin.Status{Plugin: "hello", State: plugin.Backoff, Reason: "Exited", Message: "exit code 3"}})
	for i, e := range []plugin.Event{
		{ID: "1", Plugin: "hello", Type: plugin.EventState, Data: change},
		{ID: "2", Plugin: "hello", Type: plugin.EventInvocations, Data: plugin.RawJSON(`[{"operation":"greet","outcome":"ok"},{"operation":"greet","outcome":"ok"}]`)},
		{ID: "3", Plugin: "hello", Type: "com.acme.ripe", Data: plugin.RawJSON(`{"n":1}`)},
	} {
		e.Sequence = uint64(i + 1)
		text, _ := json.Marshal(e)
		fmt.Fprintf(w, "id: %d\ndata: %s\n\n", i+1, text)
	}
	fmt.Fprint(w, "event: end\ndata: {}\n\n")
}

func (d *daemon) apply(w http.ResponseWriter, r *http.Request) {
	if d.validated(w, r) {
		answer(w, wire.ApplyResult{DryRun: r.URL.Query().Get("dryRun") == "true", Items: []wire.Applied{
			{Name: "hello", Action: wire.Changed, Revision: 8, Restarts: true, Changes: []wire.Change{{Path: "spec.digest", Old: `"a"`, New: `"b"`, Restarts: true}}},
			{Name: "world", Action: wire.Unchanged, Revision: 3},
		}})
	}
}

func (d *daemon) validate(w http.ResponseWriter, r *http.Request) {
	if d.validated(w, r) {
		answer(w, wire.Validation{Names: []string{"hello", "world"}})
	}
}

func (d *daemon) validated(w http.ResponseWriter, r *http.Request) bool {
	var upload wire.Files
	if err := json.NewDecoder(r.Body).Decode(&upload); err != nil {
		tell(w, wire.NewProblem(wire.CodeInvalid, err.Error()))
		return false
	}
	d.mu.Lock()
	d.files = upload.Files
	d.mu.Unlock()
	var faults plugin.Faults
	for _, f := range upload.Files {
		if strings.Contains(f.Content, "bad") {
			faults = append(faults, plugin.Fault{File: f.Name, Line: 3, Column: 5, Path: "spec.bad", Detail: "unknown field"})
		}
	}
	if len(faults) > 0 {
		tell(w, wire.ProblemOf(faults))
	}
	return len(faults) == 0
}

func (d *daemon) version(w http.ResponseWriter, _ *http.Request) {
	answer(w, wire.Version{Version: "9.9", API: "v1", Node: "n1"})
}

// patchbay runs the command line.
func patchbay(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(context.Background(), "1.2.3", Given{}, args, streams{strings.NewReader(stdin), &out, &errs})
	return code, out.String(), errs.String()
}

// folder writes files, and returns where.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
