package goplugin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/patchbay-dev/patchbay/adapters/goplugin"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

func invoke(t *testing.T, i plugin.Instance, operation, data string) (string, error) {
	t.Helper()
	r, err := i.Invoke(t.Context(), plugin.Invocation{Operation: operation, Data: []byte(data)})
	return string(r.Data), err
}

// TestNetRPC_errorsStayWithTheirCall: what goes wrong in one call leaves the next
// one alone, also on the same stream.
func TestNetRPC_errorsStayWithTheirCall(t *testing.T) {
	i, _ := started(t, netrpcSpec(built(t, "netrpc")))
	for _, tt := range []struct {
		operation, data string
		class           error
		want            string
	}{
		{"Echo", `{"Text": 5}`, plugin.ErrInvalid, "argument.Text: is a number; want a text"},
		{"Echo", `{"Tex": ""}`, plugin.ErrInvalid, "argument.Tex: is not a field; it has Text"},
		{"Echo", `{`, plugin.ErrInvalid, "is not JSON"},
		{"Missing", `{}`, plugin.ErrNotFound, "can't find method Plugin.Missing"},
	} {
		_, err := invoke(t, i, tt.operation, tt.data)
		if !errors.Is(err, tt.class) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %s: got %v, want %v with %q", tt.operation, tt.data, err, tt.class, tt.want)
		}
		echo(t, i, "Text")
	}
	// An error of a type that gob does not know ends the stream; the plugin says which.
	for range 3 {
		var no *plugin.Refusal
		if _, err := invoke(t, i, "Odd", `{"Text": "x"}`); !errors.As(err, &no) || no.Code != "main.unregistered" {
			t.Errorf("Odd: got %v", err)
		}
		echo(t, i, "Text")
	}
	// A description that is wrong: the plugin says so.
	spec := netrpcSpec(built(t, "netrpc"))
	spec.Describe.Methods["Echo"] = goplugin.Method{Args: "Code", Reply: "Text"}
	j, _ := started(t, spec)
	if _, err := invoke(t, j, "Echo", `{"Code": 1}`); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "no fields matched") {
		t.Errorf("wrong description: got %v", err)
	}
}

