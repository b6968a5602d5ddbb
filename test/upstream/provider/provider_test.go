// Package provider_test runs providers on the real Digital Rebar plugin library,
// unmodified, under the adapter: one of ours that calls the library as its
// documentation says, and the library's own example, the incrementer.
package provider_test

import (
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

	"github.com/patchbay-dev/patchbay/adapters"
	"github.com/patchbay-dev/patchbay/adapters/provider"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

const (
	patience  = 20 * time.Second
	library   = "library"
	increment = "incrementer"
)

// builtVar names the folder of the built providers.
const builtVar = "UPSTREAM_PROVIDERS"

func TestMain(m *testing.M) {
	adapters.Child()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "upstream-provider-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	overlay, err := incrementerOverlay(dir)
	if err != nil {
		panic(err)
	}
	for _, args := range [][]string{
		{"build", "-o", filepath.Join(dir, library), "./library"},
		{"build", "-overlay", overlay, "-o", filepath.Join(dir, increment), "./incrementer"},
	} {
		build := exec.Command("go", args...)
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			panic(err)
		}
	}
	if err := os.Setenv(builtVar, dir); err != nil {
		panic(err)
	}
	return m.Run()
}

// incrementerOverlay builds the library's example from the module cache. The one
// file that its authors generate and do not check in, content.go, is generated as
// they do: its content folder bundled into a string.
func incrementerOverlay(dir string) (string, error) {
	list := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/digitalrebar/provision/v4")
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return "", err
	}
	source := filepath.Join(strings.TrimSpace(string(out)), "cmds", "incrementer")
	files, err := filepath.Glob(filepath.Join(source, "content", "params", "*.yaml"))
	if err != nil || len(files) == 0 {
		return "", fmt.Errorf("content of the incrementer: %v, %v", files, err)
	}
	bundle := "meta:\n  Name: incrementer\nsections:\n  params:\n"
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		body := strings.TrimPrefix(string(text), "---\n")
		name, _, _ := strings.Cut(strings.TrimPrefix(body, "Name: "), "\n")
		bundle += "    " + name + ":\n      " + strings.ReplaceAll(strings.TrimSpace(body), "\n", "\n      ") + "\n"
	}
	generated := filepath.Join(dir, "content.go")
	if err := os.WriteFile(generated, []byte("package main\n\nconst contentYamlString = "+strconv.Quote(bundle)+"\n"), 0o600); err != nil {
		return "", err
	}
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(here, "incrementer", "incrementer.go"): filepath.Join(source, "incrementer.go"),
		filepath.Join(here, "incrementer", "content.go"):     generated,
	}})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, overlay, 0o600)
}

func manifestOf(t testing.TB, binary string, params map[string]plugin.RawJSON) plugin.Manifest {
	t.Helper()
	block, err := json.Marshal(provider.Spec{Command: []string{filepath.Join(os.Getenv(builtVar), binary)}, Params: params})
	if err != nil {
		t.Fatal(err)
	}
	m := plugin.Manifest{
		APIVersion: plugin.APIVersion, Kind: plugin.Kind, Metadata: plugin.Metadata{Name: "real"},
		Spec: plugin.Spec{Adapter: "provider", Block: block},
	}
	if err := provider.New(provider.Options{}).Check(m); err != nil {
		t.Fatal(err)
	}
	return m
}

func launched(t testing.TB, m plugin.Manifest) (plugin.Instance, plugin.Launch) {
	t.Helper()
	l := conformance.NewLaunch(t, m)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	i, err := provider.New(provider.Options{}).Launch(ctx, l)
	if err != nil {
		t.Fatalf("launch: %v\n%s", err, l.Output.(*conformance.Output).All())
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := i.Stop(ctx); err != nil {
			t.Error(err)
		}
		conformance.Eventually(t, patience, func() error { return conformance.Left(l) })
	})
	return i, l
}

func invoke(t testing.TB, i plugin.Instance, operation, data string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	result, err := i.Invoke(ctx, plugin.Invocation{Operation: operation, Data: []byte(data)})
	return string(result.Data), err
}

