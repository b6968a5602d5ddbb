package plugin_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "a-1": true, "1a": true, strings.Repeat("a", 63): true,
		"": false, "-a": false, "a-": false, "A": false, "a_b": false, "a.b": false, strings.Repeat("a", 64): false, "a\n": false,
	} {
		if got := plugin.ValidName(name); got != want {
			t.Errorf("ValidName(%q): got %t, want %t", name, got, want)
		}
	}
}

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{"250ms": 250 * time.Millisecond, "10m": 10 * time.Minute, "1h30m": 90 * time.Minute, "2h": 2 * time.Hour} {
		var d plugin.Duration
		if err := d.UnmarshalText([]byte(text)); err != nil || d.Std() != want {
			t.Errorf("%s: got %s, %v", text, d.Std(), err)
		}
		if back, _ := d.MarshalText(); string(back) != text {
			t.Errorf("%s is written back as %s", text, back)
		}
	}
	for _, bad := range []string{"", "5", "0s", "-1s", "9000h", "soon"} {
		if err := new(plugin.Duration).UnmarshalText([]byte(bad)); err == nil || !strings.Contains(err.Error(), "write") {
			t.Errorf("%q: got %v, want a fault that says what would be right", bad, err)
		}
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]plugin.Bytes{"256MiB": 256 << 20, "1GiB": 1 << 30, "64KB": 64000, "1.5KiB": 1536, "17": 17, " 2 MiB ": 2 << 20} {
		var b plugin.Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b != want {
			t.Errorf("%q: got %d, %v; want %d", text, b, err, want)
		}
	}
	for _, bad := range []string{"", "0", "-1MiB", "1XB", "9999999999TiB", "MiB", "NaN", "InfKiB"} {
		if err := new(plugin.Bytes).UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q: got no fault", bad)
		}
	}
}

func TestEnvValue(t *testing.T) {
	for text, want := range map[string]plugin.EnvValue{
		`"a"`: {Value: "a"}, `5`: {Value: "5"}, `true`: {Value: "true"}, `{"secret":"v/k"}`: {Secret: "v/k"}, `""`: {},
	} {
		var v plugin.EnvValue
		if err := json.Unmarshal([]byte(text), &v); err != nil || v != want {
			t.Errorf("%s: got %+v, %v", text, v, err)
		}
	}
	for _, bad := range []string{`[]`, `{"secret":""}`, `{"secret":"a","b":"c"}`, `{"value":"a"}`, `{}`} {
		if err := json.Unmarshal([]byte(bad), new(plugin.EnvValue)); err == nil {
			t.Errorf("%s: got no fault", bad)
		}
	}
}

func TestManifest_survivesJSON(t *testing.T) {
	text := `{"apiVersion":"patchbay/v1","kind":"Plugin","metadata":{"name":"a"},` +
		`"spec":{"provider":{"command":["x"]},"env":{"K":{"secret":"s"},"V":"1"},"restart":{"backoff":{"min":"1s"}},` +
		`"limits":{"memory":"256MiB"},"streams":[{"source":"s","config":{"n":1},"publish":"d"}]}}`
	var m plugin.Manifest
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	if m.Spec.Adapter != "provider" || string(m.Spec.Block) != `{"command":["x"]}` {
		t.Errorf("adapter %q with block %s", m.Spec.Adapter, m.Spec.Block)
	}
	back, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(text, string(back)); diff != "" {
		t.Errorf("written back (-want +got):\n%s", diff)
	}
}

func TestManifest_path(t *testing.T) {
	m := plugin.Manifest{Metadata: plugin.Metadata{Source: "/a/b"}}
	for in, want := range map[string]string{"../c": "/a/c", "/x/../y": "/y", "bin/p": "/a/b/bin/p"} {
		if got, err := m.Path(in); err != nil || got != want {
			t.Errorf("%s: got %s %v, want %s", in, got, err, want)
		}
	}
	if _, err := (plugin.Manifest{}).Path("bin/p"); err == nil {
		t.Error("a relative path without a source folder: got no fault")
	}
}

func TestEvent_survivesJSON(t *testing.T) {
	e := plugin.Event{
		ID: "1", Source: "/s", Type: "t", Subject: "p", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Plugin: "p", ContentType: "application/json", Data: plugin.RawJSON(`{"a":1}`), Sequence: 7,
	}
	data, err := json.Marshal(e)
	if err != nil || !strings.Contains(string(data), `"specversion":"1.0"`) {
		t.Fatalf("got %s %v", data, err)
	}
	var back plugin.Event
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(e, back); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFaults(t *testing.T) {
	var f plugin.Faults
	if f.Err() != nil {
		t.Error("no faults are an error")
	}
	f.Add("spec.b", "is %d", 2)
	f = append(f, plugin.Fault{File: "x.yaml", Path: "spec.a", Line: 3, Column: 5, Detail: "is missing"})
	err := fmt.Errorf("apply: %w", f.Err())
	if !errors.Is(err, plugin.ErrInvalid) {
		t.Error("faults are not ErrInvalid")
	}
	if want := "apply: spec.b: is 2\nx.yaml:3:5: spec.a: is missing"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

func TestExit_inWords(t *testing.T) {
	for want, e := range map[string]plugin.Exit{
		"exit code 3": {Code: 3}, "killed by SIGKILL": {Code: -1, Signal: "SIGKILL"}, "out of memory (killed by SIGKILL)": {Code: 137, Signal: "SIGKILL", OOM: true},
		"exit code 0": {}, "ended: gone": {Code: -1, Message: "gone"},
	} {
		if got := e.String(); got != want {
			t.Errorf("%+v: got %q, want %q", e, got, want)
		}
	}
}

func FuzzBytes(f *testing.F) {
	f.Add("256MiB")
	f.Fuzz(func(t *testing.T, text string) {
		var b plugin.Bytes
		if b.UnmarshalText([]byte(text)) != nil {
			return
		}
		if b <= 0 {
			t.Errorf("%q: got %d", text, b)
		}
		written, _ := b.MarshalText()
		var back plugin.Bytes
		if err := back.UnmarshalText(written); err != nil || back != b {
			t.Errorf("%d is written as %s and read as %d, %v", b, written, back, err)
		}
	})
}
