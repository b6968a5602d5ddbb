package goplugin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/goplugin"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

const shelf, helper = "patchbay.caller.v1.Shelf/", "patchbay.caller.v1.Helper/"

// callerSpec is the tiny plugin that calls its host; of what it can call nothing is
// bound to Watch, which streams.
func callerSpec(t testing.TB, tls string) goplugin.Spec {
	t.Helper()
	return goplugin.Spec{
		Command: []string{built(t, "caller")}, Handshake: cookie(), TLS: tls,
		Callbacks: map[string]goplugin.Callback{
			shelf + "Get":    {KV: &goplugin.KVCallback{Do: "get", Key: "name", Value: "content"}},
			shelf + "Put":    {KV: &goplugin.KVCallback{Do: "put", Key: "content.name", Value: "content"}},
			shelf + "Delete": {KV: &goplugin.KVCallback{Do: "delete", Key: "name"}},
			shelf + "List":   {KV: &goplugin.KVCallback{Do: "list"}},
			helper + "Sum":   {Static: plugin.RawJSON(`{"n": "42"}`)},
			helper + "Tell":  {Bus: &goplugin.BusCallback{Publish: "told"}},
		},
		BrokerIDs: map[string]string{"Connect": "number", "Call": "link.number", "Rehearse": "link.number"},
	}
}

type outcome struct {
	Answer, Code, Message string
	Failed                int
}

// order has the plugin make calls of its host.
func order(t *testing.T, i plugin.Instance, method, request string, more ...string) outcome {
	t.Helper()
	data := fmt.Sprintf(`{"method": %q, "request": %q%s}`, method, request, strings.Join(more, ""))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := i.Invoke(ctx, plugin.Invocation{Operation: "Call", Data: []byte(data)})
	var out outcome
	if err == nil {
		err = json.Unmarshal(r.Data, &out)
	}
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	out.Answer = strings.ReplaceAll(out.Answer, " ", "")
	return out
}

// TestCallbacks: what is bound is answered, and all else denied, with TLS and without.
func TestCallbacks(t *testing.T) {
	for _, tls := range []string{"off", "auto"} {
		t.Run(tls, func(t *testing.T) {
			spec := callerSpec(t, tls)
			spec.Callbacks[shelf+"Delete"] = goplugin.Callback{Deny: "FailedPrecondition"}
			l := conformance.NewLaunch(t, manifest(t, spec))
			i, err := run(t, l, 20*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			for _, tt := range []struct{ method, request, answer, code, message string }{
				{shelf + "Put", `{"content": {"name": "a/b", "data": "AQI="}, "size": 7}`, `{}`, "OK", ""},
				{shelf + "Put", `{"content": {"name": "a/c"}}`, `{}`, "OK", ""},
				{shelf + "Get", `{"name": "a/b"}`, `{"content":{"name":"a/b","data":"AQI="}}`, "OK", ""},
				{shelf + "Get", `{"name": "none"}`, `{}`, "OK", ""},
				{shelf + "List", `{"prefix": "a/"}`, `{"keys":["a/b","a/c"]}`, "OK", ""},
				{shelf + "Delete", `{"name": "a/b"}`, `{}`, "FailedPrecondition", shelf + "Delete is denied by spec.goplugin.callbacks"},
				{helper + "Sum", `{"a": 1}`, `{"n":"42"}`, "OK", ""},
				{helper + "Tell", `{"content": {"name": "news"}}`, `{}`, "OK", ""},
				{helper + "Watch", `{"name": "a"}`, `{}`, "PermissionDenied", "nothing is bound to it"},
				{"other.Service/Method", ``, `{}`, "PermissionDenied", "/other.Service/Method is denied: nothing is bound to it in spec.goplugin.callbacks"},
			} {
				got := order(t, i, tt.method, tt.request)
				if got.Answer != tt.answer || got.Code != tt.code || !strings.Contains(got.Message, tt.message) {
					t.Errorf("%s %s: got %+v, want %s, %s, %q", tt.method, tt.request, got, tt.answer, tt.code, tt.message)
				}
			}
			if events := l.Host.(*conformance.Host).Events(); len(events) != 1 || events[0].Type != "told" || !bytes.Contains(events[0].Data, []byte(`"news"`)) {
				t.Errorf("events: got %+v", events)
			}
			if text := l.Output.(*conformance.Output).Text(plugin.PluginLog); strings.Count(text, "was denied") != 2 {
				t.Errorf("the log tells of what is bound to nothing: got %q", text)
			}
		})
	}
}

// TestCallbacks_hostile: what a plugin sends is its own trouble.
func TestCallbacks_hostile(t *testing.T) {
	l := conformance.NewLaunch(t, manifest(t, callerSpec(t, "auto")))
	l.Manifest.Spec.Timeouts.Invoke = plugin.Duration(2 * time.Second)
	i, err := run(t, l, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, raw, code string }{
		{"cut short", `"Cv8="`, "InvalidArgument"}, {"no text", `"CgL//g=="`, "InvalidArgument"}, {"too big", `"CgNhYmM=", "repeat": 1000000`, "ResourceExhausted"},
	} {
		if got := order(t, i, shelf+"Get", "", `, "raw": `+tt.raw); got.Code != tt.code {
			t.Errorf("%s: got %+v, want %s", tt.name, got, tt.code)
		}
	}
	if _, err := i.Invoke(t.Context(), plugin.Invocation{Operation: "Connect"}); err != nil {
		t.Fatal(err)
	}
	const kept = `{"link": {"number": 0}, "method": "` + helper + `Sum", "silent": true, "times": 40}`
	if _, err := i.Invoke(t.Context(), plugin.Invocation{Operation: "Call", Data: []byte(kept)}); err != nil {
		t.Fatal(err)
	}
	conformance.Eventually(t, 20*time.Second, func() error { // once those that say nothing are given up
		if got := order(t, i, helper+"Sum", `{}`); got.Code != "OK" {
			return fmt.Errorf("got %+v", got)
		}
		return nil
	})
	if got := order(t, i, helper+"Sum", `{}`, `, "times": 1000`); got.Code != "OK" || got.Failed > 0 {
		t.Errorf("a thousand at once: got %+v", got)
	}
	stranger, err := net.Dial("unix", filepath.Join(l.Dir, "host"))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if err := stranger.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := stranger.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a stranger: read %d, %v, want the connection closed", n, err)
	}
}