func must(t testing.TB, i plugin.Instance, operation, data, want string) {
	t.Helper()
	if got, err := invoke(t, i, operation, data); err != nil || got != want {
		t.Errorf("%s %s: got %s, %v, want %s", operation, data, got, err, want)
	}
}

func refused(t testing.TB, i plugin.Instance, operation, code, want string) {
	t.Helper()
	_, err := invoke(t, i, operation, "{}")
	var no *plugin.Refusal
	if !errors.As(err, &no) || no.Code != code || !strings.Contains(no.Message, want) {
		t.Errorf("%s: got %v, want a refusal %s with %q", operation, err, code, want)
	}
}

func logs(l plugin.Launch) string { return l.Output.(*conformance.Output).Text(plugin.PluginLog) }

func TestLibrary_life(t *testing.T) {
	i, l := launched(t, manifestOf(t, library, map[string]plugin.RawJSON{"library/password": plugin.RawJSON(`"s3cr3t-word"`)}))
	must(t, i, "greet", `{"who": "you"}`, `"hello you from real"`)
	must(t, i, "echo", `{"a": [1, "x", null]}`, `{"a":[1,"x",null]}`)
	must(t, i, "publish", `{}`, `"published"`)
	must(t, i, "list", `{}`, `0`)
	must(t, i, "print", `{}`, `null`)
	events := l.Host.(*conformance.Host).Events()
	if len(events) != 1 || events[0].Type != "library.greeted" || events[0].Subject != "key.1" {
		t.Errorf("events: got %+v", events)
	}
	if text := l.Output.(*conformance.Output).Text(plugin.Stdout); !strings.Contains(text, "printed by the library\n") {
		t.Errorf("stdout: got %q", text)
	}
	text := logs(l)
	for _, want := range []string{`"message":"configured as real"`, `"level":"warn"`, "Received Config request", `greeting you`, "[redacted]"} {
		if !strings.Contains(text, want) {
			t.Errorf("logs: no %q in %s", want, text)
		}
	}
	if strings.Contains(text, "s3cr3t") {
		t.Errorf("logs: the secret is in %s", text)
	}
	if _, err := os.Stat(filepath.Join(l.Dir, "files/plugin_providers/library/unpacked")); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	begun := time.Now()
	if err := i.Stop(ctx); err != nil {
		t.Error(err)
	}
	if exit := i.Wait(); !exit.Success() || time.Since(begun) > patience/4 {
		t.Errorf("stop: got %+v after %s, want exit code 0 upon being asked", exit, time.Since(begun))
	}
}

func TestLibrary_errors(t *testing.T) {
	i, l := launched(t, manifestOf(t, library, nil))
	refused(t, i, "refuse", "409", "rather not")
	refused(t, i, "code-zero", "500", "without a status code")
	refused(t, i, "panic", "500", "the provider panicked: on purpose")
	refused(t, i, "undone", "404", "unknown command")
	begun := time.Now()
	refused(t, i, "call-api", "502", "does not serve the Digital Rebar API")
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("call of the API: took %s; the library retries for 20 s what does not answer", took)
	}
	if _, err := invoke(t, i, "nothing", "{}"); !errors.Is(err, plugin.ErrNotFound) {
		t.Errorf("nothing: got %v, want not found", err)
	}
	must(t, i, "echo", `{}`, `{}`)
	before := logs(l)
	if err := i.(plugin.Prober).Probe(t.Context()); err != nil {
		t.Error(err)
	}
	if after := logs(l); after != before {
		t.Errorf("a probe is logged: %s", strings.TrimPrefix(after, before))
	}
}

func TestLibrary_configRefused(t *testing.T) {
	l := conformance.NewLaunch(t, manifestOf(t, library, map[string]plugin.RawJSON{"library/fail": plugin.RawJSON(`"no such place"`)}))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := provider.New(provider.Options{}).Launch(ctx, l)
	if !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "answered 400: no such place") {
		t.Errorf("got %v", err)
	}
	conformance.Eventually(t, patience, func() error { return conformance.Left(l) })
}

