package provider

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// reservedEndpoint is where the Digital Rebar API will be served to
	// providers. Nothing listens there yet.
	reservedEndpoint = "https://127.0.0.1:8092"
	// reservedFiles is the same for its static files.
	reservedFiles = "http://127.0.0.1:8091"
	// socketPathMax is what fits in a unix socket's address with its final zero.
	socketPathMax = 107

	hostSocket     = "host.sock"     // ours, which the provider posts to
	providerSocket = "provider.sock" // the provider's

	readyLine  = "READY!"
	failedLine = "Failed"
)

// A birth is one launch under way.
type birth struct {
	l     plugin.Launch
	s     settings
	token string // RS_TOKEN, of this instance alone
	hide  redactor
	def   *definition
	ops   *operations
}

// Launch returns once the provider has taken its configuration.
func (a *Adapter) Launch(ctx context.Context, l plugin.Launch) (plugin.Instance, error) {
	s, err := decode(l)
	if err != nil {
		return nil, err
	}
	b := &birth{l: l, s: s, token: rand.Text()}
	b.hide = newRedactor(l, s, &definition{}, b.token)
	if err := b.prepare(ctx); err != nil {
		return nil, err
	}
	i, err := b.listen(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.configure(ctx, i); err != nil {
		i.process.Kill()
		i.Wait()
		return nil, err
	}
	if b.def.HasPublish {
		b.note("warn", "the provider asks for all events (HasPublish); patchbay does not push them to providers yet")
	}
	return i, nil
}

// prepare runs what comes before the process that stays.
func (b *birth) prepare(ctx context.Context) (err error) {
	for _, socket := range []string{hostSocket, providerSocket} {
		if path := b.in(socket); len(path) > socketPathMax {
			return fmt.Errorf("socket: %w: %s has %d bytes, more than %d", plugin.ErrInvalid, path, len(path), socketPathMax)
		}
	}
	for _, dir := range []string{b.scratch(), b.webroot()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("launch: %w: %w", plugin.ErrUnavailable, err)
		}
	}
	if b.def, err = b.define(ctx); err != nil {
		return err
	}
	b.hide = newRedactor(b.l, b.s, b.def, b.token)
	if b.ops, err = newOperations(b.def, b.s.name); err != nil {
		return err
	}
	return b.unpack(ctx)
}

func (b *birth) in(name string) string { return filepath.Join(b.l.Dir, name) }

// scratch is the provider's working folder; our sockets lie elsewhere, because
// some providers clean theirs.
func (b *birth) scratch() string { return b.in("scratch") }
func (b *birth) webroot() string { return b.in("files") }

// spec is how the provider is run in all three of its modes.
func (b *birth) spec(env map[string]string, stdout, stderr *os.File, args ...string) proc.Spec {
	own := b.l
	own.Env = map[string]string{
		"RS_ENDPOINT": reservedEndpoint, "RS_TOKEN": b.token, "RS_FILESERVER": reservedFiles, "RS_WEBROOT": b.webroot(),
	}
	if _, ok := b.l.Env["RS_ENDPOINT"]; !ok {
		own.Env["RS_LOCAL_PROXY"] = b.in(hostSocket)
	}
	for _, more := range []map[string]string{b.l.Env, env} {
		for name, value := range more {
			own.Env[name] = value
		}
	}
	return proc.Spec{
		Path: b.s.path, Args: append(append([]string{}, b.s.Command[1:]...), args...),
		Env: proc.Environ(own), Dir: b.scratch(), Stdout: stdout, Stderr: stderr, Digest: b.l.Manifest.Spec.Digest,
		Limits: b.l.Manifest.Spec.Limits,
	}
}

// listen starts the process that stays, once our socket is there, and waits for
// its ready line.
func (b *birth) listen(ctx context.Context) (*instance, error) {
	if err := ctx.Err(); err != nil {
		return nil, late(ctx, "listen", err)
	}
	socket, err := bind(b.in(hostSocket))
	if err != nil {
		return nil, err
	}
	defer func() { _ = socket.Close() }()
	h, err := b.serve(socket)
	if err != nil {
		return nil, err
	}
	process, stdout, err := b.start(socket)
	if err != nil {
		h.close()
		return nil, err
	}
	i := b.instance(process, h)
	if err := b.ready(ctx, process, stdout); err != nil {
		process.Kill()
		i.Wait()
		return nil, err
	}
	return i, nil
}

