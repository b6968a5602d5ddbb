package goplugin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/patchbay-dev/patchbay/adapters/goplugin"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// feed gives what comes over c, until it is closed.
func feed(c <-chan string) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		select {
		case part, ok := <-c:
			if !ok {
				return nil, io.EOF
			}
			return []byte(part), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func fed(parts ...string) func(context.Context) ([]byte, error) {
	c := make(chan string, len(parts))
	for _, part := range parts {
		c <- part
	}
	close(c)
	return feed(c)
}

// tallied is one counter of the plugin.
func tallied(t *testing.T, i plugin.Instance, counter string) int {
	t.Helper()
	text, err := invoke(t, i, "Tally", "")
	var got struct{ Pairs map[string]string }
	if err == nil {
		err = json.Unmarshal([]byte(text), &got)
	}
	n, nErr := strconv.Atoi(got.Pairs[counter])
	if err = errors.Join(err, nErr); err != nil {
		t.Fatal(err)
	}
	return n
}

func startedGRPC(t *testing.T, arguments ...string) plugin.Instance {
	t.Helper()
	i, _ := started(t, goplugin.Spec{Command: append([]string{built(t, "grpc")}, arguments...), Handshake: cookie()})
	return i
}

func TestConverse_argumentInParts(t *testing.T) {
	i := startedGRPC(t)
	for _, tt := range []struct {
		operation, data string
		parts           []string
		want            string
	}{
		{"Sum", ``, []string{`{"n":1}`, `{"n":2}`, `{"n":39}`}, `{"n":42}`},
		{"Sum", ``, nil, `{}`},
		{"Sum", `[{"n": 1}, {"n": 2}]`, nil, `{"n":3}`},
		{"Sum", `{"n": 7}`, nil, `{"n":7}`},
		{"Sum", ` null `, nil, `{}`},
		{"Chat", ``, []string{`{"text":"a"}`, `{}`, `{"text":"b"}`}, `[{"text":"a"},{},{"text":"b"}]`},
		{"Chat", `[]`, nil, `[]`},
		{"Chat", ``, []string{`{"text":"a"}`, `{"text":"bye"}`}, `[{"text":"a"}]`},
	} {
		in := plugin.Invocation{Operation: tt.operation, Data: []byte(tt.data)}
		if tt.data == "" {
			in.Parts = fed(tt.parts...)
		}
		got, err := i.Invoke(t.Context(), in)
		if text := strings.ReplaceAll(string(got.Data), " ", ""); err != nil || text != tt.want {
			t.Errorf("%s %s%s: got %s, %v; want %s", tt.operation, tt.data, tt.parts, text, err, tt.want)
		}
	}
	takes := i.(plugin.PartsTaker)
	if !takes.TakesParts("Sum") || !takes.TakesParts("patchbay.tiny.v1.Tiny/Chat") || takes.TakesParts("Count") || takes.TakesParts("None") {
		t.Error("TakesParts does not know its operations")
	}
}

// TestConverse_eachWay answers before the argument ends: one part in, one out.
func TestConverse_eachWay(t *testing.T) {
	i := startedGRPC(t)
	say := make(chan string, 1)
	say <- `{"text":"0"}`
	n := 0
	err := i.(plugin.StreamInvoker).InvokeStream(t.Context(), plugin.Invocation{Operation: "Chat", Parts: feed(say)}, func(part []byte) error {
		if want := fmt.Sprintf(`{"text":"%d"}`, n); strings.ReplaceAll(string(part), " ", "") != want {
			return fmt.Errorf("got %s, want %s", part, want)
		}
		if n++; n == 100 {
			close(say)
		} else {
			say <- fmt.Sprintf(`{"text":"%d"}`, n)
		}
		return nil
	})
	if err != nil || n != 100 {
		t.Errorf("got %v after %d parts", err, n)
	}
}

func TestConverse_faults(t *testing.T) {
	i := startedGRPC(t)
	open := make(chan string) // never closed: the caller's side stays open
	started := func(first ...string) func(context.Context) ([]byte, error) {
		return func(ctx context.Context) ([]byte, error) {
			if len(first) == 0 {
				return feed(open)(ctx)
			}
			part := first[0]
			first = first[1:]
			return []byte(part), nil
		}
	}
	left := errors.New("the caller left")
	for _, tt := range []struct {
		name, operation string
		parts           func(context.Context) ([]byte, error)
		class           error
		text            string
	}{
		{"a part that does not fit", "Sum", started(`{"n":1}`, `{"m":1}`), plugin.ErrInvalid, `part 2`},
		{"a part that is not JSON", "Chat", started(`{"text":`), plugin.ErrInvalid, `part 1`},
		{"the source breaks", "Sum", func(context.Context) ([]byte, error) { return nil, left }, left, "Tiny/Sum: argument"},
		{"too large for the plugin's own limit", "Hold", started(`{"text":"` + strings.Repeat("x", 17<<20) + `"}`), plugin.ErrInvalid, "limit"},
	} {
		_, err := i.Invoke(t.Context(), plugin.Invocation{Operation: tt.operation, Parts: tt.parts})
		if !errors.Is(err, tt.class) || !strings.Contains(fmt.Sprint(err), tt.text) {
			t.Errorf("%s: got %v, want %v with %q", tt.name, err, tt.class, tt.text)
		}
	}
	// The plugin's own no comes at once, though the caller has more to say.
	_, err := i.Invoke(t.Context(), plugin.Invocation{Operation: "Sum", Parts: started(`{"n":-1}`)})
	if no, ok := errors.AsType[*plugin.Refusal](err); !ok || no.Code != "OutOfRange" {
		t.Errorf("refused: got %v", err)
	}
	if _, err := invoke(t, i, "Sum", `[{"n":1}`); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("a list without an end: got %v", err)
	}
}

