package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const providerManifest = `
apiVersion: patchbay/v1
kind: Plugin
metadata: {name: provider}
spec:
  provider:
    command: [%s]
    params: {demo/step: 2}
  restart: {backoff: {min: 1ms, max: 10ms}, budget: {failures: -1}}
`

// bareProvider is a provider that is run as its protocol says, and no more:
// define, unpack, listen, READY!, config; what it logs is answered and dropped.
type bareProvider struct {
	dir    string
	host   *http.Server
	cmd    *exec.Cmd
	client *http.Client
}

func (h *harness) startBareProvider(ctx context.Context) (p *bareProvider, err error) {
	p = &bareProvider{}
	defer func() {
		if err != nil {
			p.end()
		}
	}()
	if p.dir, err = os.MkdirTemp(h.dir, "bare"); err != nil {
		return p, err
	}
	to, from := filepath.Join(p.dir, "to"), filepath.Join(p.dir, "from")
	socket, err := net.Listen("unix", from)
	if err != nil {
		return p, err
	}
	p.host = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	})}
	go func() { _ = p.host.Serve(socket) }() // ends with Close
	command := h.plugin("provider")
	for _, args := range [][]string{{"define"}, {"unpack", filepath.Join(p.dir, "files")}} {
		if err := exec.CommandContext(ctx, command, args...).Run(); err != nil {
			return p, fmt.Errorf("provider %s: %w", args[0], err)
		}
	}
	p.cmd = exec.CommandContext(ctx, command, "listen", to, from)
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return p, err
	}
	if err := p.cmd.Start(); err != nil {
		return p, err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "READY!\n" {
		return p, fmt.Errorf("provider said %q: %w", line, err)
	}
	p.client = &http.Client{Timeout: bareWait, Transport: &http.Transport{
		MaxIdleConnsPerHost: 2 * callers,
		DialContext:         func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", to) },
	}}
	return p, p.post("config", `{"Name":"bare","demo/step":2}`)
}

func (p *bareProvider) post(path, body string) error {
	return httpPost(p.client, "http://unix/api-plugin/v4/"+path, body)
}

// httpPost posts JSON and reads the whole answer, which must be a 200.
func httpPost(c *http.Client, url, body string) error {
	response, err := c.Post(url, "application/json", bytes.NewReader([]byte(body)))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, response.Status, data)
	}
	return err
}

func (p *bareProvider) end() {
	if p.client != nil {
		p.client.CloseIdleConnections()
	}
	if p.cmd != nil && p.cmd.Process != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
	if p.host != nil {
		_ = p.host.Close()
	}
	_ = os.RemoveAll(p.dir)
}

func providerAction(ctx context.Context, h *harness) ([]row, error) {
	p, err := h.startBareProvider(ctx)
	if err != nil {
		return nil, err
	}
	defer p.end()
	argument := `{"text":"` + payload() + `"}`
	body := `{"Plugin":"provider","Command":"echo","CommandSet":"system","Model":null,"Params":` + argument + `}`
	bare := calls(callers, []int{self, p.cmd.Process.Pid}, func(context.Context, int) error { return p.post("action", body) })
	in := plugin.Invocation{Operation: "echo", Data: []byte(argument)}
	return h.throughDispatch(ctx, "provider", fmt.Sprintf(providerManifest, h.plugin("provider")), in, bare)
}
