package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

const toyYAML = `apiVersion: patchbay/v1
kind: Plugin
metadata: {name: %s}
spec:
  toy: {command: [bin/toy]}
`

func problem(t *testing.T, body []byte) wire.Problem {
	t.Helper()
	var p wire.Problem
	if err := json.Unmarshal(body, &p); err != nil {
		t.Fatalf("got %s, want a problem: %v", body, err)
	}
	return p
}

func TestToken_isAskedForByAllButOpenRoutes(t *testing.T) {
	a := New(testDeps(t, newShelf("one")))
	for _, r := range Routes() {
		path := strings.NewReplacer("{name}", "one", "{operation}", "echo").Replace(r.Path)
		for _, token := range []string{"", "Bearer wrong", "Bearer ", testToken, "Bearer " + testToken + "x"} {
			w := ask(t, a, r.Method, path, "", "Authorization: "+token)
			if open := r.Scope == Open; open != (w.Code != http.StatusUnauthorized) {
				t.Errorf("%s with %q: got %d, want open %v", r.ID, token, w.Code, open)
			}
		}
	}
	d := testDeps(t, newShelf())
	d.Token = ""
	if w := ask(t, New(d), "GET", "/v1/plugins", "", "Authorization: Bearer "); w.Code != http.StatusUnauthorized {
		t.Errorf("without a token in Deps: got %d, want nobody let in", w.Code)
	}
}

func TestProblems_byClass(t *testing.T) {
	a := New(testDeps(t, newShelf("one")))
	ops := "/v1/plugins/one/operations/"
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		code                     string
	}{
		{"no such path", "GET", "/v2", "", 404, wire.CodeNotFound},
		{"no such method", "PATCH", "/v1/plugins/one", "", 405, wire.CodeMethod},
		{"no such plugin", "GET", "/v1/plugins/two", "", 404, wire.CodeNotFound},
		{"no such operation", "POST", ops + "fly", "", 404, wire.CodeNotFound},
		{"refusal", "POST", ops + "refuse", "", 422, wire.CodeRefusal},
		{"refusal with a status", "POST", ops + "refuse%20as%20409", "", 409, wire.CodeRefusal},
		{"busy", "POST", ops + "busy", "", 429, wire.CodeBusy},
		{"broken link", "POST", ops + "gone", "", 503, wire.CodeUnavailable},
		{"deadline", "POST", ops + "hang?timeout=1ms", "", 504, wire.CodeDeadline},
		{"bad timeout", "POST", ops + "echo?timeout=soon", "", 400, wire.CodeInvalid},
		{"panic", "POST", ops + "panic", "", 500, wire.CodeInternal},
		{"bad selector", "GET", "/v1/plugins?labelSelector=a%3Db%3Dc", "", 400, wire.CodeInvalid},
		{"bad limit", "GET", "/v1/plugins?limit=-1", "", 400, wire.CodeInvalid},
		{"bad continue", "GET", "/v1/plugins?continue=*", "", 400, wire.CodeInvalid},
		{"bad since", "GET", "/v1/events?since=yesterday", "", 400, wire.CodeInvalid},
		{"bad event id", "GET", "/v1/events?after=x", "", 400, wire.CodeInvalid},
		{"forgotten event", "GET", "/v1/events?after=99", "", 404, wire.CodeNotFound},
		{"bad plugin name for events", "GET", "/v1/plugins/%3E/events", "", 404, wire.CodeNotFound},
		{"bad level", "GET", "/v1/plugins/one/logs?level=loud", "", 400, wire.CodeInvalid},
		{"bad grep", "GET", "/v1/logs?grep=(", "", 400, wire.CodeInvalid},
		{"long grep", "GET", "/v1/logs?grep=" + strings.Repeat("x", grepBytesMax+1), "", 400, wire.CodeInvalid},
		{"previous that follows", "GET", "/v1/logs?previous&follow", "", 400, wire.CodeInvalid},
		{"previous instance", "GET", "/v1/plugins/one/logs?previous&instance=one-1", "", 400, wire.CodeInvalid},
		{"no previous", "GET", "/v1/plugins/one/logs?previous", "", 404, wire.CodeNotFound},
		{"no previous of any", "GET", "/v1/logs?previous", "", 404, wire.CodeNotFound},
		{"logs of nobody", "GET", "/v1/logs?plugin=one,nobody", "", 404, wire.CodeNotFound},
		{"bad log selector", "GET", "/v1/logs?selector=a%3Db%3Dc", "", 400, wire.CodeInvalid},
		{"unknown log parameter", "GET", "/v1/logs?labelSelector=a", "", 400, wire.CodeInvalid},
		{"bad line id", "GET", "/v1/plugins/one/logs?after=x", "", 400, wire.CodeInvalid},
		{"large manifest", "PUT", "/v1/plugins/one", strings.Repeat("x", plugin.ManifestBytesMax+1), 413, wire.CodeTooLarge},
		{"other name", "PUT", "/v1/plugins/other?source=/", fmt.Sprintf(toyYAML, "one"), 400, wire.CodeInvalid},
		{"no files", "POST", "/v1/apply", "", 400, wire.CodeInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := ask(t, a, tt.method, tt.path, tt.body)
			p := problem(t, w.Body.Bytes())
			if w.Code != tt.status || p.Status != tt.status || p.Code != tt.code || p.Type != wire.ProblemBase+tt.code {
				t.Errorf("got %d %+v, want %d %s", w.Code, p, tt.status, tt.code)
			}
			if got := w.Header().Get("Content-Type"); got != wire.ProblemType {
				t.Errorf("got type %s", got)
			}
			if strings.Contains(p.Detail, "operator is broken") {
				t.Errorf("got %q, want no insides told", p.Detail)
			}
		})
	}
}

