package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"go.nanomsg.org/mangos/v3"
	"go.nanomsg.org/mangos/v3/protocol/rep"
	_ "go.nanomsg.org/mangos/v3/transport/ipc"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const portableManifest = `
apiVersion: patchbay/v1
kind: Plugin
metadata: {name: portable}
spec:
  portable:
    language: go
    executable: %s
    name: tiny
    functions: [echo]
  restart: {backoff: {min: 1ms, max: 10ms}, budget: {failures: -1}}
`

// mangosHost is a host as eKuiper is one: mangos, a socket to control the plugin
// and one for each function.
type mangosHost struct {
	control, function mangos.Socket
	cmd               *exec.Cmd
	dir               string
}

// bareWait bounds each answer of a plugin that is called without Patchbay.
const bareWait = 10 * time.Second

// startMangosHost starts the tiny plugin and its function echo.
func (h *harness) startMangosHost(ctx context.Context) (m *mangosHost, err error) {
	m = &mangosHost{}
	defer func() {
		if err != nil {
			m.end()
		}
	}()
	if m.dir, err = os.MkdirTemp(h.dir, "mangos"); err != nil {
		return m, err
	}
	if m.control, err = listenMangos(filepath.Join(m.dir, "plugin_tiny.ipc")); err != nil {
		return m, err
	}
	if m.function, err = listenMangos(filepath.Join(m.dir, "func_echo.ipc")); err != nil {
		return m, err
	}
	if m.cmd, err = withPrivateTmp(ctx, m.dir, h.plugin("portable"), `{"sendTimeout":1000}`); err != nil {
		return m, err
	}
	if _, err = m.control.Recv(); err != nil { // its handshake
		return m, err
	}
	start, _ := json.Marshal(`{"symbolName":"echo","meta":{},"pluginType":"func"}`) // a text
	answer, err := converse(m.control, `{"cmd":"start","arg":`+string(start)+`}`)
	if err == nil && string(answer) != "ok" {
		err = fmt.Errorf("start of echo: %s", answer)
	}
	if err == nil {
		_, err = m.function.Recv() // its handshake
	}
	return m, err
}

func listenMangos(path string) (mangos.Socket, error) {
	s, err := rep.NewSocket()
	if err != nil {
		return nil, err
	}
	return s, errors.Join(s.SetOption(mangos.OptionRecvDeadline, bareWait), s.Listen("ipc://"+path))
}

func converse(s mangos.Socket, command string) ([]byte, error) {
	if err := s.Send([]byte(command)); err != nil {
		return nil, err
	}
	return s.Recv()
}

func (m *mangosHost) end() {
	for _, s := range []mangos.Socket{m.control, m.function} {
		if s != nil {
			_ = s.Close()
		}
	}
	if m.cmd != nil && m.cmd.Process != nil {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
	}
	_ = os.RemoveAll(m.dir)
}

// call is what a host does for one call of the function.
func (m *mangosHost) call(request string) error {
	answer, err := converse(m.function, request)
	if err != nil {
		return err
	}
	var a struct {
		State  bool
		Result json.RawMessage
	}
	if err := json.Unmarshal(answer, &a); err != nil || !a.State {
		return fmt.Errorf("echo answered %s: %w", answer, err)
	}
	return nil
}

func portableFunction(ctx context.Context, h *harness) ([]row, error) {
	m, err := h.startMangosHost(ctx)
	if err != nil {
		return nil, err
	}
	defer m.end()
	argument := `"` + payload() + `"`
	request := `{"func":"Exec","arg":[` + argument + `,"{\"ruleId\":\"r\",\"opId\":\"o\",\"instanceId\":0,\"funcId\":1}"]}`
	turn := make(chan struct{}, 1) // the protocol has one call under way; first come, first served
	bare := calls(callers, []int{self, m.cmd.Process.Pid}, func(context.Context, int) error {
		turn <- struct{}{}
		defer func() { <-turn }()
		return m.call(request)
	})
	in := plugin.Invocation{Operation: "echo", Data: []byte("[" + argument + "]")}
	return h.throughDispatch(ctx, "portable", fmt.Sprintf(portableManifest, h.plugin("portable")), in, bare)
}
