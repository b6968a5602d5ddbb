package e2e

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// askLeft runs test/left.sh against an engine that answers with that.
func askLeft(t *testing.T, status int, answer string) (string, error) {
	t.Helper()
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/containers/json" || !strings.Contains(r.URL.Query().Get("filters"), "dev.patchbay.node") {
			t.Errorf("the engine is asked for %s", r.URL)
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(answer))
	}))
	defer engine.Close()
	cmd := exec.Command("../left.sh")
	cmd.Env = append(os.Environ(), "DOCKER_HOST=tcp://"+engine.Listener.Addr().String())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestLeft_toldContainersAndSockets(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "pb")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "hidden.sock")
	socket, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	// The name is gone, as it is when only the folder was cleaned up.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	out, err := askLeft(t, http.StatusOK, `[{"Id":"0123456789abcdef","Names":["/x"]}]`)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"container 0123456789ab\n", "socket " + path + "\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("got %s\nwant %s", out, want)
		}
	}
}

func TestLeft_aQuestionWithoutAnAnswerFails(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		answer string
	}{
		{"an error of the engine", http.StatusInternalServerError, "[]"},
		{"something else than a list", http.StatusOK, `{"message": "no"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if out, err := askLeft(t, tt.status, tt.answer); err == nil {
				t.Errorf("it is taken for an answer:\n%s", out)
			}
		})
	}
	for _, host := range []string{"", "unix:///none/docker.sock"} {
		cmd := exec.Command("../left.sh")
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+host)
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("DOCKER_HOST=%q: it is taken for an answer:\n%s", host, out)
		}
	}
}

func TestLeft_noContainers(t *testing.T) {
	if out, err := askLeft(t, http.StatusOK, "[]\n"); err != nil || strings.Contains(out, "container ") {
		t.Errorf("got %v\n%s", err, out)
	}
}