// TestConverse_cancelReachesThePlugin: whoever ends it, the plugin sees the end.
func TestConverse_cancelReachesThePlugin(t *testing.T) {
	i := startedGRPC(t)
	ctx, cancel := context.WithCancel(t.Context())
	enough := errors.New("enough")
	for n, end := range []func() error{
		func() error { // the caller's context
			heard := make(chan error, 1)
			go func() { // ends with ctx
				_, err := i.Invoke(ctx, plugin.Invocation{Operation: "Hold", Parts: feed(make(chan string))})
				heard <- err
			}()
			conformance.Eventually(t, 10*time.Second, func() error {
				if tallied(t, i, "open") != 1 {
					return errors.New("not open")
				}
				return nil
			})
			cancel()
			return <-heard
		},
		func() error { // the deadline
			return within(t, 50*time.Millisecond, func(ctx context.Context) error {
				_, err := i.Invoke(ctx, plugin.Invocation{Operation: "Hold", Parts: feed(make(chan string))})
				return err
			})
		},
		func() error { // who takes the answer
			err := i.(plugin.StreamInvoker).InvokeStream(t.Context(), plugin.Invocation{Operation: "Flood", Data: []byte(`{"n": 10}`)}, func([]byte) error { return enough })
			if err != enough {
				t.Errorf("got %v, want the error of send", err)
			}
			return err
		},
	} {
		if err := end(); err == nil {
			t.Errorf("%d: got no error", n)
		}
		conformance.Eventually(t, 10*time.Second, func() error {
			if got := tallied(t, i, "cancelled"); got != n+1 || tallied(t, i, "open") != 0 {
				return fmt.Errorf("the plugin has seen %d of its calls cancelled, want %d", got, n+1)
			}
			return nil
		})
	}
}

// TestConverse_slowReader: what is not taken is not produced; a window's worth is
// under way.
func TestConverse_slowReader(t *testing.T) {
	i := startedGRPC(t)
	const part, room = 100 << 10, 8 << 20 // grpc's windows and sockets hold less
	err := i.(plugin.StreamInvoker).InvokeStream(t.Context(), plugin.Invocation{Operation: "Flood", Data: fmt.Appendf(nil, `{"n": %d}`, part)}, func([]byte) error {
		last := -1
		conformance.Eventually(t, 20*time.Second, func() error { // it comes to rest
			now := tallied(t, i, "sent")
			if now != last || now == 0 {
				last = now
				return errors.New("it goes on")
			}
			return nil
		})
		if last*part > room {
			t.Errorf("the plugin has sent %d bytes that nobody takes", last*part)
		}
		return errors.New("seen")
	})
	if fmt.Sprint(err) != "seen" {
		t.Errorf("got %v", err)
	}
}

