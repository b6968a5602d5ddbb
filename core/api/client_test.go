package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

func TestRoutes_haveClientMethods(t *testing.T) {
	methods := reflect.TypeFor[*client.Client]()
	for _, r := range Routes() {
		if _, ok := methods.MethodByName(r.ID); !ok {
			t.Errorf("%s %s: the client has no method %s", r.Method, r.Path, r.ID)
		}
	}
}

func dial(t testing.TB, base, token string) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{URL: base, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClient_everyRoute(t *testing.T) {
	d := testDeps(t, newShelf("one", "other"))
	d.Logs.(*history).lines = []plugin.LogLine{{Message: "hello", ID: "1.1"}}
	d.Events.(*history).tell("one", "a")
	base, _ := served(t, New(d))
	c, ctx := dial(t, base, testToken), t.Context()
	files := []wire.File{{Name: "two.yaml", Source: "/opt", Content: fmt.Sprintf(toyYAML, "two")}}
	for name, do := range map[string]func() error{
		"live":  func() error { return c.Live(ctx) },
		"ready": func() error { r, err := c.Ready(ctx); return is(r.Ready, err) },
		"health": func() error {
			r, err := c.Health(ctx)
			return is(len(r.Components) == 3 && r.Components[2].Advisory, err)
		},
		"event types": func() error {
			all, err := c.EventTypes(ctx)
			return is(len(all) == len(plugin.EventTypes()) && len(all[0].Schema) > 100, err)
		},
		"version": func() error { v, err := c.Version(ctx); return is(v.Version == "test", err) },
		"metrics": func() error { m, err := c.Metrics(ctx); return is(strings.Contains(string(m), "patchbay_"), err) },
		"openapi": func() error { o, err := c.OpenAPI(ctx); return is(len(o) > 1000, err) },
		"schema":  func() error { s, err := c.Schema(ctx); return is(len(s) > 1000, err) },
		"plugins": func() error {
			l, err := c.Plugins(ctx, client.ListOptions{Selector: "team=edge"})
			return is(len(l.Items) > 0, err)
		},
		"plugin": func() error { r, err := c.Plugin(ctx, "one"); return is(r.Spec.Adapter == "toy", err) },
		"put": func() error {
			r, err := c.Put(ctx, toyManifest("three"), client.Expect{Absent: true})
			return is(r.Generation == 1, err)
		},
		"apply": func() error {
			r, err := c.Apply(ctx, files, client.ForReal)
			return is(len(r.Items) == 1 && r.Items[0].Action == wire.Created, err)
		},
		"validate":  func() error { n, err := c.Validate(ctx, files); return is(len(n) == 1, err) },
		"start":     func() error { r, err := c.Start(ctx, "one"); return is(r.Desired == plugin.DesiredRunning, err) },
		"stop":      func() error { r, err := c.Stop(ctx, "other"); return is(r.Desired == plugin.DesiredStopped, err) },
		"reload":    func() error { r, err := c.Reload(ctx, "one"); return is(r.Status.LastReload != nil, err) },
		"revisions": func() error { l, err := c.Revisions(ctx, "one"); return is(len(l) > 0 && l[0].Current, err) },
		"rollback": func() error {
			_, err := c.Rollback(ctx, "one", 1000)
			return is(errors.Is(err, plugin.ErrNotFound), nil)
		},
		"pin":        func() error { r, err := c.Pin(ctx, "other"); return is(r.Pin != nil, err) },
		"unpin":      func() error { r, err := c.Unpin(ctx, "other"); return is(r.Pin == nil, err) },
		"restart":    func() error { r, err := c.Restart(ctx, "one"); return is(r.Status.Restarts == 1, err) },
		"operations": func() error { o, err := c.Operations(ctx, "one"); return is(len(o) == 2, err) },
		"instances":  func() error { i, err := c.Instances(ctx, "one"); return is(len(i) == 1, err) },
		"invoke": func() error {
			r, err := c.Invoke(ctx, client.Invocation{Plugin: "one", Operation: "pkg.Service/Echo", Data: []byte("1"), Metadata: map[string]string{"a": "b"}})
			return is(string(r.Data) == "1" && r.ContentType == "" && r.ID != "", err)
		},
		"invokeStream": func() error {
			var got string
			err := c.InvokeStream(ctx, client.Invocation{Plugin: "one", Operation: "count"}, func(p []byte) error { got += string(p); return nil })
			return is(got == "012", err)
		},
		"logs": func() error {
			for l, err := range c.Logs(ctx, "one", client.LogOptions{}) {
				return is(l.Message == "hello" && l.ID == "1.1", err)
			}
			return errTest
		},
		"mergedLogs": func() error {
			for l, err := range c.MergedLogs(ctx, client.LogOptions{Plugins: []string{"one", "other"}}) {
				return is(l.Message == "hello" && l.ID == "1.1", err)
			}
			return errTest
		},
		"events": func() error {
			for e, err := range c.PluginEvents(ctx, "one", client.EventOptions{}) {
				return is(e.Sequence == 1 && e.Type == "a", err)
			}
			return errTest
		},
	} {
		if err := do(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := c.Delete(ctx, "three", client.Expect{}); err != nil {
		t.Errorf("delete: %v", err)
	}
}

func is(ok bool, err error) error {
	if err == nil && !ok {
		return errTest
	}
	return err
}

func TestClient_errorsHaveTheirClass(t *testing.T) {
	base, _ := served(t, New(testDeps(t, newShelf("one"))))
	c, ctx := dial(t, base, testToken), t.Context()
	invoke := func(operation string, timeout time.Duration) error {
		_, err := c.Invoke(ctx, client.Invocation{Plugin: "one", Operation: operation, Timeout: timeout})
		return err
	}
	_, notFound := c.Plugin(ctx, "two")
	_, exists := c.Put(ctx, toyManifest("one"), client.Expect{Absent: true})
	_, denied := dial(t, base, "wrong").Plugin(ctx, "one")
	_, nobody := dial(t, "http://127.0.0.1:1", "x").Plugin(ctx, "one")
	for _, tt := range []struct {
		name      string
		err, want error
	}{
		{"not found", notFound, plugin.ErrNotFound}, {"exists", exists, plugin.ErrConflict}, {"wrong token", denied, plugin.ErrDenied},
		{"no daemon", nobody, plugin.ErrUnavailable}, {"broken link", invoke("gone", 0), plugin.ErrUnavailable},
		{"busy", invoke("busy", 0), plugin.ErrBusy}, {"too late", invoke("hang", 5*time.Millisecond), plugin.ErrDeadline},
	} {
		if !errors.Is(tt.err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, tt.err, tt.want)
		}
	}
	var refusal *plugin.Refusal
	if err := invoke("refuse", 0); !errors.As(err, &refusal) || refusal.Code != "E7" || errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("got %v, want the plugin's refusal", err)
	}
	_, err := c.Validate(ctx, []wire.File{{Name: "a.yaml", Content: "kind: Plugin\nspek: {}\n"}})
	var faults plugin.Faults
	if !errors.As(err, &faults) || len(faults) < 2 || faults[0].File != "a.yaml" || !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("got %v, want the faults with their file", err)
	}
}

