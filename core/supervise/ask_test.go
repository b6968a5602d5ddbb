package supervise

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// asked is an instance that runs commands and says where its ports are.
type asked struct {
	address string
	code    int
	output  string
	err     error
}

func (asked) Invoke(context.Context, plugin.Invocation) (plugin.Result, error) {
	return plugin.Result{}, plugin.ErrNotFound
}
func (asked) Wait() plugin.Exit          { return plugin.Exit{} }
func (asked) Stop(context.Context) error { return nil }
func (a asked) Exec(ctx context.Context, command []string) (int, []byte, error) {
	if command[0] == "hang" {
		<-ctx.Done()
		return 0, nil, ctx.Err()
	}
	return a.code, []byte(a.output), a.err
}
func (a asked) Address(port int) (string, error) {
	if port != 8080 {
		return "", errors.New("not published")
	}
	return a.address, nil
}

// bare can nothing of it.
type bare struct{ plugin.Instance }

type namedAdapter struct{ plugin.Adapter }

func (namedAdapter) Name() string { return "named" }

// lineLog is a log with one line.
type lineLog struct{ line string }

func (lineLog) File(plugin.LogStream) (*os.File, error) { return nil, os.ErrInvalid }
func (lineLog) Writer(plugin.LogStream) io.Writer       { return io.Discard }
func (lineLog) Tail(int) []plugin.LogLine               { return nil }
func (lineLog) Stdout(int) ([]byte, bool)               { return nil, true }
func (lineLog) Close()                                  {}
func (lineLog) Leave()                                  {}
func (l lineLog) Match(pattern *regexp.Regexp) (func() bool, func()) {
	return func() bool { return pattern.MatchString(l.line) }, func() {}
}

// asking makes an asker of instance; the bus answers with bus.
func asking(t *testing.T, instance plugin.Instance, bus func(context.Context, string) error) *asker {
	t.Helper()
	p := New(&Deps{Log: slog.New(slog.DiscardHandler), Request: bus}, Want{})
	a := &asker{plugin: p.all()[0], one: &living{dir: t.TempDir(), instance: instance, adapter: namedAdapter{}, log: lineLog{"listening on 80"}}}
	t.Cleanup(a.close)
	return a
}

// wants checks an answer: an empty want is nil.
func wants(t *testing.T, what string, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("%s: got %v, want %q", what, err, want)
	}
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func TestAsk_http(t *testing.T) {
	var hits atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/sick", http.StatusFound)
		case "/sick":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/flood":
			for r.Context().Err() == nil {
				_, _ = w.Write(make([]byte, 64<<10))
			}
		case "/hang":
			<-r.Context().Done()
		}
	}))
	defer server.Close()
	port := portOf(t, server.Listener.Addr().String())
	a := asking(t, bare{}, nil)
	for _, tt := range []struct{ path, status, want string }{
		{"/", "200-399", ""},
		{"/sick", "200-399", "it answered 503, and 200-399 passes"},
		{"/sick", "503", ""},
		{"/moved", "302", ""}, // not followed: /sick would answer 503
		{"/moved", "200", "it answered 302"},
		{"/flood", "200", ""}, // its body is not waited for
		{"/hang", "200", "deadline exceeded"},
	} {
		q := plugin.Question{HTTP: &plugin.HTTPQuestion{Port: port, Path: tt.path, Status: tt.status}}
		wants(t, tt.path, a.ask(t.Context(), q, 300*time.Millisecond), tt.want)
	}
	if hits.Load() != 7 {
		t.Errorf("%d requests, want one per question", hits.Load())
	}
}

func TestAsk_whereTheInstanceSaysItIs(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	a := asking(t, asked{address: server.Listener.Addr().String()}, nil)
	wants(t, "its port", a.ask(t.Context(), plugin.Question{HTTP: &plugin.HTTPQuestion{Port: 8080, Path: "/", Status: "404"}}, time.Second), "")
	wants(t, "another port", a.ask(t.Context(), plugin.Question{TCP: &plugin.TCPQuestion{Port: 81}}, time.Second), "not published")
}