// TestConverse_slowPlugin: a plugin that takes nothing stops its caller.
func TestConverse_slowPlugin(t *testing.T) {
	i := startedGRPC(t)
	const part, room = 100 << 10, 8 << 20
	asked := 0
	text := []byte(`{"text":"` + strings.Repeat("x", part) + `"}`)
	err := within(t, 2*time.Second, func(ctx context.Context) error {
		_, err := i.Invoke(ctx, plugin.Invocation{Operation: "Hold", Parts: func(context.Context) ([]byte, error) {
			asked++
			return text, nil
		}})
		return err
	})
	if !errors.Is(err, plugin.ErrDeadline) || asked*part > room || asked == 0 {
		t.Errorf("got %v after %d parts", err, asked)
	}
}

// TestConverse_death: a plugin that dies ends its streams.
func TestConverse_death(t *testing.T) {
	i := startedGRPC(t)
	pid, err := strconv.Atoi(i.(plugin.Inspector).Inspect()["pid"])
	if err != nil {
		t.Fatal(err)
	}
	open := make(chan string, 1)
	open <- `{"text":"x"}`
	err = i.(plugin.StreamInvoker).InvokeStream(t.Context(), plugin.Invocation{Operation: "Chat", Parts: feed(open)}, func([]byte) error {
		return syscall.Kill(pid, syscall.SIGKILL)
	})
	if !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("got %v, want plugin.ErrUnavailable", err)
	}
}

func TestMetadata_told(t *testing.T) {
	i := startedGRPC(t)
	told := map[string]string{}
	tell := func(m map[string]string) {
		for key, value := range m {
			told[key] = value
		}
	}
	want := map[string]string{"tiny-header": "first", "tiny-bin": "AAE=", "tiny-trailer": "last"}
	if _, err := i.Invoke(t.Context(), plugin.Invocation{Operation: "Metadata", Told: tell}); err != nil || fmt.Sprint(told) != fmt.Sprint(want) {
		t.Errorf("got %v, %v; want %v", told, err, want)
	}
	times := 0
	if _, err := i.Invoke(t.Context(), plugin.Invocation{Operation: "Chat", Data: []byte(`[{}]`), Told: func(map[string]string) { times++ }}); err != nil || times != 2 {
		t.Errorf("a stream told %d times, %v", times, err)
	}
}

func TestMetadata_callersMaySendWhatIsListed(t *testing.T) {
	i, _ := started(t, goplugin.Spec{Command: []string{built(t, "grpc")}, Handshake: cookie(), CallerMetadata: []string{"x-request", "tenant-*"}})
	given := map[string]string{"x-request": "1", "tenant-id": "7", "traceparent": "00-1-2-01", "tenant-key-bin": "AAE="}
	r, err := i.Invoke(t.Context(), plugin.Invocation{Operation: "Metadata", Metadata: given})
	if err != nil || !strings.Contains(string(r.Data), `\u0000\u0001`) || !strings.Contains(string(r.Data), "tenant-id") {
		t.Errorf("got %s, %v", r.Data, err)
	}
	for key, class := range map[string]error{"authorization": plugin.ErrDenied, "x-request-id": plugin.ErrDenied, "tenant-x-bin": plugin.ErrInvalid} {
		if _, err := i.Invoke(t.Context(), plugin.Invocation{Operation: "Metadata", Metadata: map[string]string{key: "%"}}); !errors.Is(err, class) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: got %v, want %v", key, err, class)
		}
	}
}