func TestClient_findsTheDaemonByItsFolder(t *testing.T) {
	base, _ := served(t, New(testDeps(t, newShelf("one"))))
	dir := t.TempDir()
	for name, text := range map[string]string{wire.APIAddrFile: base + "\n", wire.APITokenFile: testToken + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.New(client.Options{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Plugin(t.Context(), "one"); err != nil {
		t.Error(err)
	}
	if _, err := client.New(client.Options{DataDir: t.TempDir()}); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("an empty folder: got %v, want %v", err, plugin.ErrUnavailable)
	}
}

// TestClient_comesBack follows events while the daemon is replaced by another one
// with the same history: nothing is missed and nothing comes twice.
func TestClient_comesBack(t *testing.T) {
	d := testDeps(t, newShelf("one"))
	h := d.Events.(*history)
	first := New(d)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 2)
	go func() { ended <- first.Run(ctx, ln) }() // ends with ctx

	h.tell("one", "a")
	want := uint64(1)
	for e, err := range dial(t, "http://"+address, testToken).Events(t.Context(), client.EventOptions{Since: time.Unix(1, 0), Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Sequence != want {
			t.Fatalf("got event %d, want %d", e.Sequence, want)
		}
		if want == 4 {
			break
		}
		if want == 1 {
			cancel()
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			h.tell("one", "while away")
			h.tell("one", "while away")
			again, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			next, stop := context.WithCancel(context.Background())
			t.Cleanup(func() { stop(); <-ended })
			go func() { ended <- New(d).Run(next, again) }() // ends with stop
		}
		if want++; want == 4 {
			h.tell("one", "after")
		}
	}
}
