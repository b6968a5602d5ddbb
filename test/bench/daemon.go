package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

// stopMost bounds a graceful end of the daemon.
const stopMost = 30 * time.Second

// daemon is one `patchbay serve` on a folder of its own.
type daemon struct {
	*client.Client
	dir    string
	addr   string
	token  string
	cmd    *exec.Cmd
	said   *transcript
	gone   chan struct{}
	answer time.Duration // from the start to the first answer of the REST API
}

// transcript keeps what a daemon prints, to be shown when it fails.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// transcriptMax is ample for a start and its troubles.
const transcriptMax = 64 << 10

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.text.Len() < transcriptMax {
		t.text.Write(p)
	}
	return len(p), nil
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

// serve starts a daemon and waits for its first answer: a page of plugins, with
// the token that it made.
func (h *harness) serve(ctx context.Context, name string, args ...string) (*daemon, error) {
	d := &daemon{dir: h.temp(name), said: &transcript{}, gone: make(chan struct{})}
	_ = os.Remove(filepath.Join(d.dir, wire.APIAddrFile)) // of an earlier daemon that was killed
	args = append([]string{"serve", "--data-dir", d.dir, "--listen", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--log-level", "warn"}, args...)
	d.cmd = exec.Command(h.patchbay(), args...)
	d.cmd.Env = []string{"HOME=" + h.dir, "PATH=" + os.Getenv("PATH"), "DOCKER_HOST=" + os.Getenv("DOCKER_HOST")}
	d.cmd.Stdout, d.cmd.Stderr = d.said, d.said
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	began := time.Now()
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { // ends with the daemon
		_ = d.cmd.Wait()
		close(d.gone)
	}()
	if err := poll(ctx, startMost, time.Millisecond, "the daemon answers", func() bool { return d.answers(ctx) || d.isGone() }); err != nil || d.isGone() {
		d.stop()
		return nil, errors.Join(err, fmt.Errorf("patchbay serve did not start: %s", d.said))
	}
	d.answer = time.Since(began)
	return d, nil
}

// answers asks for a page, once the daemon has said where it is.
func (d *daemon) answers(ctx context.Context) bool {
	addr, err := os.ReadFile(filepath.Join(d.dir, wire.APIAddrFile))
	if err != nil || len(addr) == 0 {
		return false
	}
	token, err := os.ReadFile(filepath.Join(d.dir, wire.APITokenFile))
	if err != nil {
		return false
	}
	url := strings.TrimSpace(string(addr))
	d.addr, d.token = strings.TrimPrefix(url, "http://"), strings.TrimSpace(string(token))
	if d.Client, err = client.New(client.Options{URL: url, Token: d.token, HTTP: &http.Client{Transport: &http.Transport{}}}); err != nil {
		return false
	}
	_, err = d.Plugins(ctx, client.ListOptions{Limit: 1})
	return err == nil
}

func (d *daemon) isGone() bool {
	select {
	case <-d.gone:
		return true
	default:
		return false
	}
}

func (d *daemon) pid() int { return d.cmd.Process.Pid }

// stop ends the daemon as an operator would, and kills it when that takes too long.
func (d *daemon) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(stopMost, func() { _ = d.cmd.Process.Kill() })
	defer late.Stop()
	<-d.gone
}

// apply applies one manifest and waits until it runs.
func (d *daemon) apply(ctx context.Context, text string) error {
	result, err := d.Apply(ctx, []wire.File{{Name: "bench", Content: text}}, client.ForReal)
	if err != nil {
		return err
	}
	for _, one := range result.Items {
		if _, err := d.running(ctx, one.Name); err != nil {
			return err
		}
	}
	return nil
}

// running waits until a plugin runs.
func (d *daemon) running(ctx context.Context, name string) (status plugin.Status, err error) {
	err = poll(ctx, startMost, 5*time.Millisecond, "plugin "+name+" runs", func() bool {
		r, failed := d.Plugin(ctx, name)
		status = r.Status
		return failed == nil && status.State == plugin.Running
	})
	if err != nil {
		err = fmt.Errorf("%w: it is %s %s", err, status.State, status.Message)
	}
	return status, err
}