func TestInvoke_bytesPassAsTheyAre(t *testing.T) {
	d := testDeps(t, newShelf("one"))
	a := New(d)
	body := "{ \"n\": 12345678901234567890.10,\n \"s\": \"\\u00e9\" }"
	w := ask(t, a, "POST", "/v1/plugins/one/operations/echo", body,
		"Content-Type: application/json", "Patchbay-Meta-Tenant: t1", "Patchbay-Invocation: mine-1", "Traceparent: 00-1-2-3")
	if w.Code != 200 || w.Body.String() != body {
		t.Errorf("got %d %q, want the argument", w.Code, w.Body)
	}
	if got := w.Header().Get("Content-Type"); got != wire.JSONType {
		t.Errorf("got %q, want JSON", got)
	}
	in := d.Invoker.(*operator).last
	if in.ID != "mine-1" || in.Metadata["tenant"] != "t1" || in.Metadata["traceparent"] != "00-1-2-3" || len(in.Metadata) != 2 || in.ContentType != "" || in.Caller != "rest" {
		t.Errorf("got %+v", in)
	}
	if got := w.Header().Get(wire.InvocationHeader); got != "mine-1" {
		t.Errorf("got invocation %q, want mine-1", got)
	}
	w = ask(t, a, "POST", "/v1/plugins/one/operations/echo", "\x00\xff", "Content-Type: image/png")
	if w.Body.String() != "\x00\xff" || w.Header().Get("Content-Type") != "image/png" {
		t.Errorf("got %q %v, want the picture", w.Body, w.Header())
	}
}

func TestInvoke_operationsMayHaveSlashes(t *testing.T) {
	d := testDeps(t, newShelf("one"))
	a := New(d)
	for _, path := range []string{"pkg.Service/Echo", "pkg.Service%2FEcho"} {
		if w := ask(t, a, "POST", "/v1/plugins/one/operations/"+path, "1"); w.Body.String() != "1" {
			t.Errorf("%s: got %d %s, want 1", path, w.Code, w.Body)
		}
	}
}