// TestCallbacks_cycles: connections come and go, and nothing of them stays.
func TestCallbacks_cycles(t *testing.T) {
	i, _ := started(t, callerSpec(t, "auto"))
	for range 20 {
		order(t, i, helper+"Sum", `{}`)
	}
	before := holds(t)
	for range 200 {
		if got := order(t, i, helper+"Sum", `{}`); got.Code != "OK" {
			t.Fatalf("got %+v", got)
		}
	}
	conformance.Eventually(t, 10*time.Second, func() error {
		if now := holds(t); now.goroutines > before.goroutines || now.files > before.files {
			return fmt.Errorf("got %+v, want %+v", now, before)
		}
		return nil
	})
}

// TestCallbacks_adopted: a connection that the plugin has goes on with the next
// daemon; a new one cannot be had, for go-plugin's broker ends with the first, and a
// plugin that needs one for its operations is not adopted.
func TestCallbacks_adopted(t *testing.T) {
	for _, tls := range []string{"off", "auto"} {
		t.Run(tls, func(t *testing.T) {
			spec := callerSpec(t, tls)
			spec.BrokerIDs = map[string]string{"Connect": "number"}
			spec.StartCalls = []goplugin.StartCall{{Operation: "Connect", Error: "error"}}
			p := leave(t, spec)
			i, err := p.adopt(t, 20*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if got := order(t, i, helper+"Sum", `{}`); got.Code != "OK" || got.Answer != `{"n":"42"}` {
				t.Errorf("got %+v", got)
			}
			if got := i.(plugin.Inspector).Inspect()["broker"]; got != "ended" {
				t.Errorf("broker: got %q, want ended", got)
			}
		})
	}
	p := leave(t, callerSpec(t, "auto"))
	i, err := p.adopt(t, 20*time.Second) // its broker was not asked for anything yet
	if err != nil {
		t.Fatal(err)
	}
	if got := order(t, i, helper+"Sum", `{}`); got.Code != "OK" {
		t.Errorf("got %+v", got)
	}
	if p.handle, err = i.(plugin.Survivor).Handle(t.Context()); err != nil {
		t.Fatal(err)
	}
	i.(plugin.Survivor).Leave()
	if _, err := p.adopt(t, 20*time.Second); !errors.Is(err, plugin.ErrUnavailable) || !strings.Contains(err.Error(), "broker has ended") {
		t.Errorf("one that needs new connections: got %v", err)
	}
}

// TestCallbacks_refused: what the plugin does not describe, or says against its start.
func TestCallbacks_refused(t *testing.T) {
	for _, tt := range []struct {
		change func(s *goplugin.Spec)
		want   []string
	}{
		{func(s *goplugin.Spec) { s.Callbacks["no.Service/Method"] = goplugin.Callback{Deny: "NotFound"} }, []string{"spec.goplugin.callbacks.no.Service/Method", "describes no service no.Service"}},
		{func(s *goplugin.Spec) { s.Callbacks[helper+"Watch"] = goplugin.Callback{Deny: "NotFound"} }, []string{"spec.goplugin.callbacks." + helper + "Watch", "it streams"}},
		{func(s *goplugin.Spec) {
			s.Callbacks[helper+"Sum"] = goplugin.Callback{Static: plugin.RawJSON(`{"m": 1}`)}
		}, []string{helper + "Sum", "static", `"m"`}},
		{func(s *goplugin.Spec) { s.BrokerIDs["Call"] = "method" }, []string{"spec.goplugin.brokerIds.Call", "integer"}},
		{func(s *goplugin.Spec) {
			s.StartCalls = []goplugin.StartCall{{Operation: "Connect", Data: plugin.RawJSON(`{"fail": "not today"}`), Error: "error"}}
		}, []string{"spec.goplugin.startCalls[0]: Connect", "not today"}},
	} {
		spec := callerSpec(t, "off")
		tt.change(&spec)
		_, _, err := launch(t, spec, 20*time.Second)
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q in it", err, want)
			}
		}
	}
}
