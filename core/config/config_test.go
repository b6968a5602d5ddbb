package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/patchbay-dev/patchbay/core/config"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

func parse(t *testing.T, env map[string]string, args ...string) *config.Config {
	t.Helper()
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	c := config.Flags(fs, "/var/lib/patchbay", func(key string) string { return env[key] })
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFlags_winOverTheEnvironmentWhichWinsOverDefaults(t *testing.T) {
	env := map[string]string{"PATCHBAY_LISTEN": "127.0.0.1:1", "PATCHBAY_NATS_LISTEN": "127.0.0.1:2"}
	c := parse(t, env, "--listen", "127.0.0.1:3")
	if c.Listen != "127.0.0.1:3" || c.NATSListen != "127.0.0.1:2" || c.DataDir != "/var/lib/patchbay" {
		t.Errorf("got %+v", c)
	}
	if err := c.Check(); err != nil || c.SecretsDir != "/var/lib/patchbay/secrets" {
		t.Errorf("got %v, secrets %q", err, c.SecretsDir)
	}
}

func TestFlags_ofEveryTypeHaveAVariable(t *testing.T) {
	c := parse(t, map[string]string{"PATCHBAY_METRICS": "false", "PATCHBAY_SHUTDOWN_TIMEOUT": "5s", "PATCHBAY_INVOCATION_EVENTS": "no way"})
	if c.Metrics || c.ShutdownTimeout != 5*time.Second {
		t.Errorf("got %+v", c)
	}
	if err := c.Check(); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "PATCHBAY_INVOCATION_EVENTS") {
		t.Errorf("got %v, want a fault that names the variable", err)
	}
}

func TestFlags_allowSource(t *testing.T) {
	env := map[string]string{"PATCHBAY_ALLOW_SOURCE": "github.com/a"}
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{nil, []string{"github.com/a"}},
		{[]string{"--allow-source", ""}, nil},
		{[]string{"--allow-source", "https://github.com/b/, example.org:8443/c/d"}, []string{"github.com/b", "example.org:8443/c/d"}},
	} {
		c := parse(t, env, tt.args...)
		if err := c.Check(); err != nil || !slices.Equal(c.AllowSource, tt.want) {
			t.Errorf("%v: got %q, %v; want %q", tt.args, c.AllowSource, err, tt.want)
		}
	}
}

func TestFlags_otlpEndpointHasTheStandardVariableToo(t *testing.T) {
	standard := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318"}
	ours := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318", "PATCHBAY_OTLP_ENDPOINT": "http://b:4318"}
	for _, tt := range []struct {
		env  map[string]string
		args []string
		want string
	}{
		{nil, nil, ""}, {standard, nil, "http://a:4318"}, {ours, nil, "http://b:4318"}, {ours, []string{"--otlp-endpoint", "http://c:4318"}, "http://c:4318"},
	} {
		c := parse(t, tt.env, tt.args...)
		if c.OTLPEndpoint != tt.want {
			t.Errorf("%v %v: got %q, want %q", tt.env, tt.args, c.OTLPEndpoint, tt.want)
		}
		if err := c.Check(); err != nil {
			t.Error(err)
		}
	}
}

func TestCheck_tellsEveryFault(t *testing.T) {
	c := parse(t, nil, "--listen", "off", "--nats-listen", "here", "--log-level", "loud", "--log-format", "xml",
		"--nats-credentials", "x", "--on-exit", "burn", "--shutdown-timeout", "0s", "--otlp-endpoint", "here:4318", "--data-dir", "", "--allow-source", "http://x")
	err := c.Check()
	if err == nil {
		t.Fatal("got no error")
	}
	for _, flag := range []string{"listen", "nats-listen", "log-level", "log-format", "nats-credentials", "on-exit", "shutdown-timeout", "otlp-endpoint", "data-dir", "allow-source"} {
		if !strings.Contains(err.Error(), "--"+flag+":") {
			t.Errorf("no fault of --%s in:\n%v", flag, err)
		}
	}
}

func TestLoopback(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:1": true, "127.9.9.9:1": true, "[::1]:1": true, "localhost:1": true,
		"0.0.0.0:1": false, ":1": false, "10.0.0.1:1": false, "[::]:1": false, "nonsense": false,
	} {
		if got := config.Loopback(address); got != want {
			t.Errorf("Loopback(%q): got %t, want %t", address, got, want)
		}
	}
}

func TestFolder_keepsItsIdentityAndIsLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	first, err := config.OpenFolder(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(first.RunDir) }) // it may be in /tmp: the path is long
	if _, err := config.OpenFolder(path); err == nil || !strings.Contains(err.Error(), "in use by another daemon") {
		t.Errorf("a second daemon on the folder: got %v", err)
	}
	if err := os.MkdirAll(filepath.Join(first.RunDir, "left", "over"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := config.OpenFolder(path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if second.Node != first.Node || second.Token != first.Token || len(second.Token) != 64 {
		t.Errorf("got node %s and a token of %d, want the first start's", second.Node, len(second.Token))
	}
	if left, _ := os.ReadDir(second.RunDir); len(left) != 1 {
		t.Errorf("in the run folder: got %v, want what the earlier daemon's instances have there", left)
	}
	for name, mode := range map[string]os.FileMode{"": 0o700, config.APITokenFile: 0o600, "node": 0o600, "lock": 0o600} {
		info, err := os.Stat(filepath.Join(path, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if info.Mode().Perm() != mode {
			t.Errorf("%s: got mode %v, want %v", name, info.Mode().Perm(), mode)
		}
	}
}

func TestFolder_runDirIsShort(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("long", 20))
	f, err := config.OpenFolder(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.RunDir)+len("/12345678") > 64 {
		t.Errorf("run folder %s: instances' folders would have more than 64 bytes", f.RunDir)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(f.RunDir); !os.IsNotExist(err) {
		t.Errorf("the run folder outlives the daemon: %v", err)
	}
}

func TestAdvertise_takesBackWhatAKilledDaemonLeft(t *testing.T) {
	f, err := config.OpenFolder(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Advertise("127.0.0.1:1", "nats://127.0.0.1:2", "token"); err != nil {
		t.Fatal(err)
	}
	if err := f.Advertise("127.0.0.1:1", "", ""); err != nil { // the next one, with --nats-listen off
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(f.Path, config.NATSAddressFile)); !os.IsNotExist(err) {
		t.Errorf("the address of a listener that is gone: %v", err)
	}
}