func TestInvoke_refusalKeepsThePluginsWords(t *testing.T) {
	a := New(testDeps(t, newShelf("one")))
	p := problem(t, ask(t, a, "POST", "/v1/plugins/one/operations/refuse", "{}").Body.Bytes())
	if p.Refusal == nil || p.Refusal.Code != "E7" || p.Refusal.Message != "no thanks" || string(p.Refusal.Details) != `{"why":"tired"}` {
		t.Errorf("got %+v, want the plugin's own words", p.Refusal)
	}
}

func TestInvoke_streams(t *testing.T) {
	a := New(testDeps(t, newShelf("one")))
	for _, tt := range []struct{ operation, accept, want string }{
		{"count", wire.NDJSONType, "0\n1\n2\n"},
		{"count", wire.SSEType, "data: 0\n\ndata: 1\n\ndata: 2\n\nevent: end\ndata: {}\n\n"},
		{"echo", wire.SSEType + ", */*;q=0.1", "data: {\"a\":[1,2]}\n\nevent: end\ndata: {}\n\n"},
	} {
		w := ask(t, a, "POST", "/v1/plugins/one/operations/"+tt.operation, "{\"a\":\n[1,2]}", "Accept: "+tt.accept)
		if got := w.Body.String(); w.Code != 200 || got != tt.want {
			t.Errorf("%s %s: got %d %q, want %q", tt.operation, tt.accept, w.Code, got, tt.want)
		}
	}
}

func TestInvoke_streamThatBreaks(t *testing.T) {
	a := New(testDeps(t, newShelf("one")))
	w := ask(t, a, "POST", "/v1/plugins/one/operations/break", "", "Accept: "+wire.NDJSONType)
	lines := strings.Split(strings.TrimSpace(w.Body.String()), "\n")
	if len(lines) != 2 || lines[0] != `{"a":1}` || !strings.Contains(lines[1], `{"problem":{"type":"https://patchbay.dev/problems/unavailable"`) {
		t.Errorf("got %q, want a part and a problem", lines)
	}
	for operation, status := range map[string]int{"refuse": 422, "panic": 500, "hang?timeout=1ms": 504} { // before the first part it has its own status
		if w := ask(t, a, "POST", "/v1/plugins/one/operations/"+operation, "", "Accept: "+wire.SSEType); w.Code != status {
			t.Errorf("%s: got %d, want %d", operation, w.Code, status)
		}
	}
}

func TestPut_preconditions(t *testing.T) {
	a := New(testDeps(t, newShelf()))
	text := fmt.Sprintf(toyYAML, "one")
	path := "/v1/plugins/one?source=/opt"
	for _, tt := range []struct {
		name, header string
		status       int
		etag         string
	}{
		{"new, but expected to be there", `If-Match: "1"`, 412, ""},
		{"new", "If-None-Match: *", 201, `"1"`},
		{"again, but expected to be new", "If-None-Match: *", 412, ""},
		{"expected revision", `If-Match: "1"`, 200, `"2"`},
		{"old revision", `If-Match: "1"`, 412, ""},
		{"no ETag", `If-Match: x`, 400, ""},
		{"nothing expected", "Accept: */*", 200, `"3"`},
	} {
		w := ask(t, a, "PUT", path, text, tt.header)
		if w.Code != tt.status || w.Header().Get("ETag") != tt.etag {
			t.Errorf("%s: got %d %s %s, want %d %s", tt.name, w.Code, w.Header().Get("ETag"), w.Body, tt.status, tt.etag)
		}
	}
	if w := ask(t, a, "DELETE", "/v1/plugins/one", "", `If-Match: "1"`); w.Code != 412 {
		t.Errorf("delete of an old revision: got %d, want 412", w.Code)
	}
	if w := ask(t, a, "DELETE", "/v1/plugins/one", "", `If-Match: "3"`); w.Code != 204 {
		t.Errorf("delete: got %d %s, want 204", w.Code, w.Body)
	}
}