// TestNetRPC_neighbours: 16 callers whose calls break their streams do not fail
// 16 whose calls work (upstream's one stream fails them all).
func TestNetRPC_neighbours(t *testing.T) {
	i, _ := started(t, netrpcSpec(built(t, "netrpc")))
	var all errgroup.Group
	for caller := range 32 {
		all.Go(func() error {
			for n := range 50 {
				in := plugin.Invocation{Operation: "Echo", Data: fmt.Appendf(nil, `{"Text":"%d.%d"}`, caller, n)}
				if caller%2 == 1 {
					in.Operation = "Odd"
				}
				r, err := i.Invoke(t.Context(), in)
				if caller%2 == 0 && (err != nil || string(r.Data) != string(in.Data)) {
					return fmt.Errorf("caller %d: got %s, %w", caller, r.Data, err)
				}
				if no := (*plugin.Refusal)(nil); caller%2 == 1 && (!errors.As(err, &no) || no.Code != "main.unregistered") {
					return fmt.Errorf("caller %d: got %s, %w", caller, r.Data, err)
				}
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
}

func TestNetRPC_unknownName(t *testing.T) {
	spec := netrpcSpec(built(t, "netrpc"))
	spec.Plugin = "other"
	if _, _, err := launch(t, spec, 20*time.Second); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(fmt.Sprint(err), "unknown plugin type: other") {
		t.Errorf("got %v", err)
	}
}

func TestNetRPC_withoutDescription(t *testing.T) {
	spec := goplugin.Spec{Command: []string{built(t, "netrpc")}, Handshake: cookie()}
	if _, _, err := launch(t, spec, 20*time.Second); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(fmt.Sprint(err), "cannot tell its methods") {
		t.Errorf("got %v", err)
	}
}

// TestOutput_isDrained: a plugin that prints far more than a pipe holds goes on.
func TestOutput_isDrained(t *testing.T) {
	line := strings.Repeat("x", 1000)
	for _, which := range []struct{ name, field string }{{"netrpc", "Text"}, {"grpc", "text"}} {
		t.Run(which.name, func(t *testing.T) {
			spec := goplugin.Spec{Command: []string{built(t, "grpc")}, Handshake: cookie()}
			if which.name == "netrpc" {
				spec = netrpcSpec(built(t, "netrpc"))
			}
			i, out := started(t, spec)
			const lines = 2000
			for range lines {
				if _, err := invoke(t, i, "Print", fmt.Sprintf(`{%q:%q}`, which.field, line)); err != nil {
					t.Fatal(err)
				}
			}
			conformance.Eventually(t, 10*time.Second, func() error {
				if n := strings.Count(out.Text(plugin.Stdout), line); n != lines {
					return fmt.Errorf("got %d lines, want %d", n, lines)
				}
				return nil
			})
		})
	}
}

// TestFrozen: a plugin that does nothing any more holds no caller beyond its
// deadline, whatever the size of the argument, and its calls work again later.
func TestFrozen(t *testing.T) {
	for _, which := range []struct{ name, field string }{{"netrpc", "Text"}, {"grpc", "text"}} {
		t.Run(which.name, func(t *testing.T) {
			spec := goplugin.Spec{Command: []string{built(t, "grpc")}, Handshake: cookie()}
			if which.name == "netrpc" {
				spec = netrpcSpec(built(t, "netrpc"))
			}
			i, _ := started(t, spec)
			pid, err := strconv.Atoi(i.(plugin.Inspector).Inspect()["pid"])
			if err != nil {
				t.Fatal(err)
			}
			freeze(t, pid)
			for _, size := range []int{1, 20 << 10, 4 << 20} {
				data := fmt.Appendf(nil, `{%q:%q}`, which.field, strings.Repeat("x", size))
				begin := time.Now()
				err := within(t, 100*time.Millisecond, func(ctx context.Context) error {
					_, err := i.Invoke(ctx, plugin.Invocation{Operation: "Echo", Data: data})
					return err
				})
				if took := time.Since(begin); !errors.Is(err, plugin.ErrDeadline) || took > time.Second {
					t.Errorf("%d bytes: got %v after %v", size, err, took)
				}
			}
			if err := within(t, 100*time.Millisecond, i.(plugin.Prober).Probe); !errors.Is(err, plugin.ErrDeadline) {
				t.Errorf("probe: got %v, want plugin.ErrDeadline", err)
			}
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			echo(t, i, which.field)
			if err := within(t, 10*time.Second, i.(plugin.Prober).Probe); err != nil {
				t.Errorf("probe afterwards: %v", err)
			}
		})
	}
}

// freeze stops the process and waits until all of its threads have stopped.
func freeze(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	conformance.Eventually(t, 5*time.Second, func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil || len(threads) == 0 {
			return fmt.Errorf("no threads: %w", err)
		}
		for _, thread := range threads {
			text, err := os.ReadFile(thread)
			if err != nil || !strings.Contains(string(text), ") T ") {
				return fmt.Errorf("%s is running: %w", thread, err)
			}
		}
		return nil
	})
}

func within(t *testing.T, d time.Duration, do func(context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	return do(ctx)
}

func TestGRPC_streams(t *testing.T) {
	i, _ := started(t, goplugin.Spec{Command: []string{built(t, "grpc")}, Handshake: cookie()})
	got, err := invoke(t, i, "Count", `{"n": 3}`)
	if err != nil || strings.ReplaceAll(got, " ", "") != `[{"n":1},{"n":2},{"n":3}]` {
		t.Errorf("gathered: got %s, %v", got, err)
	}
	var parts int
	stop := errors.New("enough")
	count := plugin.Invocation{Operation: "Count", Data: []byte(`{"n": 1000000}`)}
	err = i.(plugin.StreamInvoker).InvokeStream(t.Context(), count, func(part []byte) error {
		if parts++; parts == 5 {
			return stop
		}
		return nil
	})
	if err != stop || parts != 5 {
		t.Errorf("stopped by send: got %v after %d parts", err, parts)
	}
	if _, err := i.Invoke(t.Context(), count); err != nil && !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("gathered too many: got %v", err)
	}
	if err := i.(plugin.StreamInvoker).InvokeStream(t.Context(), plugin.Invocation{Operation: "Echo", Data: []byte(`{"text":"one"}`)}, func(part []byte) error {
		parts++
		return nil
	}); err != nil || parts != 6 {
		t.Errorf("one answer: got %v, %d parts", err, parts)
	}
}

func TestGRPC_metadata(t *testing.T) {
	i, _ := started(t, goplugin.Spec{
		Command: []string{built(t, "grpc")}, Handshake: cookie(),
		Metadata: map[string]map[string]string{"*": {"all": "a", "both": "general"}, "Metadata": {"both": "special"}},
	})
	r, err := i.Invoke(t.Context(), plugin.Invocation{Operation: "Metadata", Metadata: map[string]string{"caller": "me", "all": "mine"}})
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Pairs map[string]string }
	if err := json.Unmarshal(r.Data, &got); err != nil {
		t.Fatal(err)
	}
	if got.Pairs["all"] != "a" || got.Pairs["both"] != "special" || got.Pairs["caller"] != "me" {
		t.Errorf("got %v", got.Pairs)
	}
	if _, err := i.Invoke(t.Context(), plugin.Invocation{Operation: "Metadata", Metadata: map[string]string{"x": "a\nb"}}); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("metadata with a line break: got %v", err)
	}
	spec := goplugin.Spec{Command: []string{built(t, "grpc")}, Handshake: cookie(), Metadata: map[string]map[string]string{"Nope": {"a": "b"}}}
	if _, _, err := launch(t, spec, 20*time.Second); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("metadata of an operation that is not there: got %v", err)
	}
}

