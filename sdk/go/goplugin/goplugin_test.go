package goplugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"iter"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

type (
	none      struct{}
	byPointer struct{}
	noError   struct{}
	threeIn   struct{}
	twoOut    struct{}
	variadic  struct{}
	bothOut   struct{}
	holed     struct{}
	fine      struct{}
	hole      struct {
		Deep []map[string]struct {
			C chan int `json:"c"`
		} `json:"deep"`
	}
)

func (none) Other(int)                                                        {}
func (*byPointer) Do(context.Context) error                                   { return nil }
func (noError) Do(context.Context) int                                        { return 0 }
func (threeIn) Do(_ context.Context, _, _ int) error                          { return nil }
func (twoOut) Do(context.Context) (int, int)                                  { return 0, 0 }
func (variadic) Do(context.Context, ...int) error                             { return nil }
func (bothOut) Do(context.Context, int, func(int) error) (int, error)         { return 0, nil }
func (holed) Do(context.Context, hole) error                                  { return nil }
func (fine) Do(context.Context, iter.Seq2[int, error], func(int) error) error { return nil }

func TestNew_refuses(t *testing.T) {
	for name, tt := range map[string]struct {
		impl    any
		options []Option
		want    string
	}{
		"nil":       {nil, nil, "there is nothing to serve"},
		"none":      {none{}, nil, "goplugin.none has no operation; give it a method"},
		"pointer":   {byPointer{}, nil, "serve &byPointer{}"},
		"no error":  {noError{}, nil, "goplugin.noError.Do: is no operation"},
		"three":     {threeIn{}, nil, "goplugin.threeIn.Do: is no operation"},
		"two":       {twoOut{}, nil, "goplugin.twoOut.Do: is no operation"},
		"variadic":  {variadic{}, nil, "goplugin.variadic.Do: is no operation"},
		"both":      {bothOut{}, nil, "goplugin.bothOut.Do: is no operation"},
		"hole":      {holed{}, nil, "goplugin.holed.Do: its argument: hole.Deep.C: chan int has no form in JSON"},
		"operation": {fine{}, []Option{Operation("Does", "x")}, "has no operation Does"},
		"name":      {fine{}, []Option{Name("Fine")}, `"Fine" cannot be the name of a service`},
		"reserved":  {fine{}, []Option{Name("patchbay.plugin.v1.Fine")}, "cannot be the name"},
		"no name":   {struct{ fine }{}, nil, `"" cannot be the name of a service; give one by goplugin.Name`},
	} {
		if _, err := New(tt.impl, tt.options...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	p, err := New(fine{})
	if err != nil || p.name != "fine.Fine" {
		t.Errorf("got %v, %v", p, err)
	}
}

// TestByHand: who starts a plugin is told what it is, and gets a manifest.
func TestByHand(t *testing.T) {
	path := filepath.Join(t.TempDir(), "greeter")
	if out, err := exec.Command("go", "build", "-o", path, "../../../test/plugins/goplugin/greeter").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command(path).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || !strings.Contains(string(out), "This binary is a plugin. ") {
		t.Errorf("got %s, %v", out, err)
	}
	out, err = exec.Command(path, "manifest").Output()
	if err != nil || !strings.Contains(string(out), `command: ["`+path+`"]`) {
		t.Errorf("got %s, %v", out, err)
	}
}

func TestLogHandler(t *testing.T) {
	var out bytes.Buffer
	level := new(slog.LevelVar)
	level.Set(levelTrace)
	log := slog.New(NewLogHandler(&out, level))
	for l, want := range map[slog.Level]string{
		levelTrace: "trace", slog.LevelDebug: "debug", slog.LevelInfo: "info", slog.LevelInfo + 1: "info", slog.LevelWarn: "warn", slog.LevelError: "error", slog.LevelError + 4: "error",
	} {
		out.Reset()
		log.With("a", 1).WithGroup("g").Log(t.Context(), l, "text", "level", "mine", "time", "mine")
		var line struct {
			Level   string                       `json:"@level"`
			Message string                       `json:"@message"`
			At      string                       `json:"@timestamp"`
			A       int                          `json:"a"`
			G       struct{ Level, Time string } `json:"g"`
		}
		if err := json.Unmarshal(out.Bytes(), &line); err != nil || line.Level != want || line.Message != "text" || line.A != 1 || line.G.Level != "mine" || line.G.Time != "mine" {
			t.Errorf("%v: got %s, %v", l, out.Bytes(), err)
		}
		if _, err := time.Parse(stampLayout, line.At); err != nil {
			t.Error(err)
		}
	}
	level.Set(slog.LevelWarn)
	out.Reset()
	log.Info("too quiet", "level", 1)
	if out.Len() != 0 {
		t.Errorf("got %s", out.Bytes())
	}
}

func TestRefusal_isBounded(t *testing.T) {
	long := strings.Repeat("é", textBytesMax)
	s := Refuse(codes.OK, "%s", long).With(strings.Repeat("x", detailBytesMax)).GRPCStatus()
	if s.Code() != codes.Unknown || len(s.Message()) > textBytesMax+100 || len(s.Details()) != 0 || !strings.Contains(s.Message(), "details are left out") {
		t.Errorf("got %v, %d bytes, %d details", s.Code(), len(s.Message()), len(s.Details()))
	}
}

func TestAsked(t *testing.T) {
	for code, want := range map[codes.Code]error{
		codes.NotFound: plugin.ErrNotFound, codes.PermissionDenied: plugin.ErrDenied, codes.InvalidArgument: plugin.ErrInvalid,
		codes.ResourceExhausted: plugin.ErrBusy, codes.Unavailable: plugin.ErrUnavailable, codes.DeadlineExceeded: plugin.ErrDeadline,
	} {
		if err := asked("Get", status.Error(code, "why")); !errors.Is(err, want) || !strings.Contains(err.Error(), "host: Get: ") {
			t.Errorf("%s: got %v", code, err)
		}
	}
	if _, err := HostOf(t.Context()).Get(t.Context(), "k"); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("outside of an operation: got %v", err)
	}
}

// TestCalls: what begins after the end does not run.
func TestCalls(t *testing.T) {
	var c calls
	end, ok := c.begin()
	if !ok {
		t.Fatal("the first does not begin")
	}
	ended := make(chan struct{})
	go func() { defer close(ended); c.end() }()
	end()
	<-ended
	if _, ok := c.begin(); ok {
		t.Error("a call begins after the end")
	}
}
