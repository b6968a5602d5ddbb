package fault

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// markVariable is how adapters/internal/proc marks the processes of an instance:
// NODE/ADAPTER/INSTANCE/NONCE.
const markVariable = "PATCHBAY_INSTANCE="

// process is one that bears a node's mark.
type process struct {
	pid      int
	instance string
}

// plugin is whose instance it is: the instance's name without its last word.
func (p process) plugin() string { return p.instance[:max(strings.LastIndex(p.instance, "-"), 0)] }

// marked lists the processes that bear a node's mark.
func marked(node string) []process {
	var found []process
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if instance := instanceOf(pid, node); instance != "" {
			found = append(found, process{pid, instance})
		}
	}
	return found
}

// instanceOf is empty when the process bears no mark of the node, or is a zombie.
func instanceOf(pid int, node string) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return ""
	}
	for pair := range bytes.SplitSeq(text, []byte{0}) {
		if mark, ok := bytes.CutPrefix(pair, []byte(markVariable+node+"/")); ok {
			words := strings.Split(string(mark), "/")
			return words[min(1, len(words)-1)]
		}
	}
	return ""
}

// alive reports whether the process is there and no zombie.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(text, []byte(") "))
	return len(rest) > 0 && rest[0] != 'Z' && rest[0] != 'X'
}

// watchDoubles looks for two processes of one plugin at the same time, until the
// function that it returns is called, which tells what was seen. It is for plugins
// that have one process each.
func watchDoubles(node string) (seen func() []string) {
	stop, done := make(chan struct{}), make(chan struct{})
	var found []string
	go func() { // ends with stop
		defer close(done)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			found = append(found, doubles(node)...)
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	var once sync.Once
	return func() []string {
		once.Do(func() { close(stop) })
		<-done
		return found
	}
}

func doubles(node string) (found []string) {
	of := map[string][]process{}
	for _, p := range marked(node) {
		of[p.plugin()] = append(of[p.plugin()], p)
	}
	for name, all := range of {
		// One look at /proc takes a while: only what is still there counts.
		var still []process
		for _, p := range all {
			if instanceOf(p.pid, node) == p.instance {
				still = append(still, p)
			}
		}
		if len(still) > 1 {
			found = append(found, fmt.Sprintf("%s: %v", name, still))
		}
	}
	return found
}

// resident is how much memory a process holds, in bytes.
func resident(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("process %d has no VmRSS", pid)
	return 0
}

// diskUse is what a folder takes on disk, in bytes: holes take nothing.
func diskUse(dir string) (bytes int64) {
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st syscall.Stat_t
		if err == nil && syscall.Lstat(path, &st) == nil {
			bytes += st.Blocks * 512
		}
		return nil
	})
	return bytes
}

// A box is a container on the engine.
type box struct {
	ID     string
	State  string
	Labels map[string]string
}

// engine is a client of the Docker engine that DOCKER_HOST names.
func engine() (*http.Client, error) {
	host := cmp.Or(os.Getenv("DOCKER_HOST"), "unix:///var/run/docker.sock")
	network, addr, ok := strings.Cut(host, "://")
	if !ok {
		return nil, fmt.Errorf("DOCKER_HOST %q: want a URL", host)
	}
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, addr)
		},
	}}, nil
}

// boxes lists the containers of a node, running or not.
func boxes(node string) (all []box, err error) {
	c, err := engine()
	if err != nil {
		return nil, err
	}
	resp, err := c.Get("http://engine/containers/json?all=true&filters=" + url.QueryEscape(`{"label":["dev.patchbay.node=`+node+`"]}`))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return all, json.NewDecoder(resp.Body).Decode(&all)
}

// removeContainers removes what is left of a node, when there is an engine.
func removeContainers(t *testing.T, node string) {
	all, err := boxes(node)
	if err != nil {
		return
	}
	for _, b := range all {
		c, err := engine()
		if err != nil {
			return
		}
		r, err := http.NewRequest(http.MethodDelete, "http://engine/containers/"+b.ID+"?force=true&v=true", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(r)
		if err != nil {
			t.Errorf("container %s: %v", b.ID, err)
			continue
		}
		_ = resp.Body.Close()
	}
}
