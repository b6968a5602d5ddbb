package provider_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/provider"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// daemonArg makes the test binary a daemon that launches the launch of its
// standard input, prints the handle and waits to be killed.
const daemonArg = "killed-daemon"

// A told launch is what such a daemon is told.
type told struct {
	ID, Dir  string
	Manifest plugin.Manifest
	Env      map[string]string
}

func playDaemon() {
	var l told
	if err := json.NewDecoder(os.Stdin).Decode(&l); err != nil {
		panic(err)
	}
	i, err := provider.New(provider.Options{}).Launch(context.Background(), plugin.Launch{
		ID: l.ID, Dir: l.Dir, Manifest: l.Manifest, Env: l.Env, Node: "conformance",
		Host: conformance.NewHost(), Output: conformance.OutputIn(l.Dir),
	})
	if err != nil {
		panic(err)
	}
	handle, err := i.(plugin.Survivor).Handle(context.Background())
	if err != nil {
		panic(err)
	}
	fmt.Println(string(handle))
	select {}
}

// orphaned launches m in a daemon that is then killed.
func orphaned(t *testing.T, m plugin.Manifest) (plugin.Launch, plugin.RawJSON) {
	t.Helper()
	l := launchOf(t, m)
	input, err := json.Marshal(told{l.ID, l.Dir, l.Manifest, l.Env})
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(os.Args[0], daemonArg)
	daemon.Stdin, daemon.Stderr = bytes.NewReader(input), os.Stderr
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	var handle plugin.RawJSON
	if err := json.NewDecoder(out).Decode(&handle); err != nil {
		t.Fatal(err)
	}
	_ = daemon.Process.Kill()
	_ = daemon.Wait()
	return l, handle
}

func adopt(t *testing.T, l plugin.Launch, handle plugin.RawJSON) plugin.Instance {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	i, err := provider.New(provider.Options{}).Adopt(ctx, l, handle)
	if err != nil {
		t.Fatalf("adopt: %v", err)
	}
	t.Cleanup(func() { stop(t, i, l) })
	return i
}

func stop(t *testing.T, i plugin.Instance, l plugin.Launch) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := i.Stop(ctx); err != nil {
		t.Error(err)
	}
	nothingLeft(t, l)
}

// leave lets go of an instance and returns its handle.
func leave(t *testing.T, i plugin.Instance) plugin.RawJSON {
	t.Helper()
	handle, err := i.(plugin.Survivor).Handle(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	i.(plugin.Survivor).Leave()
	return handle
}

func TestAdopt_afterTheDaemonWasKilled(t *testing.T) {
	l, handle := orphaned(t, demo(t))
	i := adopt(t, l, handle)
	must(t, i, "count", `{}`, `1`)
	must(t, i, "log", `{"text": "still here"}`, `null`)
	if text := logs(l); !strings.Contains(text, "still here") {
		t.Errorf("logs after the adoption: %s", text)
	}
	second := adopt(t, l, leave(t, i))
	must(t, second, "count", `{}`, `2`)
}

// TestAdopt_hearsWhatWasPostedMeanwhile: a post while there is no daemon waits for
// the next one. If it failed, the common library would post about that, for ever.
func TestAdopt_hearsWhatWasPostedMeanwhile(t *testing.T) {
	l, handle := orphaned(t, demo(t))
	answered := make(chan error, 1)
	go func() {
		answered <- actionOf(filepath.Join(l.Dir, "provider.sock"), "log", `{"text": "is anybody there"}`)
	}() // ends with its answer
	conformance.Eventually(t, patience, func() error {
		sockets, err := os.ReadFile("/proc/self/net/unix")
		if n := bytes.Count(sockets, []byte(l.Dir+"/host.sock\n")); err == nil && n < 2 {
			err = fmt.Errorf("%d sockets, want ours and a connection that waits", n)
		}
		return err
	})
	i := adopt(t, l, handle)
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if text := logs(l); strings.Count(text, "is anybody there") != 1 {
		t.Errorf("logs: want the line once in %s", text)
	}
	must(t, i, "echo", `{}`, `{}`)
}

// actionOf calls a provider without a daemon.
func actionOf(socket, command, params string) error {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	body := fmt.Sprintf(`{"Command": %q, "Params": %s}`, command, params)
	response, err := client.Post("http://unix/api-plugin/v4/action", "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

// A provider that closed what it inherited is served on a new socket.
func TestAdopt_withoutTheKeptSocket(t *testing.T) {
	l, handle := orphaned(t, manifestOf(t, provider.Spec{Command: []string{"/bin/sh", "-c", `exec 3>&-; exec "$0" "$@"`, os.Getenv(builtVar)}}))
	i := adopt(t, l, handle)
	must(t, i, "log", `{"text": "on a new socket"}`, `null`)
	if text := logs(l); !strings.Contains(text, "on a new socket") {
		t.Errorf("logs: %s", text)
	}
}

func TestAdopt_endsWhatIsSilent(t *testing.T) {
	l, handle := orphaned(t, demo(t))
	var h struct{ Process struct{ Pid int } }
	if err := json.Unmarshal(handle, &h); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(h.Process.Pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	conformance.Eventually(t, patience, func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.Process.Pid))
		if err == nil && !bytes.Contains(stat, []byte(") T ")) {
			err = fmt.Errorf("not stopped: %s", stat)
		}
		return err
	})
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, err := provider.New(provider.Options{}).Adopt(ctx, l, handle)
	if !errors.Is(err, plugin.ErrUnavailable) || errors.Is(err, plugin.ErrNotFound) {
		t.Errorf("got %v, want plugin.ErrUnavailable and not plugin.ErrNotFound", err)
	}
	nothingLeft(t, l)
}

// The socket of somebody else is not spoken to.
func TestAdopt_endsWhoseSocketIsAnothers(t *testing.T) {
	l, handle := orphaned(t, demo(t))
	path := filepath.Join(l.Dir, "provider.sock")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	ours, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err = provider.New(provider.Options{}).Adopt(ctx, l, handle)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d is not the provider's", os.Getpid())) {
		t.Errorf("got %v", err)
	}
	_ = ours.Close()
	nothingLeft(t, l)
}

