package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// testHost is a host without a socket.
func testHost(emitted error) (*host, *bytes.Buffer, *[]plugin.Event) {
	var out bytes.Buffer
	var events []plugin.Event
	h := &host{
		out: &out, stored: map[string]plugin.RawJSON{"cows": plugin.RawJSON("{}")}, left: make(chan fault, 1),
		emit: func(_ context.Context, e plugin.Event) error {
			events = append(events, e)
			return emitted
		},
	}
	return h, &out, &events
}

func ask(h *host, method, path string, body io.Reader) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, body))
	return w
}

// TestLog_always204: anything else and the common library never comes back.
func TestLog_always204(t *testing.T) {
	h, out, _ := testHost(nil)
	for _, prefix := range hostPrefixes {
		for _, body := range []string{
			"", "null", "{", "[1]", `{"Level": 17, "Message": "m"}`, `{"Level": {"a": 1}}`, `{"Message": 3}`, "\xff\xfe",
			`{"Time": "yesterday"}`, strings.Repeat("x", 2<<20), `{"Message": "` + strings.Repeat("\\u0001", 1<<19) + `"}`,
		} {
			for _, method := range []string{"POST", "GET", "PUT"} {
				if w := ask(h, method, prefix+"/log", strings.NewReader(body)); w.Code != http.StatusNoContent || w.Body.Len() > 0 {
					t.Errorf("%s %s %.40q: got %d, want 204", method, prefix, body, w.Code)
				}
			}
		}
	}
	for line := range bytes.Lines(out.Bytes()) {
		if len(line) > plugin.LogLineBytesMax || !json.Valid(line) {
			t.Errorf("line of %d bytes: %.80q", len(line), line)
		}
	}
}

func TestLine_levels(t *testing.T) {
	h, _, _ := testHost(nil)
	for level, want := range map[string]string{
		`"trace"`: "trace", `"debug"`: "debug", `"info"`: "info", `"warn"`: "warn", `"error"`: "error", `"fatal"`: "error",
		`"panic"`: "error", `"audit"`: "info", `0`: "trace", `1`: "debug", `2`: "info", `3`: "warn", `4`: "error", `7`: "info", `"odd"`: "info",
	} {
		var k keptLine
		if err := json.Unmarshal(h.line([]byte(`{"Level": `+level+`, "Message": "m"}`)), &k); err != nil || k.Level != want {
			t.Errorf("%s: got %q (%v), want %q", level, k.Level, err, want)
		}
	}
	if line := h.line([]byte(`{"Level":"debug","Message":"API: st: 404 lt: 3µs m: GET /api-plugin/v4/patchbay-probe"}`)); line != nil {
		t.Errorf("the word about our probe is kept: %s", line)
	}
}

func TestHost_answers(t *testing.T) {
	for _, tt := range []struct {
		method, path, body string
		emitted            error
		status             int
		want               string
	}{
		{"POST", "/api-server-plugin/v4/publish", `{"Type": "ma.ch", "Action": "up*", "Key": "k", "Object": {}}`, nil, 200, `"Code":200`},
		{"POST", "/api-plugin-server/v4/publish", `{"Type": "a", "Action": "b"}`, errors.New("full"), 409, `"full"`},
		{"POST", "/api-server-plugin/v3/publish", `{"Action": "b"}`, nil, 400, "Type or Action is empty"},
		{"POST", "/api-server-plugin/v4/publish", `[`, nil, 400, "not an event"},
		{"POST", "/api-server-plugin/v4/publish", strings.Repeat("x", plugin.EventDataBytesMax+1), nil, 413, "at most"},
		{"GET", "/api-server-plugin/v4/publish", "", nil, 404, `"Code":404`},
		{"POST", "/api-server-plugin/v4/leaving", "null", nil, 204, ""},
		{"GET", "/api-server-plugin/v4/objects/cows", "", nil, 200, "[]"},
		{"GET", "/api-server-plugin/v4/objects/cows/elsie", "", nil, 404, "no such object"},
		{"GET", "/api-server-plugin/v4/objects/dogs", "", nil, 404, "no such object"},
		{"POST", "/api-server-plugin/v4/objects/cows", "{}", nil, 404, `"Code":404`},
		{"GET", "/api/v3/machines/1/params/a/b", "", nil, 501, "does not serve the Digital Rebar API"},
		{"POST", "/", "", nil, 404, `"Key":"/"`},
	} {
		h, _, events := testHost(tt.emitted)
		w := ask(h, tt.method, tt.path, strings.NewReader(tt.body))
		if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s %s %.40q: got %d %s, want %d and %q", tt.method, tt.path, tt.body, w.Code, w.Body, tt.status, tt.want)
		}
		if tt.status != 204 && w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: no JSON content type", tt.method, tt.path)
		}
		if tt.status == 200 && len(*events) == 1 && ((*events)[0].Type != "ma_ch.up_" || (*events)[0].Subject != "k") {
			t.Errorf("event: got %+v", *events)
		}
	}
}