// serve answers our socket.
func (b *birth) serve(socket *os.File) (*host, error) {
	h := &host{
		socket: b.in(hostSocket), out: b.l.Output.Writer(plugin.PluginLog), hide: b.hide,
		emit: b.l.Host.Emit, stored: b.def.StoreObjects,
	}
	return h, h.serve(socket)
}

// start gives a detached process our socket to keep: as long as somebody has it,
// posts wait in it, and none fails while there is no daemon.
func (b *birth) start(socket *os.File) (p *proc.Process, stdout string, err error) {
	out, err := b.l.Output.File(plugin.Stdout)
	if err != nil {
		return nil, "", fmt.Errorf("listen: %w: %w", plugin.ErrUnavailable, err)
	}
	defer func() { _ = out.Close() }()
	noise, err := b.l.Output.File(plugin.Stderr)
	if err != nil {
		return nil, "", fmt.Errorf("listen: %w: %w", plugin.ErrUnavailable, err)
	}
	defer func() { _ = noise.Close() }()
	spec := b.spec(nil, out, noise, "listen", b.in(providerSocket), b.in(hostSocket))
	if spec.Detached = b.l.Manifest.Spec.Detached(); spec.Detached {
		spec.ExtraFiles = []*os.File{socket}
	}
	p, err = proc.Start(spec)
	if err != nil {
		return nil, "", fmt.Errorf("listen: %w", err)
	}
	return p, out.Name(), nil
}

// ready waits for the line that says that the provider's socket is there.
func (b *birth) ready(ctx context.Context, p *proc.Process, stdout string) error {
	var word string
	err := proc.Follow(ctx, proc.Tail{Path: stdout}, p.Done(), func(line []byte) bool {
		switch text := string(bytes.TrimSpace(line)); text {
		case readyLine, failedLine:
			word = text
			return false
		}
		return true
	})
	switch {
	case word == readyLine:
		return nil
	case word == failedLine:
		return fmt.Errorf("listen: %w: the provider printed %s", plugin.ErrInvalid, failedLine)
	case err != nil:
		return late(ctx, "listen: no "+readyLine, err)
	}
	return fmt.Errorf("listen: %w: it ended before %s: %s", plugin.ErrUnavailable, readyLine, p.Wait())
}

// configure posts the expanded parameters. After an error the process must go:
// what it kept of them is anybody's guess.
func (b *birth) configure(ctx context.Context, i *instance) error {
	body, err := b.def.config(b.s.name, b.s.params)
	if err != nil {
		return err
	}
	got, err := i.link.post(ctx, i.link.config, body)
	switch {
	case err != nil && ctx.Err() == nil && i.ending():
		return fmt.Errorf("config: %w: the provider ended: %s", plugin.ErrUnavailable, i.Wait())
	case err != nil:
		return late(ctx, "config", errors.New(b.hide.text(err.Error())))
	case got.status == http.StatusOK:
		return nil
	}
	return configError(got, b.hide)
}

// configError tells what will fail again (the provider blames what it was given)
// from what may pass.
func configError(got answer, hide redactor) error {
	f, ok := parseFault(got.body)
	if !ok {
		return fmt.Errorf("config: %w: status %d, and no error body", plugin.ErrUnavailable, got.status)
	}
	f = f.unwrapped()
	class := plugin.ErrUnavailable
	if got.status >= 400 && got.status < 500 {
		class = plugin.ErrInvalid
	}
	return fmt.Errorf("config: %w: the provider answered %d: %s", class, got.status, hide.text(f.text()))
}

// note writes a line of ours beside the provider's.
func (b *birth) note(level, text string) {
	_, _ = b.l.Output.Writer(plugin.PluginLog).Write(keptLine{Level: level, Message: text, Service: "patchbay"}.encode())
}