func TestAsk_socketOfTheFolder(t *testing.T) {
	a := asking(t, bare{}, nil)
	listener, err := net.Listen("unix", filepath.Join(a.one.dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.NotFoundHandler()}
	go func() { _ = server.Serve(listener) }() // ends with server
	defer server.Close()
	wants(t, "http", a.ask(t.Context(), plugin.Question{HTTP: &plugin.HTTPQuestion{Socket: "s", Path: "/", Status: "404"}}, time.Second), "")
	wants(t, "tcp", a.ask(t.Context(), plugin.Question{TCP: &plugin.TCPQuestion{Socket: "s"}}, time.Second), "")
	wants(t, "no socket", a.ask(t.Context(), plugin.Question{TCP: &plugin.TCPQuestion{Socket: "t"}}, time.Second), "no such file")
}

func TestAsk_tcp(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a, q := asking(t, bare{}, nil), plugin.Question{TCP: &plugin.TCPQuestion{Port: portOf(t, listener.Addr().String())}}
	wants(t, "open", a.ask(t.Context(), q, time.Second), "")
	listener.Close()
	wants(t, "closed", a.ask(t.Context(), q, time.Second), "refused")
}

func TestAsk_exec(t *testing.T) {
	q := func(words ...string) plugin.Question {
		return plugin.Question{Exec: &plugin.ExecQuestion{Command: words}}
	}
	wants(t, "0", asking(t, asked{}, nil).ask(t.Context(), q("ok"), time.Second), "")
	long := asked{code: 3, output: strings.Repeat("x", 10_000) + "\nno\x1b[0m disk"}
	err := asking(t, long, nil).ask(t.Context(), q("sick"), time.Second)
	wants(t, "3", err, "exec sick: unavailable: exit code 3: ...x")
	if len(err.Error()) > 300 {
		t.Errorf("%d bytes of output in a sentence", len(err.Error()))
	}
	wants(t, "hangs", asking(t, asked{}, nil).ask(t.Context(), q("hang"), 50*time.Millisecond), "deadline exceeded")
	err = asking(t, bare{}, nil).ask(t.Context(), q("ok"), time.Second)
	wants(t, "an adapter that cannot", err, "the named adapter cannot run a command")
	if !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("got %v, want invalid: it will not get better", err)
	}
}

func TestAsk_log(t *testing.T) {
	a := asking(t, bare{}, nil)
	wants(t, "there", a.ask(t.Context(), plugin.Question{Log: &plugin.LogQuestion{Matches: `on \d+`}}, time.Second), "")
	wants(t, "not there", a.ask(t.Context(), plugin.Question{Log: &plugin.LogQuestion{Matches: `ready`}}, time.Second), `no line that matches "ready"`)
}

func TestAsk_nats(t *testing.T) {
	a := asking(t, bare{}, func(_ context.Context, subject string) error {
		if subject == "acme.health" {
			return nil
		}
		return plugin.ErrUnavailable
	})
	wants(t, "answered", a.ask(t.Context(), plugin.Question{NATS: &plugin.NATSQuestion{Subject: "acme.health"}}, time.Second), "")
	wants(t, "nobody", a.ask(t.Context(), plugin.Question{NATS: &plugin.NATSQuestion{Subject: "acme.other"}}, time.Second), "nats acme.other: unavailable")
}