func TestRedactor(t *testing.T) {
	d := &definition{params: map[string]param{"p": {Secure: true}, "open": {}}}
	s := settings{hidden: []string{"h"}, params: map[string]plugin.RawJSON{
		"p": plugin.RawJSON(`{"deep": ["secret-one", 123456]}`), "h": plugin.RawJSON(`"secret-one-longer"`), "open": plugin.RawJSON(`"open text"`),
	}}
	r := newRedactor(plugin.Launch{}, s, d, "the-token")
	got := r.text("secret-one-longer, secret-one, 123456, open text, the-token")
	if want := "[redacted], [redacted], [redacted], open text, [redacted]"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	value, _ := json.Marshal(r.value([]any{"x secret-one", map[string]any{"k": "123456"}, 3.0}))
	if want := `["x [redacted]",{"k":"[redacted]"},3]`; string(value) != want {
		t.Errorf("got %s, want %s", value, want)
	}
	if got := (redactor{}).text("as it is"); got != "as it is" {
		t.Errorf("got %q", got)
	}
}

func TestFault_unwrapped(t *testing.T) {
	deep := `{"Messages": ["end"], "Code": 1}`
	for range 3 {
		wrapped, _ := json.Marshal(fault{Messages: []string{deep}})
		deep = string(wrapped)
	}
	f, ok := parseFault([]byte(deep))
	if got := f.unwrapped(); !ok || got.text() != "end" || got.Code != 1 {
		t.Errorf("got %+v, %v", got, ok)
	}
	for _, text := range []string{"", "null", "[]", "what?", "{}", `"text"`} {
		if f, ok := parseFault([]byte(text)); ok {
			t.Errorf("%q: got %+v, want that it is no fault", text, f)
		}
	}
	if got := (fault{Code: 404}).text(); got != "not found" {
		t.Errorf("got %q", got)
	}
}

// FuzzHost posts anything to every path: no panic, log always 204, and what is
// kept is one line of JSON.
func FuzzHost(f *testing.F) {
	f.Add([]byte(`{"Group":1,"Seq":2,"Time":"2024-01-01T00:00:00Z","Service":"s","Level":"info","Message":"m","Data":[{"a":1}]}`), false)
	f.Add([]byte(`{"Time":"9999-12-31T23:59:59-23:59","Message":"m","Data":[1e999]}`), true)
	f.Add([]byte(`{"Type":"machines","Action":"update","Key":"a.b.c","Object":null}`), true)
	f.Add([]byte(`{"Code":403,"Messages":["{\"Messages\":[\"x\"]}"]}`), true)
	f.Fuzz(func(t *testing.T, body []byte, secret bool) {
		h, out, events := testHost(nil)
		if secret {
			h.hide = redactor{strings.NewReplacer("secret", redacted)}
		}
		if w := ask(h, "POST", "/api-server-plugin/v4/log", bytes.NewReader(body)); w.Code != http.StatusNoContent {
			t.Fatalf("log: got %d", w.Code)
		}
		if text := out.Bytes(); len(text) > 0 && (bytes.Count(text, []byte("\n")) != 1 || !json.Valid(text) || len(text) > plugin.LogLineBytesMax) {
			t.Fatalf("log: kept %q", text)
		}
		w := ask(h, "POST", "/api-plugin-server/v4/publish", bytes.NewReader(body))
		if (w.Code == http.StatusOK) != (len(*events) == 1) || !json.Valid(w.Body.Bytes()) {
			t.Fatalf("publish: got %d %s with %d events", w.Code, w.Body, len(*events))
		}
		for _, e := range *events {
			if !json.Valid(e.Data) || strings.Trim(e.Type, ".") == "" {
				t.Fatalf("publish: got %+v", e)
			}
		}
		if w := ask(h, "POST", "/api-server-plugin/v4/leaving", bytes.NewReader(body)); w.Code != http.StatusNoContent {
			t.Fatalf("leaving: got %d", w.Code)
		}
	})
}