func TestLibrary_leaves(t *testing.T) {
	i, _ := launched(t, manifestOf(t, library, nil))
	_, _ = invoke(t, i, "leave", "{}")
	if exit := i.Wait(); exit.Message != "it asked to be removed (403): no licence" {
		t.Errorf("got %+v", exit)
	}
}

func TestLibrary_killIsNoticed(t *testing.T) {
	const most = 100 * time.Millisecond
	i, _ := launched(t, manifestOf(t, library, nil))
	pid, err := strconv.Atoi(i.(plugin.Inspector).Inspect()["pid"])
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	exit := i.Wait()
	if took := time.Since(begun); exit.Signal != "SIGKILL" || took > most {
		t.Errorf("got %+v after %s, want SIGKILL within %s", exit, took, most)
	}
	if _, err := invoke(t, i, "echo", "{}"); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("afterwards: got %v, want unavailable", err)
	}
}

func TestIncrementer(t *testing.T) {
	i, l := launched(t, manifestOf(t, increment, nil))
	must(t, i, "incrstatus", `{}`, `"Running"`)
	if text, err := os.ReadFile(filepath.Join(l.Dir, "files/plugin_providers/incrementer/testFile")); err != nil || string(text) != "ImaFile" {
		t.Errorf("unpacked: got %q, %v", text, err)
	}
	if _, err := invoke(t, i, "reset_count", `{"Model": {"Uuid": "u"}}`); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "incrementer/touched") {
		t.Errorf("reset_count: got %v, want that incrementer/touched is missing", err)
	}
	_, err := invoke(t, i, "increment", `{"Model": {"Uuid": "3e7031fe-5555-45f1-835c-92541bc9cbd3", "Params": {}}}`)
	var no *plugin.Refusal
	if !errors.As(err, &no) || !strings.Contains(no.Message, "does not serve the Digital Rebar API") {
		t.Errorf("increment: got %v, want the API's absence in the provider's own words", err)
	}
	operations, err := i.(plugin.Describer).Describe(t.Context())
	if err != nil || len(operations) != 3 || operations[0].Name != "increment" {
		t.Errorf("operations: got %+v, %v", operations, err)
	}
}

// TestLibrary_adopted: the same process goes on with the configuration that it
// has. What it posts while there is no daemon waits for the next one; were it
// refused, the library would log that, and the failure of that, until memory ends.
func TestLibrary_adopted(t *testing.T) {
	first, l := launched(t, manifestOf(t, library, nil))
	must(t, first, "greet", `{"who": "you"}`, `"hello you from real"`)
	handle, err := first.(plugin.Survivor).Handle(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	first.(plugin.Survivor).Leave()
	answered := make(chan string, 1)
	go func() { answered <- greeted(filepath.Join(l.Dir, "provider.sock")) }() // ends with the answer
	conformance.Eventually(t, patience, func() error {
		sockets, err := os.ReadFile("/proc/self/net/unix")
		if n := strings.Count(string(sockets), l.Dir+"/host.sock\n"); err == nil && n < 2 {
			err = fmt.Errorf("%d sockets, want ours and a connection that waits", n)
		}
		return err
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	i, err := provider.New(provider.Options{}).Adopt(ctx, l, handle)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Stop(context.Background()) })
	if got := <-answered; got != "200 OK" {
		t.Errorf("action while there was no daemon: got %s", got)
	}
	must(t, i, "greet", `{"who": "again"}`, `"hello again from real"`)
	must(t, i, "publish", `{}`, `"published"`)
	text := logs(l)
	for want, times := range map[string]int{"Received Config request": 1, "greeting meanwhile": 1, "greeting again": 1, "Failed to log": 0} {
		if got := strings.Count(text, want); got != times {
			t.Errorf("logs: %q is there %d times, want %d, in %s", want, got, times, text)
		}
	}
	if err := i.Stop(ctx); err != nil || !i.Wait().Success() && i.Wait().Message == "" {
		t.Errorf("stop: got %v, %+v", err, i.Wait())
	}
}

// greeted calls the provider without a daemon.
func greeted(socket string) string {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	response, err := client.Post("http://unix/api-plugin/v4/action", "application/json", strings.NewReader(`{"Command": "greet", "Params": {"who": "meanwhile"}}`))
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	return response.Status
}