func TestConditions(t *testing.T) {
	spec := &plugin.Spec{}
	live := &plugin.Spec{Probe: plugin.Probe{Liveness: &plugin.LivenessProbe{Failures: 3}}}
	bounded := &plugin.Spec{Limits: plugin.Limits{Memory: 1}}
	good, once, bad := verdict{successes: 1}, verdict{failures: 1, last: "deaf"}, verdict{failures: 3, last: "deaf"}
	kept := []plugin.LimitStatus{{Name: "memory", By: "cgroup2"}, {Name: "cpu", By: "engine"}}
	not := append([]plugin.LimitStatus{{Name: "pids", Message: "no controller"}}, kept...)
	status := func(state plugin.State, reason string, limits ...plugin.LimitStatus) plugin.Status {
		return plugin.Status{State: state, Reason: reason, Adapter: "fake", Limits: limits}
	}
	for _, tt := range []struct {
		name string
		s    plugin.Status
		h    health
		spec *plugin.Spec
		want string // of Started, Ready, Live and LimitsEnforced
	}{
		{"pending", status(plugin.Pending, ""), health{}, spec, "Unknown/Pending Unknown/Pending Unknown/Pending True/NoLimits"},
		{"starting", status(plugin.Starting, ""), health{}, bounded, "False/Starting False/Starting Unknown/Starting Unknown/NotRunning"},
		{"running", status(plugin.Running, ""), health{}, spec, "True/Started True/Answers True/Runs True/NoLimits"},
		{"running, probed", status(plugin.Running, ""), health{ready: good}, spec, "True/Started True/ProbePassed True/Runs True/NoLimits"},
		{"running, one failure", status(plugin.Running, ""), health{ready: once}, spec, "True/Started True/Answers True/Runs True/NoLimits"},
		{"degraded", status(plugin.Degraded, "ProbeFailed"), health{ready: bad}, spec, "True/Started False/ProbeFailed True/Runs True/NoLimits"},
		{"not yet asked", status(plugin.Running, ""), health{}, live, "True/Started True/Answers Unknown/NotProbed True/NoLimits"},
		{"alive", status(plugin.Running, ""), health{live: good}, live, "True/Started True/Answers True/ProbePassed True/NoLimits"},
		{"in doubt", status(plugin.Running, ""), health{live: once}, live, "True/Started True/Answers Unknown/ProbeFailed True/NoLimits"},
		{"hung", status(plugin.Degraded, "LivenessFailed"), health{live: bad}, live, "True/Started False/LivenessFailed False/LivenessFailed True/NoLimits"},
		{"killed for it", status(plugin.Backoff, "LivenessFailed"), health{live: bad}, live, "False/LivenessFailed False/LivenessFailed False/LivenessFailed True/NoLimits"},
		{"stopping", status(plugin.Stopping, ""), health{}, spec, "True/Started False/Stopping True/Runs True/NoLimits"},
		{"stopped", status(plugin.Stopped, "StoppedByUser"), health{}, bounded, "False/Stopped False/Stopped False/Stopped Unknown/NotRunning"},
		{"finished", status(plugin.Finished, "Completed"), health{}, spec, "False/Completed False/Completed False/Completed True/NoLimits"},
		{"failed", status(plugin.Failed, "CrashLoop"), health{}, spec, "False/CrashLoop False/CrashLoop False/CrashLoop True/NoLimits"},
		{"limits kept", status(plugin.Running, "", kept...), health{}, bounded, "True/Started True/Answers True/Runs True/Enforced"},
		{"a limit not kept", status(plugin.Running, "", not...), health{}, bounded, "True/Started True/Answers True/Runs False/NotEnforced"},
		{"limits not told", status(plugin.Running, ""), health{}, bounded, "True/Started True/Answers True/Runs Unknown/NotTold"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, c := range conditions(&tt.s, tt.h, tt.spec, time.Now()) {
				got = append(got, string(c.Status)+"/"+c.Reason)
			}
			if all := strings.Join(got, " "); all != tt.want {
				t.Errorf("got %s\nwant %s", all, tt.want)
			}
		})
	}
}

func TestConditions_keepTheTimeOfTheLastChange(t *testing.T) {
	then, now := time.Unix(1, 0), time.Unix(2, 0)
	s := plugin.Status{State: plugin.Running, Generation: 3}
	s.Conditions = conditions(&s, health{}, &plugin.Spec{}, then)
	s.State, s.Generation = plugin.Degraded, 4
	for _, c := range conditions(&s, health{}, &plugin.Spec{}, now) {
		want := then
		if c.Type == plugin.ConditionReady {
			want = now
		}
		if !c.LastTransitionTime.Equal(want) || c.ObservedGeneration != 4 {
			t.Errorf("%s: changed at %s with generation %d, want %s and 4", c.Type, c.LastTransitionTime, c.ObservedGeneration, want)
		}
	}
}