// FuzzDefinition: whatever define prints, we get a usable definition or an error.
func FuzzDefinition(f *testing.F) {
	f.Add([]byte(`{"Name":"ok","PluginVersion":4,"AvailableActions":[{"Command":"c","Model":"m","RequiredParams":["a"],"OptionalParams":null}],"Content":"sections: {params: {a: {Schema: {default: 1}}}}"}`))
	f.Add([]byte(`{"Name":"ok","PluginVersion":2,"Content":"a: &a [*a]"}`))
	f.Add([]byte(`{"Name":"ok","PluginVersion":2,"Content":"sections: {params: {a: {Schema: {1: {2: .nan}, default: .inf}}}}"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := parseDefinition(data)
		if err != nil {
			if !errors.Is(err, plugin.ErrInvalid) {
				t.Fatalf("got %v, want invalid", err)
			}
			return
		}
		ops, err := newOperations(d, "name")
		if err != nil {
			return
		}
		for _, op := range ops.listed {
			if o, err := op.describe(); err != nil || !json.Valid(o.Input) {
				t.Fatalf("describe: got %+v, %v", o, err)
			}
		}
		if body, err := d.config("name", nil); err == nil && !json.Valid(body) {
			t.Fatalf("config: got %s", body)
		}
	})
}

// FuzzFault: an error body of any form gives a text.
func FuzzFault(f *testing.F) {
	f.Add(400, []byte(`{"Messages":["{\"Messages\":[\"bad\"],\"Code\":400}"],"Code":400}`))
	f.Add(500, []byte(`{"Messages":["Panic recovered: x"],"Code":500}`))
	f.Add(404, []byte(`{"Messages":null,"Code":404}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if err := configError(answer{status, body}, redactor{}); err == nil || err.Error() == "" {
			t.Fatal("no error")
		}
		if fault, ok := parseFault(body); ok {
			if r := fault.refusal(status, body, redactor{}); r.Message == "" && len(fault.Messages) == 0 {
				t.Fatalf("no message: %+v", r)
			}
		}
	})
}

// FuzzRequest: an argument never adds to the request beyond its place.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"a":1}`), true)
	f.Add([]byte(`{"Model":{},"Params":{"a":1}}`), false)
	f.Add([]byte(`{},"Command":"other"`), true)
	f.Fuzz(func(t *testing.T, argument []byte, system bool) {
		a := action{Command: "c", OptionalParams: []string{"x"}}
		if !system {
			a.Model = "machines"
		}
		d := &definition{params: map[string]param{"x": {Default: plugin.RawJSON("1")}}}
		op, err := newOperation(d, a, "name")
		if err != nil {
			t.Fatal(err)
		}
		body, err := op.request(argument)
		if err != nil {
			return
		}
		var got struct {
			Plugin, Command, CommandSet string
			Model                       any
			Params                      map[string]any
		}
		decoder := json.NewDecoder(bytes.NewReader(body))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&got); err != nil || got.Command != "c" || got.Plugin != "name" || got.Params["x"] == nil {
			t.Fatalf("got %s: %v", body, err)
		}
	})
}
