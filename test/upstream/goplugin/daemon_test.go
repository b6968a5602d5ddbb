package goplugin_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/test/conformance"
)

// A house is a real daemon with a data folder of its own, as a user has it.
type house struct {
	t      *testing.T
	binary string
	data   string
	daemon *exec.Cmd
	log    *os.File
}

func newHouse(t *testing.T) *house {
	t.Helper()
	// Short, so that the plugins' sockets fit.
	data, err := os.MkdirTemp("", "pbup")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(data) })
	h := &house{t: t, binary: filepath.Join(data, "patchbay"), data: filepath.Join(data, "d")}
	build := exec.Command("go", "build", "-o", h.binary, "./cmd/patchbay")
	build.Dir = "../../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if h.log, err = os.Create(filepath.Join(data, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.log.Close() })
	h.serve()
	t.Cleanup(func() { h.end(syscall.SIGTERM) })
	return h
}

// serve starts the daemon and waits until it answers.
func (h *house) serve() {
	h.t.Helper()
	h.daemon = exec.Command(h.binary, "serve", "--listen", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0")
	h.daemon.Env, h.daemon.Stderr, h.daemon.Stdout = h.env(), h.log, h.log
	if err := h.daemon.Start(); err != nil {
		h.t.Fatal(err)
	}
	conformance.Eventually(h.t, 30*time.Second, func() error {
		_, err := h.try("get", "plugins")
		return err
	})
}

func (h *house) end(s syscall.Signal) {
	_ = h.daemon.Process.Signal(s)
	_ = h.daemon.Wait()
}

func (h *house) env() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + h.data, "PATCHBAY_DATA_DIR=" + h.data}
}

func (h *house) try(args ...string) (string, error) {
	cmd := exec.Command(h.binary, args...)
	var words bytes.Buffer
	cmd.Env, cmd.Stderr = h.env(), &words
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("patchbay %s: %w: %s", strings.Join(args, " "), err, words.Bytes())
	}
	return string(out), nil
}

// patchbay runs a command that must work, and returns what it prints.
func (h *house) patchbay(args ...string) string {
	h.t.Helper()
	out, err := h.try(args...)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// pids are the processes of the instances, by plugin.
func (h *house) pids() map[string]string {
	h.t.Helper()
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct{ Facts map[string]string }
		}
	}
	text := h.patchbay("get", "plugins", "-o", "json")
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		h.t.Fatalf("%v in %s", err, text)
	}
	pids := map[string]string{}
	for _, p := range list.Items {
		pids[p.Metadata.Name] = p.Status.Facts["pid"]
	}
	return pids
}

// comments runs what the comments of manifests tell their reader to run: each must work.
func (h *house) comments(dir string) {
	h.t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		h.t.Fatal(err)
	}
	ran := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			h.t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			command, ok := strings.CutPrefix(line, "#   patchbay ")
			if !ok {
				continue
			}
			cmd := exec.Command("sh", "-c", h.binary+" "+command)
			cmd.Env = h.env()
			if out, err := cmd.CombinedOutput(); err != nil {
				h.t.Errorf("%s: patchbay %s: %v: %s", file, strings.TrimSpace(command), err, out)
			}
			ran++
		}
	}
	if ran == 0 {
		h.t.Errorf("%s: no command is in any comment", dir)
	}
}

// TestManifests: what manifests/upstream/goplugin says is applied by a daemon and called from
// the command line; kill -9 of the daemon changes nothing for a plugin, whether or
// not its connection has TLS.
func TestManifests(t *testing.T) {
	h := newHouse(t)
	h.patchbay("apply", "-f", "../../../manifests/upstream/goplugin", "--wait")
	if text := h.patchbay("get", "operations", "terraform-time"); !strings.Contains(text, "PlanResourceChange") {
		t.Errorf("operations: got %s", text)
	}
	h.comments("../../../manifests/upstream/goplugin")
	h.calls()
	h.patchbay("invoke", "vault-kv", "HandleRequest", "--data", request("create", "app/db", map[string]string{"password": "s3cret"}))
	before := h.pids()
	if len(before) != 8 {
		t.Fatalf("processes: got %v", before)
	}
	h.end(syscall.SIGKILL)
	h.serve()
	h.patchbay("wait", "terraform-time", "vault-kv", "tflint-terraform", "grafana-source", "kv-grpc", "kv-netrpc", "vault-kv2", "bidirectional", "--for=running", "--timeout", "30s")
	for name, pid := range h.pids() {
		if name == "bidirectional" { // its Put needs the broker, which ends with the daemon as any of go-plugin's
			if pid == "" || pid == before[name] {
				t.Errorf("%s: process %q before the kill, %q after", name, before[name], pid)
			}
			continue
		}
		if pid == "" || pid != before[name] {
			t.Errorf("%s: process %q before the kill, %q after", name, before[name], pid)
		}
	}
	h.calls()
	h.reads("s3cret")
	pid := h.pids()["vault-kv"]
	if err := exec.Command("kill", "-9", pid).Run(); err != nil {
		t.Fatal(err)
	}
	conformance.Eventually(t, 20*time.Second, func() error {
		if now := h.pids()["vault-kv"]; now == "" || now == pid {
			return fmt.Errorf("vault-kv: process %q was killed, process %q is there", pid, now)
		}
		return nil
	})
	h.reads("s3cret")
	h.patchbay("delete", "-f", "../../../manifests/upstream/goplugin")
	for name, pid := range before {
		conformance.Eventually(t, 10*time.Second, func() error {
			if _, err := os.Stat("/proc/" + pid); !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("%s is deleted, and process %s is there: %v", name, pid, err)
			}
			return nil
		})
	}
}

// reads: Vault's engine has the secret.
func (h *house) reads(secret string) {
	h.t.Helper()
	h.patchbay("wait", "vault-kv", "--for=running", "--timeout", "30s")
	if got := h.patchbay("invoke", "vault-kv", "HandleRequest", "--data", request("read", "app/db", nil)); !strings.Contains(got, secret) {
		h.t.Errorf("read: got %.300s", got)
	}
}

func (h *house) calls() {
	h.t.Helper()
	for _, tt := range []struct{ plugin, operation, data, want string }{
		{"terraform-time", "GetProviderSchema", "{}", `"time_rotating"`},
		{"vault-kv", "Type", "{}", `"type":1`},
		{"bidirectional", "Put", `{"key": "n", "value": "5"}`, "{}"},
		{"tflint-terraform", "GetRuleNames", "{}", "terraform_deprecated_index"},
		{"grafana-source", "CheckHealth", `{"pluginContext": {}}`, "the source is there"},
		{"kv-grpc", "Put", `{"key": "a", "value": "aGVsbG8="}`, "{}"},
		{"kv-netrpc", "Put", `{"key": "a", "value": "aGVsbG8="}`, "null"},
		{"kv-netrpc", "Get", `"a"`, encoded("hello\n\nWritten from plugin-go-netrpc")},
	} {
		if got := h.patchbay("invoke", tt.plugin, tt.operation, "--data", tt.data); !strings.Contains(got, tt.want) {
			h.t.Errorf("%s %s: got %.300s, want %s", tt.plugin, tt.operation, got, tt.want)
		}
	}
}