func TestList_pagesAndSelects(t *testing.T) {
	var names []string
	for i := range 25 {
		names = append(names, fmt.Sprintf("p%02d", i))
	}
	a := New(testDeps(t, newShelf(names...)))
	var seen []string
	for next := ""; ; {
		var list wire.PluginList
		if err := json.Unmarshal(ask(t, a, "GET", "/v1/plugins?limit=10&labelSelector=team&continue="+next, "").Body.Bytes(), &list); err != nil {
			t.Fatal(err)
		}
		for _, r := range list.Items {
			seen = append(seen, r.Metadata.Name)
		}
		if next = list.Continue; next == "" {
			break
		}
	}
	if got, want := fmt.Sprint(seen), fmt.Sprint(names); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if w := ask(t, a, "GET", "/v1/plugins?labelSelector=!team", ""); w.Body.String() != `{"items":[]}` {
		t.Errorf("got %s, want none", w.Body)
	}
}

func TestApply_allOrNothingIsChecked(t *testing.T) {
	plugins := newShelf()
	a := New(testDeps(t, plugins))
	files := func(all ...wire.File) string {
		text, err := json.Marshal(wire.Files{Files: all})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	good := wire.File{Name: "a.yaml", Source: "/opt", Content: fmt.Sprintf(toyYAML, "a") + "---\n" + fmt.Sprintf(toyYAML, "b")}
	bad := wire.File{Name: "b.yaml", Source: "/opt", Content: strings.Replace(fmt.Sprintf(toyYAML, "c"), "command", "comand", 1)}
	twice := wire.File{Name: "c.yaml", Source: "/opt", Content: fmt.Sprintf(toyYAML, "a")}

	w := ask(t, a, "POST", "/v1/apply", files(good, bad, twice), "Content-Type: application/json")
	p := problem(t, w.Body.Bytes())
	if w.Code != 400 || len(plugins.all) != 0 || len(p.Errors) < 2 {
		t.Fatalf("got %d %+v and %d stored, want every fault and nothing stored", w.Code, p, len(plugins.all))
	}
	if f := p.Errors[0]; f.File != "b.yaml" || f.Line != 5 || !strings.HasPrefix(f.Path, "spec.toy") {
		t.Errorf("got %+v, want b.yaml:5 spec.toy...", f)
	}

	apply := func(query string) wire.ApplyResult {
		t.Helper()
		w := ask(t, a, "POST", "/v1/apply"+query, files(good), "Content-Type: application/json")
		var result wire.ApplyResult
		if err := json.Unmarshal(w.Body.Bytes(), &result); err != nil || w.Code != 200 || len(result.Items) != 2 {
			t.Fatalf("got %d %s, want two results", w.Code, w.Body)
		}
		return result
	}
	if r := apply("?dryRun=true"); r.Items[0].Action != wire.Created || len(plugins.all) != 0 {
		t.Errorf("dry run: got %+v and %d stored, want a plan", r, len(plugins.all))
	}
	if r := apply(""); r.Items[1].Action != wire.Created || r.Items[1].Revision != 2 {
		t.Errorf("got %+v, want created at revision 2", r)
	}
	if r := apply(""); r.Items[0].Action != wire.Unchanged || r.Items[0].Revision != 1 {
		t.Errorf("again: got %+v, want unchanged at revision 1", r)
	}
	good.Content = strings.Replace(good.Content, "bin/toy", "bin/other", 1)
	if r := apply("?dryRun"); r.Items[0].Action != wire.Changed || !r.Items[0].Restarts || len(r.Items[0].Changes) != 1 || r.Items[1].Action != wire.Unchanged {
		t.Errorf("changed: got %+v, want one change that restarts", r)
	}
}

func TestApply_tellsWhatWasStored(t *testing.T) {
	plugins := newShelf()
	plugins.fail = fmt.Errorf("store: %w: no quorum", plugin.ErrUnavailable)
	a := New(testDeps(t, plugins))
	text := fmt.Sprintf(toyYAML, "a") + "---\n" + fmt.Sprintf(toyYAML, "b")
	w := ask(t, a, "POST", "/v1/apply?source=/opt", text, "Content-Type: application/yaml")
	p := problem(t, w.Body.Bytes())
	if w.Code != 503 || len(p.Results) != 2 || p.Results[0].Problem == nil || p.Results[1].Action != wire.Created {
		t.Errorf("got %d %+v, want the first not and the second applied", w.Code, p)
	}
}

func TestDaemonRoutes(t *testing.T) {
	d := testDeps(t, newShelf("one"))
	a := New(d)
	d.Metrics.Invoked(plugin.InvocationRecord{Plugin: "one", Outcome: "ok", DurationMicros: 1500})
	ask(t, a, "GET", "/metrics", "") // so that the next one counts it
	metrics := ask(t, a, "GET", "/metrics", "").Body.String()
	for _, want := range []string{
		`patchbay_plugin_up{adapter="toy",plugin="one"} 1`, "go_goroutines", "process_resident_memory_bytes",
		`patchbay_invocation_duration_seconds_count{outcome="ok",plugin="one"} 1`,
		`patchbay_http_requests_total{code="2xx",method="GET",route="/metrics"} 1`, "patchbay_http_requests_in_flight 1",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics: no %s", want)
		}
	}
	if w := ask(t, a, "GET", "/v1/schema/plugin.json", ""); !json.Valid(w.Body.Bytes()) || !strings.Contains(w.Body.String(), "toy") {
		t.Errorf("got %s, want a schema", w.Body)
	}
	if w := ask(t, a, "GET", "/openapi.json", ""); !bytes.Equal(w.Body.Bytes(), openAPIDocument) {
		t.Error("openapi.json is not what is checked in")
	}
	if w := ask(t, a, "GET", "/readyz", ""); w.Code != 200 {
		t.Errorf("got %d %s, want ready", w.Code, w.Body)
	}
	if w := ask(t, a, "GET", "/readyz", ""); strings.Contains(w.Body.String(), "since") || strings.Contains(w.Body.String(), "adapter") {
		t.Errorf("got %s, want no more than is needed", w.Body)
	}
	for query, want := range map[string]int{"verbose": 200, "verbose=true": 200, "verbose=maybe": 400, "verbos": 400} {
		w := ask(t, a, "GET", "/readyz?"+query, "")
		if w.Code != want {
			t.Errorf("?%s: got %d %s, want %d", query, w.Code, w.Body, want)
		}
		if want == 200 && !strings.Contains(w.Body.String(), `"name":"adapter/toy","ready":false,"detail":"out of order","advisory":true`) {
			t.Errorf("?%s: got %s, want the adapter and why it is not available", query, w.Body)
		}
		if want == 200 && !strings.Contains(w.Body.String(), `"since":"1970-01-01T00:00:01Z","latencyMicros":1000`) {
			t.Errorf("?%s: got %s, want since when and how long", query, w.Body)
		}
	}
	d.Health = frail{errTest}
	if w := ask(t, New(d), "GET", "/readyz", ""); w.Code != 503 || !strings.Contains(w.Body.String(), "out of order") {
		t.Errorf("got %d %s, want why it is not ready", w.Code, w.Body)
	}
}

func TestAccessLog_isBoundedAndTellsWhatItDropped(t *testing.T) {
	var out bytes.Buffer
	d := testDeps(t, newShelf("one"))
	d.AccessLog = &out
	a := New(d)
	for range 3000 {
		ask(t, a, "POST", "/v1/plugins/one/operations/echo?secret=1", `{"secret":2}`)
	}
	if len(a.access.buf) > accessBytesMax || a.access.dropped == 0 {
		t.Fatalf("got %d bytes, %d dropped, want a bound", len(a.access.buf), a.access.dropped)
	}
	a.access.flush(nil)
	ask(t, a, "GET", "/v1/plugins/tw%22o", "")
	a.access.flush(nil)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for _, line := range lines {
		if !json.Valid([]byte(line)) || strings.Contains(line, "secret") {
			t.Fatalf("got %s, want JSON without the query and the body", line)
		}
	}
	var last struct {
		Status  int
		Path    string
		Dropped int
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Status != 404 || last.Path != `/v1/plugins/tw"o` || last.Dropped == 0 {
		t.Errorf("got %+v %v, want the 404 and how many were dropped", last, err)
	}
}
