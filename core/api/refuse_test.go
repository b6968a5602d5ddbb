package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestQuery_unknownParametersAreRefused(t *testing.T) {
	plugins := newShelf("one")
	a := New(testDeps(t, plugins))
	for _, tt := range []struct {
		method, target string
		want           []string
	}{
		{"POST", "/v1/apply?dryrun=true", []string{`"dryrun"`, "known: dryRun, source, file"}},
		{"POST", "/v1/apply?dryRun=true;x", []string{"query: invalid"}},
		{"PUT", "/v1/plugins/two?dryRun=true", []string{`"dryRun"`, "known: source"}},
		{"GET", "/v1/plugins/one/logs?Last-Event-ID=1", []string{"known: follow, since, after, tail"}},
		{"DELETE", "/v1/plugins/one?dryRun=true", []string{"takes no parameters"}},
	} {
		w := ask(t, a, tt.method, tt.target, fmt.Sprintf(toyYAML, "two"), "Content-Type: "+wire.YAMLType)
		p := problem(t, w.Body.Bytes())
		if w.Code != http.StatusBadRequest {
			t.Errorf("%s %s: got %d, want 400", tt.method, tt.target, w.Code)
		}
		for _, want := range tt.want {
			if !strings.Contains(p.Detail, want) {
				t.Errorf("%s %s: got %q, want it to say %q", tt.method, tt.target, p.Detail, want)
			}
		}
	}
	if _, applied := plugins.Get("two"); applied {
		t.Error("a refused request was done")
	}
	if _, there := plugins.Get("one"); !there {
		t.Error("a refused request was done")
	}
}

func TestInvoke_curlsContentTypeIsJSON(t *testing.T) {
	d := testDeps(t, newShelf("one"))
	a := New(d)
	for media, want := range map[string]string{
		"application/x-www-form-urlencoded": "", "": "", "application/json": "", "application/json; charset=utf-8": "", "image/png": "image/png",
	} {
		if w := ask(t, a, "POST", "/v1/plugins/one/operations/echo", "{}", "Content-Type: "+media); w.Code != 200 {
			t.Fatalf("%q: got %d", media, w.Code)
		}
		if got := d.Invoker.(*operator).last.ContentType; got != want {
			t.Errorf("%q: got %q, want %q", media, got, want)
		}
	}
}

func TestAuthorization_words(t *testing.T) {
	a := New(testDeps(t, newShelf("one")))
	for _, tt := range []struct {
		header string
		status int
		detail string
	}{
		{"bearer " + testToken, 200, ""}, {"BEARER  " + testToken, 200, ""},
		{"Bearer wrong", 401, "the token is wrong"}, {"", 401, "a bearer token is needed"}, {"Basic eDp5", 401, "a bearer token is needed"},
	} {
		w := ask(t, a, "GET", "/v1/plugins/one", "", "Authorization: "+tt.header)
		if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.detail) {
			t.Errorf("%q: got %d %s, want %d %q", tt.header, w.Code, w.Body, tt.status, tt.detail)
		}
	}
}

func TestIfMatch_anyRevision(t *testing.T) {
	plugins := newShelf("one")
	a := New(testDeps(t, plugins))
	put := func(name string) int {
		return ask(t, a, "PUT", "/v1/plugins/"+name+"?source=/", fmt.Sprintf(toyYAML, name), "If-Match: *").Code
	}
	if got := put("two"); got != http.StatusPreconditionFailed {
		t.Errorf("one that is not there: got %d, want 412", got)
	}
	plugins.fail = plugin.ErrConflict // somebody else is faster, once
	if got := put("one"); got != http.StatusOK {
		t.Errorf("one that is there: got %d, want 200", got)
	}
	for _, want := range []int{http.StatusNoContent, http.StatusPreconditionFailed} {
		if got := ask(t, a, "DELETE", "/v1/plugins/one", "", "If-Match: *").Code; got != want {
			t.Errorf("delete: got %d, want %d", got, want)
		}
	}
}

func TestTooLarge_saysWhatToDo(t *testing.T) {
	a := New(testDeps(t, newShelf()))
	w := ask(t, a, "POST", "/v1/apply", strings.Repeat("x", filesBytesMax+1))
	if p := problem(t, w.Body.Bytes()); w.Code != 413 || !strings.Contains(p.Detail, "apply fewer files at once") {
		t.Errorf("got %d %q, want the advice", w.Code, p.Detail)
	}
}

func TestInvoke_saysWhenToComeAgain(t *testing.T) {
	a := New(testDeps(t, newShelf("one")))
	w := ask(t, a, "POST", "/v1/plugins/one/operations/stopping", "{}")
	if p := problem(t, w.Body.Bytes()); w.Code != 503 || w.Header().Get("Retry-After") != "2" || !strings.Contains(p.Detail, "stopping") {
		t.Errorf("got %d %q, Retry-After %q; want 503, stopping, 2", w.Code, p.Detail, w.Header().Get("Retry-After"))
	}
}
