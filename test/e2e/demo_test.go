package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// demoMost bounds one run of test/demo.sh: its own waits add up to a minute.
const demoMost = 2 * time.Minute

// demo is one run of test/demo.sh, which is what make run and make demo do, on a
// machine without a Docker engine.
type demo struct {
	cmd  *exec.Cmd
	out  *transcript
	temp string // its TMPDIR
	data string // of stay
}

func startDemo(t *testing.T, mode string) *demo {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "pb") // short, so that sockets fit
	if err != nil {
		t.Fatal(err)
	}
	d := &demo{cmd: exec.Command(filepath.Join(root, "test", "demo.sh"), mode), out: &transcript{}, temp: filepath.Join(dir, "t"), data: filepath.Join(dir, "d")}
	if err := os.Mkdir(d.temp, 0o700); err != nil {
		t.Fatal(err)
	}
	d.cmd.Env = append(os.Environ(), "DEMO_BIN="+os.Getenv(binName), "DEMO_DATA_DIR="+d.data, "TMPDIR="+d.temp, "NO_COLOR=1",
		"DOCKER_HOST=unix://"+filepath.Join(dir, "none.sock"), "PATCHBAY_LISTEN=127.0.0.1:0", "PATCHBAY_NATS_LISTEN=127.0.0.1:0")
	d.cmd.Stdout, d.cmd.Stderr = d.out, d.out
	d.cmd.WaitDelay = stopMost                              // should something hold its output
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C goes to the group
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(demoMost, func() { _ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGTERM) })
	t.Cleanup(func() {
		late.Stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return d
}

// end waits for the script and checks how it ended and that nothing is left.
func (d *demo) end(t *testing.T, code int) string {
	t.Helper()
	err := d.cmd.Wait()
	exit := &exec.ExitError{}
	if err != nil && !errors.As(err, &exit) || d.cmd.ProcessState.ExitCode() != code {
		t.Errorf("demo.sh ended with %v, want exit code %d", err, code)
	}
	if err := left(filepath.Dir(d.temp) + "/"); err != nil {
		t.Error(err)
	}
	if files, err := os.ReadDir(d.temp); err != nil || len(files) > 0 {
		t.Errorf("left in TMPDIR: %v %v", files, err)
	}
	text := d.out.String()
	if t.Failed() {
		t.Logf("it said:\n%s", text)
	}
	return text
}

// answers are what the examples of the adapters that need no engine say.
var answers = map[string]string{
	`patchbay invoke greeter-grpc Echo --data '{"text": "hello"}'`:             `{"text":"hello"}`,
	`patchbay invoke greeter-netrpc Echo --data '{"Text": "hello"}'`:           `{"Text":"hello"}`,
	`patchbay invoke ticks echo --data '["hello"]'`:                            `"hello"`,
	`patchbay invoke provider-demo echo --data '{"hello": "world"}'`:           `{"hello":"world"}`,
	`patchbay invoke greeter greet --data '{"name": "Ada", "language": "fr"}'`: `{"greeting":"Bonjour, Ada!","language":"fr"}`,
	`patchbay invoke dice fair --data '[1, 6, 3, 3, 2, 5, 4]'`:                 `{"faces":{"1":1,"6":1,"3":2,"2":1,"5":1,"4":1},"fair":true}`,

	`patchbay invoke shapes-netrpc Area --data '{"Shapes": [{"@type": "main.Circle", "value": {"Radius": 2}}]}'`: `{"Area":12,"Largest":{"@type":"main.Circle","value":{"Radius":2}}}`,
}

func checkDemo(t *testing.T, text string) {
	t.Helper()
	const waits = "No Docker engine answers"
	if n := strings.Count(text, waits); n != 1 {
		t.Errorf("got %d lines %q, want one: the container examples wait", n, waits)
	}
	for _, name := range []string{"adder", "parrot"} {
		if !strings.Contains(text, "\n  "+name+" is backoff: AdapterUnavailable: ") {
			t.Errorf("%s, in a container, is not said to wait for an engine", name)
		}
		if strings.Contains(text, name+" starting -> running") {
			t.Errorf("%s, in a container, is said to run without an engine", name)
		}
	}
	for invoke, answer := range answers {
		if !strings.Contains(text, "$ "+invoke+"\n"+answer+"\n") {
			t.Errorf("%s: want %s", invoke, answer)
		}
	}
	if t.Failed() {
		t.Logf("it said:\n%s", text)
	}
}

func TestDemo_exitWithoutAnEngine(t *testing.T) {
	checkDemo(t, startDemo(t, "exit").end(t, 0))
}

func TestDemo_staysUntilInterrupted(t *testing.T) {
	d := startDemo(t, "stay")
	err := poll(demoMost, func() error {
		if !strings.Contains(d.out.String(), "The daemon's own log: ") {
			return fmt.Errorf("it does not serve yet; it said:\n%s", d.out)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(-d.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Error(err)
	}
	text := d.end(t, 130) // as a shell says it of SIGINT
	checkDemo(t, text)
	if strings.Contains(text, "ended with exit code") {
		t.Errorf("the daemon did not end cleanly:\n%s", text)
	}
}