// TestDeadline_travels: the plugin knows how long its caller waits, and not how long
// the manifest lets any caller wait.
func TestDeadline_travels(t *testing.T) {
	i := startedGRPC(t)
	for _, house := range []bool{false, true} {
		err := within(t, time.Minute, func(ctx context.Context) error {
			r, err := i.Invoke(ctx, plugin.Invocation{Operation: "Metadata", HouseDeadline: house})
			if err == nil && strings.Contains(string(r.Data), `"deadline"`) == house {
				err = fmt.Errorf("it was told %s", r.Data)
			}
			return err
		})
		if err != nil {
			t.Errorf("house %t: %v", house, err)
		}
	}
}

// TestDeadline_ofTheHouse ends a call that the plugin was given no time for.
func TestDeadline_ofTheHouse(t *testing.T) {
	i := startedGRPC(t)
	err := within(t, 100*time.Millisecond, func(ctx context.Context) error {
		_, err := i.Invoke(ctx, plugin.Invocation{Operation: "Slow", Data: []byte(`{"milliseconds": "60000"}`), HouseDeadline: true})
		return err
	})
	if !errors.Is(err, plugin.ErrDeadline) {
		t.Errorf("got %v, want %v", err, plugin.ErrDeadline)
	}
	conformance.Eventually(t, 10*time.Second, func() error {
		if tallied(t, i, "cancelled") != 1 {
			return errors.New("the plugin works on")
		}
		return nil
	})
}

// TestStatus_classes: what each code of a plugin becomes. Its own no keeps its code;
// what says nothing of the plugin's opinion has a class.
func TestStatus_classes(t *testing.T) {
	i := startedGRPC(t)
	for code, class := range map[codes.Code]error{
		codes.Canceled: plugin.ErrUnavailable, codes.Unavailable: plugin.ErrUnavailable, codes.Unimplemented: plugin.ErrNotFound,
		codes.Unknown: nil, codes.InvalidArgument: nil, codes.DeadlineExceeded: nil, codes.NotFound: nil, codes.AlreadyExists: nil,
		codes.PermissionDenied: nil, codes.ResourceExhausted: nil, codes.FailedPrecondition: nil, codes.Aborted: nil,
		codes.OutOfRange: nil, codes.Internal: nil, codes.DataLoss: nil, codes.Unauthenticated: nil,
	} {
		_, err := invoke(t, i, "Fail", fmt.Sprintf(`{"code": %d, "message": "why"}`, code))
		no, refused := errors.AsType[*plugin.Refusal](err)
		switch {
		case !strings.Contains(fmt.Sprint(err), "why"):
			t.Errorf("%s: got %v, which lost the message", code, err)
		case class != nil && !errors.Is(err, class):
			t.Errorf("%s: got %v, want %v", code, err, class)
		case class == nil && (!refused || no.Code != code.String()):
			t.Errorf("%s: got %v, want the plugin's own no", code, err)
		}
	}
}

func TestStatus_details(t *testing.T) {
	i := startedGRPC(t)
	usual, err := proto.Marshal(&errdetails.ErrorInfo{Reason: "TIRED", Domain: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		kind   string
		detail []byte
		want   string
	}{
		{"type.googleapis.com/patchbay.tiny.v1.Number", []byte{8, 7}, `[{"@type":"type.googleapis.com/patchbay.tiny.v1.Number","n":7}]`},
		{"type.googleapis.com/google.rpc.ErrorInfo", usual, `[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"TIRED","domain":"example.com"}]`},
		{"example.com/own.Unknown", []byte{1, 2, 3}, `[{"@type":"example.com/own.Unknown","value":"AQID"}]`},
		{"type.googleapis.com/patchbay.tiny.v1.Number", []byte{255}, `[{"@type":"type.googleapis.com/patchbay.tiny.v1.Number","value":"/w=="}]`},
	} {
		argument, err := json.Marshal(map[string]any{"code": codes.FailedPrecondition, "detailType": tt.kind, "detail": tt.detail})
		if err != nil {
			t.Fatal(err)
		}
		_, err = invoke(t, i, "Fail", string(argument))
		no, ok := errors.AsType[*plugin.Refusal](err)
		if !ok || strings.ReplaceAll(string(no.Details), " ", "") != tt.want {
			t.Errorf("%s: got %v %s, want %s", tt.kind, err, no.Details, tt.want)
		}
	}
}
