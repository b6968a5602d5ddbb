package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// failedStory takes what the end of a story says.
type failedStory struct {
	testscript.T
	said string
}

func (f *failedStory) Log(args ...any)   {}
func (f *failedStory) Fatal(args ...any) { f.said += fmt.Sprint(args...) }

// A story that fails leaves plugins running that outlive their daemon: they are told,
// and killed by their mark, also those that bear nothing else of the story.
func TestEnd_killsWhatDaemonsLeft(t *testing.T) {
	data := t.TempDir()
	node := fmt.Sprintf("teardown%d", os.Getpid())
	if err := os.Mkdir(filepath.Join(data, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "d", "node"), []byte(node+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	plugin := exec.Command("/bin/sleep", "60")
	plugin.Dir, plugin.Env = "/", []string{"PATCHBAY_INSTANCE=" + node + "/provider/p-1/0"}
	other := exec.Command("/bin/sleep", "60")
	other.Dir, other.Env = "/", []string{"PATCHBAY_INSTANCE=" + node + "0/provider/p-1/0"}
	for _, cmd := range []*exec.Cmd{plugin, other} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	gone := make(chan struct{})
	close(gone)
	s := &story{data: data, daemons: map[string]*daemon{"d": {dir: filepath.Join(data, "d"), out: &transcript{}, gone: gone, err: errors.New("killed")}}}
	said := &failedStory{}
	s.end(said)
	if !strings.Contains(said.said, fmt.Sprintf("processes are left: [%d]", plugin.Process.Pid)) {
		t.Errorf("the story says %q, want that process %d is left", said.said, plugin.Process.Pid)
	}
	ended := make(chan error, 1)
	go func() { ended <- plugin.Wait() }() // ends with the kill
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("what the daemon left is still there")
		_ = plugin.Process.Kill()
	}
	if holds(fmt.Sprintf("/proc/%d", other.Process.Pid), s.traces()) {
		t.Error("another node's process is taken for the story's")
	}
	_ = other.Process.Kill()
	if err := other.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("another node's process: got %v", err)
	}
}
