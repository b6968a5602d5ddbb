package goplugin_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/goplugin"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// script writes an executable that does what text says.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "plugin")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// launch launches spec with that much time, and stops it with the test.
func launch(t *testing.T, spec goplugin.Spec, within time.Duration) (plugin.Instance, *conformance.Output, error) {
	t.Helper()
	l := conformance.NewLaunch(t, manifest(t, spec))
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	i, err := goplugin.New(goplugin.Options{}).Launch(ctx, l)
	if err == nil {
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if err := i.Stop(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	return i, l.Output.(*conformance.Output), err
}

func started(t *testing.T, spec goplugin.Spec) (plugin.Instance, *conformance.Output) {
	t.Helper()
	i, out, err := launch(t, spec, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return i, out
}

// echo makes one call that must work.
func echo(t *testing.T, i plugin.Instance, field string) {
	t.Helper()
	r, err := i.Invoke(t.Context(), plugin.Invocation{Operation: "Echo", Data: fmt.Appendf(nil, `{%q: "x"}`, field)})
	if want := fmt.Sprintf(`{%q:"x"}`, field); err != nil || strings.ReplaceAll(string(r.Data), " ", "") != want {
		t.Errorf("echo: got %s, %v; want %s", r.Data, err, want)
	}
}

func TestLaunch_whatIsNoPlugin(t *testing.T) {
	stranger, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	long := strings.Repeat("x", 1<<20)
	noise := filepath.Join(t.TempDir(), "noise")
	if err := os.WriteFile(noise, []byte(long+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const quick, patient = 300 * time.Millisecond, 20 * time.Second
	for _, tt := range []struct {
		name, script string
		within       time.Duration
		class        error
		want         string
	}{
		{"cookie refused", `echo "This binary is a plugin. These are not meant" >&2; exit 1`, patient, plugin.ErrInvalid, "refused the cookie PATCHBAY_TINY; check spec.goplugin.handshake; stderr: This binary is a plugin"},
		{"exits before its handshake", `echo why >&2; exit 3`, patient, plugin.ErrUnavailable, "ended before its handshake: exit code 3; stderr: why"},
		{"killed before its handshake", `kill -9 $$`, patient, plugin.ErrUnavailable, "killed by SIGKILL"},
		{"hangs", `exec sleep 60`, quick, plugin.ErrDeadline, "no handshake line on stdout in time"},
		{"half a line", `printf '1|1|unix|/p|grpc'; exec sleep 60`, quick, plugin.ErrDeadline, "no handshake line"},
		{"endless noise", `exec yes`, patient, plugin.ErrInvalid, "none is a handshake"},
		{"a megabyte without an end of line", `head -c 1000000 ` + noise + `; exec sleep 60`, quick, plugin.ErrDeadline, "no handshake line"},
		{"core version", `echo '2|1|unix|/p|grpc'; exec sleep 60`, patient, plugin.ErrInvalid, "core version 2"},
		{"protocol version", `echo '1|4|unix|/p|grpc'; exec sleep 60`, patient, plugin.ErrInvalid, "speaks protocol version 4, handshake.versions allows [1]"},
		{"transport", `echo '1|1|unix|/p|netrpc'; exec sleep 60`, patient, plugin.ErrInvalid, "speaks netrpc, spec.goplugin.transport asks for grpc"},
		{"nobody listens", `echo '1|1|unix|/nonexistent/p|grpc'; exec sleep 60`, patient, plugin.ErrUnavailable, "dial"},
		{"somebody else's socket", `echo '1|1|unix|` + stranger.Addr().String() + `|grpc'; exec sleep 60`, patient, plugin.ErrInvalid, "which is not the plugin"},
		{"another machine", `echo '1|1|tcp|192.0.2.1:80|grpc'; exec sleep 60`, patient, plugin.ErrInvalid, "not on loopback"},
		{"ends after its handshake", `echo '1|1|unix|/nonexistent/p|grpc'; echo bye >&2`, patient, plugin.ErrUnavailable, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := goplugin.Spec{Command: []string{script(t, tt.script)}, Handshake: cookie(), Transport: "grpc"}
			begin := time.Now()
			_, _, err := launch(t, spec, tt.within)
			if !errors.Is(err, tt.class) || !strings.Contains(fmt.Sprint(err), tt.want) {
				t.Errorf("got %.500v, want %v with %q", err, tt.class, tt.want)
			}
			if took := time.Since(begin); took > tt.within+time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// TestLaunch_secretsStaySecret: an error quotes stderr, but not what came from a secret.
func TestLaunch_secretsStaySecret(t *testing.T) {
	m := manifest(t, goplugin.Spec{Command: []string{script(t, `echo "token is $TOKEN" >&2; exit 1`)}, Handshake: cookie()})
	m.Spec.Env = map[string]plugin.EnvValue{"TOKEN": {Secret: "vendor/token"}}
	l := conformance.NewLaunch(t, m)
	l.Env["TOKEN"] = "hunter2"
	_, err := goplugin.New(goplugin.Options{}).Launch(t.Context(), l)
	if got := fmt.Sprint(err); strings.Contains(got, "hunter2") || !strings.Contains(got, "token is ***") {
		t.Errorf("got %s", got)
	}
}

// TestLaunch_noise: a greeting before the handshake, carriage returns, and a
// certificate that nobody asked for (upstream's host panics on it).
func TestLaunch_noise(t *testing.T) {
	path := built(t, "grpc")
	for name, text := range map[string]string{
		"lines before": `echo hello; echo 'a|b|c|d'; exec ` + path,
		"a rewriter": `mkfifo "$TMPDIR/f"; ` + path + ` > "$TMPDIR/f" & read line < "$TMPDIR/f"
			printf '%s%s\r\n' "$line" ` + strings.Repeat("MIIB", 20) + `; wait`,
	} {
		t.Run(name, func(t *testing.T) {
			i, _ := started(t, goplugin.Spec{Command: []string{script(t, text)}, Handshake: cookie()})
			echo(t, i, "text")
		})
	}
}

func TestLaunch_wantsCertificate(t *testing.T) {
	spec := goplugin.Spec{Command: []string{script(t, `unset PLUGIN_CLIENT_CERT; exec `+built(t, "grpc"))}, Handshake: cookie(), TLS: "auto"}
	if _, _, err := launch(t, spec, 20*time.Second); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(fmt.Sprint(err), "set spec.goplugin.tls to off") {
		t.Errorf("got %v", err)
	}
}

func TestCheck_faults(t *testing.T) {
	good := built(t, "netrpc")
	for _, tt := range []struct {
		name   string
		change func(*goplugin.Spec)
		want   string
	}{
		{"no such file", func(s *goplugin.Spec) { s.Command[0] = "/nonexistent" }, "spec.goplugin.command[0]: /nonexistent does not exist"},
		{"relative", func(s *goplugin.Spec) { s.Command[0] = "bin/x" }, "metadata.source is missing"},
		{"cookie", func(s *goplugin.Spec) { s.Handshake.Key = "A=B" }, "spec.goplugin.handshake.key"},
		{"inherited name", func(s *goplugin.Spec) { s.Inherit = []string{"A", "B=C"} }, "spec.goplugin.inherit[1]"},
		{"inherited setting", func(s *goplugin.Spec) { s.Inherit = []string{"PATCHBAY_TOKEN"} }, "is not passed on"},
		{"version", func(s *goplugin.Spec) { s.Handshake.Versions = []int{-1} }, "spec.goplugin.handshake.versions: -1"},
		{"type", func(s *goplugin.Spec) { s.Describe.Types["Text"].Fields["Text"] = "strin" }, `spec.goplugin.describe.types.Text.fields.Text: "strin" is not a type`},
		{"method type", func(s *goplugin.Spec) { s.Describe.Methods["Echo"] = goplugin.Method{Args: "Nope", Reply: "Text"} }, `spec.goplugin.describe.methods.Echo.args: "Nope" is not a type`},
		{"no name", func(s *goplugin.Spec) { s.Plugin = "" }, "spec.goplugin.plugin: is missing"},
		{"no methods", func(s *goplugin.Spec) { s.Describe.Methods = nil }, "spec.goplugin.describe.methods: is missing"},
		{"described grpc", func(s *goplugin.Spec) { s.Transport = "grpc" }, "spec.goplugin.transport: grpc tells its own services"},
		{"described grpc in part", func(s *goplugin.Spec) {
			s.Transport, s.Plugin, s.Describe = "grpc", "", goplugin.Describe{Integers: "text"}
		}, "spec.goplugin.transport: grpc tells its own services"},
		{"described for no name", func(s *goplugin.Spec) {
			s.Transport, s.Plugin, s.Describe = "", "", goplugin.Describe{From: "dwarf"}
		}, "spec.goplugin.plugin: is missing"},
		{"metadata", func(s *goplugin.Spec) { s.Metadata = map[string]map[string]string{"*": {"a": "b"}} }, "spec.goplugin.metadata: net/rpc carries none"},
	} {
		spec := netrpcSpec(good)
		tt.change(&spec)
		err := goplugin.New(goplugin.Options{}).Check(manifest(t, spec))
		var faults plugin.Faults
		if !errors.As(err, &faults) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}

// TestLaunch_triesEachCookie: the plugin takes the second of two, each refusal is
// one process that has ended, and what an error quotes is of the last one alone.
func TestLaunch_triesEachCookie(t *testing.T) {
	refuse := `case $REVA in reva) ;; *) echo "This binary is a plugin: not with $REVA" >&2; exit 1;; esac
		PATCHBAY_TINY=3f2c; export PATCHBAY_TINY; exec ` + built(t, "grpc")
	spec := goplugin.Spec{Command: []string{script(t, refuse)}, Handshake: goplugin.Handshake{Key: "REVA", Values: []string{"hello", "reva"}}}
	i, _ := started(t, spec)
	echo(t, i, "text")

	spec.Handshake.Values = []string{"hello", "salut"}
	_, _, err := launch(t, spec, 20*time.Second)
	if got := fmt.Sprint(err); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(got, "not with salut") || strings.Contains(got, "not with hello") {
		t.Errorf("got %v", err)
	}
}

// TestLaunch_environment: a plugin sees the protocol's variables and what the
// manifest gives it, and nothing else of the daemon's environment.
func TestLaunch_environment(t *testing.T) {
	t.Setenv("DAEMON_TOKEN", "hunter2")
	t.Setenv("HTTPS_PROXY", "http://proxy:3128")
	t.Setenv("GIVEN", "no")
	m := manifest(t, goplugin.Spec{
		Command:   []string{script(t, `env >&2; exit 3`)},
		Handshake: goplugin.Handshake{Key: "COOKIE", Value: "biscuit", Versions: []int{4, 5}}, TLS: "auto",
		Inherit: []string{"HTTPS_PROXY", "GIVEN", "NOT_SET"},
	})
	m.Spec.Env = map[string]plugin.EnvValue{"GIVEN": {Value: "yes"}, "PLUGIN_UNIX_SOCKET_DIR": {Value: "/elsewhere"}}
	l := conformance.NewLaunch(t, m)
	l.Env["GIVEN"], l.Env["PLUGIN_UNIX_SOCKET_DIR"] = "yes", "/elsewhere"
	if _, err := goplugin.New(goplugin.Options{}).Launch(t.Context(), l); !errors.Is(err, plugin.ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
	got := map[string]string{}
	for line := range strings.Lines(l.Output.(*conformance.Output).Text(plugin.Stderr)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			got[name] = value
		}
	}
	for name, want := range map[string]string{
		"COOKIE": "biscuit", "PLUGIN_PROTOCOL_VERSIONS": "4,5", "PLUGIN_UNIX_SOCKET_DIR": l.Dir, "TMPDIR": l.Dir,
		"PLUGIN_CLIENT_CERT": "-----BEGIN CERTIFICATE-----", "GIVEN": "yes", "DAEMON_TOKEN": "", "HTTPS_PROXY": "http://proxy:3128",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	if _, ok := got["NOT_SET"]; ok {
		t.Error("a variable that the daemon lacks was made up")
	}
}

// TestLaunch_longFolder: a socket's path has 107 bytes, and go-plugin's own error
// does not say so.
func TestLaunch_longFolder(t *testing.T) {
	l := conformance.NewLaunch(t, manifest(t, netrpcSpec(built(t, "netrpc"))))
	l.Dir = filepath.Join(l.Dir, strings.Repeat("d", 100))
	if _, err := goplugin.New(goplugin.Options{}).Launch(t.Context(), l); !errors.Is(err, plugin.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), "too long for a socket") {
		t.Errorf("got %v", err)
	}
}
