package goplugin_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/goplugin"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// handOver launches an example, calls it, lets go of it, and adopts it as the next
// daemon does.
func handOver(t *testing.T, l plugin.Launch, use func(plugin.Instance)) plugin.Instance {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	a := goplugin.New(goplugin.Options{Node: l.Node})
	first, err := a.Launch(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	pid := pidOf(t, first)
	t.Cleanup(func() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		_, _ = syscall.Wait4(pid, nil, 0, nil) // it is a child of the test after all
	})
	use(first)
	s := first.(plugin.Survivor)
	handle, err := s.Handle(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	s.Leave()
	second, err := a.Adopt(ctx, l, handle)
	if err != nil {
		t.Fatalf("adopt: %v", err)
	}
	if got := pidOf(t, second); got != pid {
		t.Errorf("adopted process %d, want %d", got, pid)
	}
	return second
}

// TestKV_adopted: the two protocols of the real thing, bare and with AutoMTLS, for
// which go-plugin's own host has no reattach.
func TestKV_adopted(t *testing.T) {
	for _, tt := range []struct{ example, rest, put, get, want string }{
		{"kv-grpc", hello, `{"key": "a", "value": "` + encoded("hello") + `"}`, `{"key": "a"}`, `{"value":"` + encoded("hello\n\nWritten from plugin-go-grpc") + `"}`},
		{"kv-netrpc", hello + kv, `{"key": "a", "value": "` + encoded("hello") + `"}`, `"a"`, `"` + encoded("hello\n\nWritten from plugin-go-netrpc") + `"`},
	} {
		for _, tls := range []string{"off", "auto"} {
			t.Run(tt.example+" tls "+tls, func(t *testing.T) {
				i := handOver(t, launchOf(t, tt.example, tt.rest+`, "tls": "`+tls+`"`), func(first plugin.Instance) {
					call(t, first, "Put", tt.put)
				})
				if got := call(t, i, "Get", tt.get); got != tt.want {
					t.Errorf("get: got %s, want %s", got, tt.want)
				}
				if err := i.(plugin.Prober).Probe(t.Context()); err != nil {
					t.Errorf("probe: %v", err)
				}
				endsUponBeingAsked(t, i)
			})
		}
	}
}

// endsUponBeingAsked: the protocol's own quit reaches an adopted plugin; the signals
// of the ladder would come after half of the time.
func endsUponBeingAsked(t *testing.T, i plugin.Instance) {
	t.Helper()
	const grace = 10 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), grace)
	defer cancel()
	begin := time.Now()
	if err := i.Stop(ctx); err != nil || time.Since(begin) > grace/2 {
		t.Errorf("stop: got %v after %v", err, time.Since(begin))
	}
	if e := i.Wait(); e.Signal != "" {
		t.Errorf("stop: got %v, want that it ended by itself", e)
	}
}

func TestKV_adoptedAndKilled(t *testing.T) {
	for example, rest := range map[string]string{"kv-grpc": hello, "kv-netrpc": hello + kv} {
		t.Run(example, func(t *testing.T) {
			i := handOver(t, launchOf(t, example, rest), func(plugin.Instance) {})
			begin := time.Now()
			signal(t, i, syscall.SIGKILL)
			if e := i.Wait(); e.Success() || time.Since(begin) > time.Second {
				t.Errorf("kill: got %v after %v", e, time.Since(begin))
			}
		})
	}
}