func TestGRPC_refusalHasDetails(t *testing.T) {
	i, _ := started(t, goplugin.Spec{Command: []string{built(t, "grpc")}, Handshake: cookie()})
	_, err := invoke(t, i, "Refuse", `{"text": "no"}`)
	var no *plugin.Refusal
	if !errors.As(err, &no) {
		t.Fatal(err)
	}
	details := strings.ReplaceAll(string(no.Details), " ", "")
	if want := `[{"@type":"type.googleapis.com/patchbay.tiny.v1.Text","text":"no"}]`; no.Code != "FailedPrecondition" || no.Message != "no" || details != want {
		t.Errorf("got %+v, details %s; want %s", no, details, want)
	}
	if _, err := invoke(t, i, "Echo", `{"txt": "x"}`); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "txt") {
		t.Errorf("unknown field: got %v", err)
	}
}

func TestGRPC_describes(t *testing.T) {
	i, _ := started(t, goplugin.Spec{Command: []string{built(t, "grpc")}, Handshake: cookie()})
	ops, err := i.(plugin.Describer).Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, op := range ops {
		names = append(names, op.Name)
	}
	if got, want := strings.Join(names, " "), "Chat Count Echo Exit Fail Flood Hold Metadata Print Refuse Slow Sum Tally"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	echoed := ops[2]
	if want := `{"additionalProperties":false,"properties":{"text":{"type":"string"}},"type":"object"}`; string(echoed.Input) != want || echoed.Summary != "patchbay.tiny.v1.Tiny/Echo" || echoed.Streams || !ops[1].Streams || !ops[0].TakesStream {
		t.Errorf("got %+v", echoed)
	}
}

func TestNetRPC_describes(t *testing.T) {
	spec := netrpcSpec(built(t, "netrpc"))
	spec.Describe.Types["Node"] = goplugin.Shape{Fields: map[string]string{"Next": "*Node", "Tags": "map:string,int"}}
	spec.Describe.Methods = map[string]goplugin.Method{"Walk": {Args: "*Node", Reply: "[]Text", Summary: "Walks."}}
	i, _ := started(t, spec)
	ops, err := i.(plugin.Describer).Describe(t.Context())
	if err != nil || len(ops) != 1 {
		t.Fatalf("got %v, %v", ops, err)
	}
	const node = `{"additionalProperties":false,"properties":{"Next":{"$ref":"#/$defs/Node"},"Tags":{"additionalProperties":{"type":"integer"},"type":"object"}},"type":"object"}`
	if want := `{"$defs":{"Node":` + node + `},` + node[1:]; string(ops[0].Input) != want || ops[0].Summary != "Walks." {
		t.Errorf("got %s\nwant %s", ops[0].Input, want)
	}
	if want := `{"$defs":{"Text":{"additionalProperties":false,"properties":{"Text":{"type":"string"}},"type":"object"}},"items":{"$ref":"#/$defs/Text"},"type":"array"}`; string(ops[0].Output) != want {
		t.Errorf("got %s\nwant %s", ops[0].Output, want)
	}
}

// TestPayload: an answer over the limit is refused, and the next one is not.
func TestPayload(t *testing.T) {
	for _, which := range []struct{ name, field string }{{"netrpc", "Text"}, {"grpc", "text"}} {
		t.Run(which.name, func(t *testing.T) {
			spec := goplugin.Spec{Command: []string{built(t, "grpc")}, Handshake: cookie()}
			if which.name == "netrpc" {
				spec = netrpcSpec(built(t, "netrpc"))
			}
			m := manifest(t, spec)
			m.Spec.Limits.Payload = 100 << 10
			l := conformance.NewLaunch(t, m)
			i, err := goplugin.New(goplugin.Options{}).Launch(t.Context(), l)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = i.Stop(context.Background()) })
			if _, err := invoke(t, i, "Echo", fmt.Sprintf(`{%q:%q}`, which.field, strings.Repeat("x", 300<<10))); !errors.Is(err, plugin.ErrInvalid) {
				t.Errorf("got %v, want plugin.ErrInvalid", err)
			}
			echo(t, i, which.field)
		})
	}
}