func TestAdopt_anothersHandle(t *testing.T) {
	first, l := launched(t, demo(t), nil)
	handle, err := first.(plugin.Survivor).Handle(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	other := launchOf(t, demo(t))
	if _, err := provider.New(provider.Options{}).Adopt(t.Context(), other, handle); !errors.Is(err, plugin.ErrNotFound) {
		t.Errorf("got %v, want plugin.ErrNotFound", err)
	}
	must(t, first, "count", `{}`, `1`)
	if !strings.Contains(string(handle), l.ID) {
		t.Errorf("the handle does not bear its instance: %s", handle)
	}
}

func TestHandle_ofABoundProvider(t *testing.T) {
	m := demo(t)
	m.Spec.Lifetime = plugin.Bound
	i, _ := launched(t, m, nil)
	if _, err := i.(plugin.Survivor).Handle(context.Background()); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("got %v, want plugin.ErrInvalid", err)
	}
}

func TestLeave_stopReachesNothing(t *testing.T) {
	i, l := launched(t, demo(t), nil)
	handle := leave(t, i)
	if err := i.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if exit := i.Wait(); exit.Code != -1 || exit.Message == "" {
		t.Errorf("got %+v, want that it was left", exit)
	}
	if _, err := invoke(t, i, "echo", `{}`); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("call of what was left: got %v, want plugin.ErrUnavailable", err)
	}
	must(t, adopt(t, l, handle), "count", `{}`, `1`)
}

func TestSweep_whatNobodyAdopts(t *testing.T) {
	l, handle := orphaned(t, demo(t))
	a := provider.New(provider.Options{Node: "conformance"})
	strays, err := a.Strays(t.Context(), "conformance", func(id string) bool { return id != l.ID })
	if err != nil || len(strays) != 1 || strays[0].Instance != l.ID || !strings.Contains(string(handle), `"pid":`+strays[0].Name+`,`) {
		t.Fatalf("strays: got %+v, %v", strays, err)
	}
	if removed, err := provider.New(provider.Options{Node: "other"}).Sweep(t.Context(), strays); err != nil || len(removed) != 0 {
		t.Errorf("sweep by another node: got %v, %v", removed, err)
	}
	if removed, err := a.Sweep(t.Context(), strays); err != nil || len(removed) != 1 {
		t.Errorf("sweep: got %v, %v", removed, err)
	}
	pid, err := strconv.Atoi(strays[0].Name)
	if err != nil {
		t.Fatal(err)
	}
	conformance.Eventually(t, patience, func() error {
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(stat), ") Z ") {
			return fmt.Errorf("process %d is still there", pid)
		}
		return nil
	})
}
