package container

import (
	"context"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// lastBytesMax is how much of the output is kept for the error of a launch
	// that ends early: a screenful of a stack trace.
	lastBytesMax = 2 << 10
	// endWait is how long the end of the stream may come before the exit that
	// explains it, before the stream is taken for cut off and attached to again:
	// the engine tears the network down in between.
	endWait = time.Second
)

// output takes what the container prints, off the engine's one stream.
type output struct {
	stdout, stderr io.Writer
	secrets        []string // values that must not show up in an error

	over chan struct{} // closed when the container has ended

	mu   sync.Mutex
	last []byte
}

func newOutput(l plugin.Launch) *output {
	o := &output{over: make(chan struct{})}
	o.stdout = tee{l.Output.Writer(plugin.Stdout), o}
	o.stderr = tee{l.Output.Writer(plugin.Stderr), o}
	for name, v := range l.Manifest.Spec.Env {
		if v.Secret != "" && l.Env[name] != "" {
			o.secrets = append(o.secrets, l.Env[name])
		}
	}
	return o
}

func (o *output) end() { close(o.over) }

// tee writes on, and keeps the last bytes.
type tee struct {
	io.Writer
	o *output
}

func (t tee) Write(p []byte) (int, error) {
	t.o.keep(p)
	return t.Writer.Write(p)
}

func (o *output) keep(p []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last = append(o.last, p[max(0, len(p)-lastBytesMax):]...)
	o.last = o.last[max(0, len(o.last)-lastBytesMax):]
}

// words are the last bytes printed, on one line, without secrets.
func (o *output) words() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	text := strings.ToValidUTF8(string(o.last), "")
	for _, secret := range o.secrets {
		text = strings.ReplaceAll(text, secret, "***")
	}
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", " | ")
}

// follow reads the stream to its end. When it ends before the container does, the
// engine has been away: it attaches again. What was printed in between is only in
// the engine's own log.
func (i *instance) follow(ctx context.Context, conn types.HijackedResponse) {
	for {
		i.read(ctx, conn)
		for {
			select {
			case <-i.output.over:
				return
			case <-ctx.Done():
				return
			case <-time.After(endWait):
			}
			var err error
			conn, err = attach(ctx, i.engine, i.id, container.AttachOptions{Stream: true, Stdout: true, Stderr: true})
			if err == nil {
				break
			}
		}
	}
}

// read demultiplexes one connection until it ends or ctx does, and closes it.
func (i *instance) read(ctx context.Context, conn types.HijackedResponse) {
	defer conn.Close()
	defer context.AfterFunc(ctx, conn.Close)() // unblocks the read
	_, _ = stdcopy.StdCopy(i.output.stdout, i.output.stderr, conn.Reader)
}

// feed gives a job its input and its end. A job that does not read it, or ends
// before, is no fault.
func feed(conn types.HijackedResponse, input []byte) {
	_, _ = conn.Conn.Write(input)
	_ = conn.CloseWrite()
}
