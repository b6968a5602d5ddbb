package cli

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// TestApplyWait_saysHowEachIs has a first plugin that takes all the time: the
// second runs, and that is not denied.
func TestApplyWait_saysHowEachIs(t *testing.T) {
	newDaemon(t)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			answer(w, wire.ApplyResult{Items: []wire.Applied{{Name: "aa", Action: wire.Created}, {Name: "bb", Action: wire.Created}}})
			return
		}
		one := plugin.Resource{Generation: 1, Status: plugin.Status{Generation: 1, State: plugin.Running}}
		if one.Metadata.Name = filepath.Base(r.URL.Path); one.Metadata.Name == "aa" {
			one.Status.State, one.Status.Reason = plugin.Starting, "NoDocker"
		}
		answer(w, one)
	}))
	defer s.Close()
	t.Setenv("PATCHBAY_URL", s.URL)
	code, _, errs := patchbay(t, "apiVersion: x", "apply", "-f", "-", "--wait", "--timeout", "50ms")
	if want := "plugin/aa: deadline: it is still starting (NoDocker)\n"; code != exitTimeout || errs != want {
		t.Errorf("got %d %q, want %d %q", code, errs, exitTimeout, want)
	}
}

func TestFolder_whatIsAManifest(t *testing.T) {
	d := newDaemon(t)
	dir := folder(t, map[string]string{
		"misspelt.yaml": "apiVersoin: patchbay/v1\nkind: Plugin\n", "second.yaml": "a: 1\n---\nspec: {}\n", "flow.json": "{\"metadata\": {}}",
		"broken.yaml": "kind: Plugin\n  x: [\n", "values.yaml": "a: {kind: x}\nb: apiVersion\n", "list.json": "[1]", "..data/linked.yaml": "apiVersion: x",
	})
	for link, to := range map[string]string{"linked.yaml": "..data/linked.yaml", "folder.yaml": "..data"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	_, _, errs := patchbay(t, "", "validate", "-f", dir)
	var got []string
	for _, f := range d.files {
		got = append(got, filepath.Base(f.Name))
	}
	if want := "broken.yaml flow.json linked.yaml misspelt.yaml second.yaml"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s: %s", got, want, errs)
	}
	if strings.Count(errs, "left out") != 2 {
		t.Errorf("got %q, want two left out", errs)
	}
}

func TestUsage_isToldWithTheKinds(t *testing.T) {
	newDaemon(t)
	for args, want := range map[string]string{
		"get nonsense": `"nonsense" is not one of: plugins`, "get nonsense -o json": `"nonsense" is not one of: plugins`,
		"get": "say what to get: plugins", "describe nonsense x": "is not one of: plugin NAME", "describe": "say what to describe",
		"apply a.yaml b.yaml": "patchbay apply -f a.yaml -f b.yaml", "diff a.yaml": "-f a.yaml", "delete hello": "plugin NAME..., -f FILE",
	} {
		if code, _, errs := patchbay(t, "", strings.Fields(args)...); code != exitUsage || !strings.Contains(errs, want) {
			t.Errorf("%s: got %d %q, want %d %q", args, code, errs, exitUsage, want)
		}
	}
}

func TestConfig_isNotNeeded(t *testing.T) {
	d := newDaemon(t)
	dir := folder(t, map[string]string{"patchbay/config.yaml": "# nothing yet\n"})
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("PATCHBAY_URL", "")
	data := folder(t, map[string]string{"api.addr": d.URL, "api.token": "secret"})
	if _, err := configured(""); err != nil {
		t.Errorf("empty file: %v", err)
	}
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("HOME", "")
	if _, err := configured(""); err != nil {
		t.Errorf("no home: %v", err)
	}
	if _, err := configured("edge"); err == nil {
		t.Error("no home: a context was found")
	}
	if code, _, errs := patchbay(t, "", "get", "plugins", "--data-dir", data); code != 0 {
		t.Errorf("got %d %s", code, errs)
	}
}

func TestJSON_isReadable(t *testing.T) {
	var out bytes.Buffer
	in := map[string]any{"a": `<b> & \u003c \`, "raw": json.RawMessage(`"\u003e"`)}
	if err := printJSONLine(&out, in); err != nil {
		t.Fatal(err)
	}
	if want := `{"a":"<b> & \\u003c \\","raw":">"}` + "\n"; out.String() != want {
		t.Errorf("got %s, want %s", &out, want)
	}
	out.Reset()
	if err := printJSON(&out, "<"); err != nil || out.String() != "\"<\"\n" {
		t.Errorf("got %s %v", &out, err)
	}
}

func TestVersion_withoutANode(t *testing.T) {
	newDaemon(t)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, wire.Version{Version: "9", API: "v1"}) }))
	defer s.Close()
	t.Setenv("PATCHBAY_URL", s.URL)
	if _, out, _ := patchbay(t, "", "version"); !strings.HasSuffix(out, "daemon   9 (API v1)\n") {
		t.Errorf("got %q", out)
	}
}

func TestDescribe_streamWithoutAMessage(t *testing.T) {
	var out strings.Builder
	r := plugin.Resource{Status: plugin.Status{Since: time.Now(), Streams: []plugin.StreamStatus{{Kind: "k", Name: "n"}}}}
	if err := describeStatus(&out, r); err != nil || !strings.HasSuffix(out.String(), "0 dropped\n") {
		t.Errorf("got %q %v", out.String(), err)
	}
}

func TestLink_isToldOnStderr(t *testing.T) {
	var errs strings.Builder
	a := &app{errs: &errs}
	a.link(plugin.ErrUnavailable)
	a.link(nil)
	if want := "the link to the daemon is gone, looking for it again: unavailable\nthe daemon is back\n"; errs.String() != want {
		t.Errorf("got %q, want %q", errs.String(), want)
	}
}
