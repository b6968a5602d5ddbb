package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// patience is how long a story waits for what it says will be: long, because the
// machine may be busy; nothing waits for it when all is well.
const patience = 30 * time.Second

// commands are what stories can say beyond testscript's own words.
func commands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"serve":      cmdServe,
		"use":        cmdUse,
		"down":       cmdDown,
		"kill9":      cmdKill9,
		"notices":    cmdNotices,
		"waitfor":    cmdWaitfor,
		"pidof":      cmdPidof,
		"digest":     cmdDigest,
		"gone":       cmdGone,
		"code":       cmdCode,
		"mode":       cmdMode,
		"generate":   cmdGenerate,
		"rest":       cmdRest,
		"subscribe":  cmdSubscribe,
		"request":    cmdRequest,
		"talk":       cmdTalk,
		"idle":       cmdIdle,
		"expand":     cmdExpand,
		"ready":      cmdReady,
		"containers": cmdContainers,
		"natsserver": cmdNATSServer,
		"follow":     cmdFollow,
		"complete":   cmdComplete,
	}
}

// cmdServe: serve NAME [ARGS...] starts a daemon on $DATA/NAME, waits until it is
// ready and makes it the one that the CLI talks to. With ! it must not start.
func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	env := append(childEnv(ts), "PWD="+ts.MkAbs("."))
	d, err := s.serve(args[0], args[1:], env)
	switch {
	case err == nil && neg:
		ts.Fatalf("serve %s: started, want that it does not", args[0])
	case err != nil && neg:
		fmt.Fprintln(ts.Stderr(), d.out)
	case err != nil:
		ts.Fatalf("serve %s: %v", args[0], err)
	}
	cmdUse(ts, false, args[:1])
}

func childEnv(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "DOCKER_HOST", "NO_COLOR"} {
		if v := ts.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// cmdUse: use NAME makes the CLI talk to that daemon.
func cmdUse(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv("PATCHBAY_DATA_DIR", filepath.Join(of(ts).data, args[0]))
}

// cmdDown: down NAME stops a daemon as an operator does.
func cmdDown(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(of(ts).daemons[args[0]].stop())
}

// cmdKill9: kill9 daemon NAME | kill9 PID.
func cmdKill9(ts *testscript.TestScript, _ bool, args []string) {
	if args[0] == "daemon" {
		of(ts).daemons[args[1]].kill()
		return
	}
	pid, err := strconv.Atoi(args[0])
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGKILL))
}

// cmdNotices: notices PLUGIN DURATION kills the plugin's process with SIGKILL and
// measures until its state event is on the bus; the best of three counts, because
// the machine does other things too.
func cmdNotices(ts *testscript.TestScript, _ bool, args []string) {
	most, err := time.ParseDuration(args[1])
	ts.Check(err)
	best := patience
	for range 3 {
		best = min(best, killAndWatch(ts, args[0]))
		if best <= most {
			break
		}
	}
	fmt.Fprintf(ts.Stdout(), "noticed after %v\n", best)
	if best > most {
		ts.Fatalf("kill of %s: its event came after %v at best, want at most %v", args[0], best, most)
	}
}

func killAndWatch(ts *testscript.TestScript, name string) time.Duration {
	pid := pidOf(ts, name)
	conn := connect(ts)
	defer conn.Close()
	sub, err := conn.SubscribeSync("patchbay.v1.event." + name + ".>")
	ts.Check(err)
	ts.Check(conn.Flush())
	begin := time.Now()
	ts.Check(syscall.Kill(pid, syscall.SIGKILL))
	for {
		msg, err := sub.NextMsg(patience)
		if err != nil {
			ts.Fatalf("kill of %s (pid %d): no event: %v", name, pid, err)
		}
		took := time.Since(begin)
		var change plugin.StateChange
		if json.Unmarshal(msg.Data, &change) == nil && change.From == plugin.Running && change.To != plugin.Running {
			if change.Status.LastExit == nil || change.Status.LastExit.Signal != "SIGKILL" {
				ts.Fatalf("kill of %s: got last exit %+v, want SIGKILL", name, change.Status.LastExit)
			}
			return took
		}
	}
}

// cmdWaitfor: waitfor REGEXP PROGRAM ARGS... runs the program until its output
// matches. With ! until it does not.
func cmdWaitfor(ts *testscript.TestScript, neg bool, args []string) {
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	err = poll(patience, func() error {
		out := run(ts, args[1:])
		if want.MatchString(out) == neg {
			return fmt.Errorf("%v: got %q, want a match of %q to be %v", args[1:], out, args[0], !neg)
		}
		return nil
	})
	ts.Check(err)
}

// run runs a program in the story's environment and returns all it printed.
func run(ts *testscript.TestScript, args []string) string {
	path := args[0]
	if path == "patchbay" {
		path = of(ts).bin
	}
	cmd := exec.Command(path, args[1:]...)
	cmd.Env = append(childEnv(ts), "PATCHBAY_DATA_DIR="+ts.Getenv("PATCHBAY_DATA_DIR"))
	cmd.Dir = ts.MkAbs(".")
	out, _ := cmd.CombinedOutput()
	return string(out)
}

// cmdPidof: pidof PLUGIN [VARIABLE] sets $PID, or the variable.
func cmdPidof(ts *testscript.TestScript, _ bool, args []string) {
	name := "PID"
	if len(args) > 1 {
		name = args[1]
	}
	ts.Setenv(name, strconv.Itoa(pidOf(ts, args[0])))
}

// cmdDigest: digest FILE NAME sets NAME to what spec.digest says of the file.
func cmdDigest(ts *testscript.TestScript, _ bool, args []string) {
	content, err := os.ReadFile(args[0])
	ts.Check(err)
	ts.Setenv(args[1], fmt.Sprintf("sha256:%x", sha256.Sum256(content)))
}

// pidOf waits until the plugin runs, and returns its process.
func pidOf(ts *testscript.TestScript, name string) (pid int) {
	ts.Check(poll(patience, func() error {
		out := run(ts, []string{"patchbay", "get", "plugin", name, "-o", "json"})
		var r plugin.Resource
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			return fmt.Errorf("get plugin %s: %w: %s", name, err, out)
		}
		if r.Status.State != plugin.Running {
			return fmt.Errorf("%s is %s: %s", name, r.Status.State, r.Status.Message)
		}
		var err error
		pid, err = strconv.Atoi(r.Status.Facts["pid"])
		return err
	}))
	return pid
}

// cmdGone: gone PID waits until the process is gone.
func cmdGone(ts *testscript.TestScript, _ bool, args []string) {
	pid, err := strconv.Atoi(args[0])
	ts.Check(err)
	ts.Check(poll(patience, func() error {
		if syscall.Kill(pid, 0) == nil {
			return fmt.Errorf("process %d is there", pid)
		}
		return nil
	}))
}

// cmdCode: code N PROGRAM ARGS... runs it and wants that exit code; its output is
// for stdout and stderr.
func cmdCode(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v: %v", args[1:], err)
	}
	if got != want {
		ts.Fatalf("%v: got exit code %d, want %d", args[1:], got, want)
	}
}

// cmdMode: mode PERMISSIONS FILE...
func cmdMode(ts *testscript.TestScript, _ bool, args []string) {
	for _, file := range args[1:] {
		info, err := os.Stat(ts.MkAbs(file))
		ts.Check(err)
		if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
			ts.Fatalf("%s: got mode %s, want %s", file, got, args[0])
		}
	}
}

// cmdGenerate: generate bomb|large|many|cycle FILE writes a hostile manifest.
func cmdGenerate(ts *testscript.TestScript, _ bool, args []string) {
	const head = "apiVersion: patchbay/v1\nkind: Plugin\nmetadata: {name: a}\nspec:\n  starlark: {module: a.star}\n"
	var b strings.Builder
	switch args[0] {
	case "bomb": // nine levels of nine: a thousand million leaves
		b.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x]\n")
		for n := 1; n < 10; n++ {
			fmt.Fprintf(&b, "a%d: &a%d [%s]\n", n, n, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", n-1), 9), ", "))
		}
		b.WriteString(head)
	case "large":
		b.WriteString(head + "# " + strings.Repeat("x", 2<<20) + "\n")
	case "many":
		for n := range 1001 {
			fmt.Fprintf(&b, "---\n%s", strings.Replace(head, "name: a", fmt.Sprintf("name: a%d", n), 1))
		}
	case "cycle":
		b.WriteString("apiVersion: patchbay/v1\nkind: Plugin\nmetadata: {name: a}\nspec: &s\n  starlark: {module: a.star}\n  env: *s\n")
	default:
		ts.Fatalf("generate: no such thing: %s", args[0])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(b.String()), 0o600))
}

// cmdRest: rest [-anonymous] METHOD PATH [-H HEADER]... [-d DATA] prints status
// line, headers and body.
func cmdRest(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.Getenv("PATCHBAY_DATA_DIR")
	token, err := os.ReadFile(filepath.Join(dir, wire.APITokenFile))
	ts.Check(err)
	if args[0] == "-anonymous" {
		token, args = nil, args[1:]
	}
	addr, err := os.ReadFile(filepath.Join(dir, wire.APIAddrFile))
	ts.Check(err)
	body, header := restArgs(ts, args[2:])
	req, err := http.NewRequest(args[0], "http://"+address(addr)+args[1], body)
	ts.Check(err)
	req.Header = header
	if token != nil {
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	resp, err := (&http.Client{Timeout: patience}).Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	fmt.Fprintln(ts.Stdout(), resp.Proto, resp.Status)
	ts.Check(resp.Header.Write(ts.Stdout()))
	fmt.Fprintln(ts.Stdout())
	_, err = io.Copy(ts.Stdout(), io.LimitReader(resp.Body, 1<<20))
	ts.Check(err)
}

func restArgs(ts *testscript.TestScript, args []string) (io.Reader, http.Header) {
	header, body := http.Header{}, io.Reader(nil)
	for ; len(args) > 1; args = args[2:] {
		switch args[0] {
		case "-H":
			key, value, _ := strings.Cut(args[1], ":")
			header.Set(key, strings.TrimSpace(value))
		case "-d":
			data := args[1]
			if file, ok := strings.CutPrefix(data, "@"); ok {
				data = ts.ReadFile(file)
			}
			body = strings.NewReader(data)
			if header.Get("Content-Type") == "" {
				header.Set("Content-Type", "application/json")
			}
		}
	}
	return body, header
}

// connect joins the daemon's embedded NATS server as any client would, by the
// address and token in the data folder.
func connect(ts *testscript.TestScript) *nats.Conn {
	dir := ts.Getenv("PATCHBAY_DATA_DIR")
	addr, err := os.ReadFile(filepath.Join(dir, wire.NATSAddrFile))
	ts.Check(err)
	token, err := os.ReadFile(filepath.Join(dir, wire.NATSTokenFile))
	if !errors.Is(err, os.ErrNotExist) { // an external server has none
		ts.Check(err)
	}
	conn, err := nats.Connect(strings.TrimSpace(string(addr)), nats.Token(strings.TrimSpace(string(token))))
	ts.Check(err)
	return conn
}

// cmdSubscribe: subscribe SUBJECT FILE writes what comes to the file, for the rest
// of the story: subject, headers and data of each message on one line.
func cmdSubscribe(ts *testscript.TestScript, _ bool, args []string) {
	file, err := os.OpenFile(ts.MkAbs(args[1]), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	conn := connect(ts)
	_, err = conn.Subscribe(args[0], func(m *nats.Msg) {
		var line bytes.Buffer
		line.WriteString(m.Subject)
		for key, values := range m.Header {
			fmt.Fprintf(&line, " %s=%s", key, strings.Join(values, ","))
		}
		fmt.Fprintf(&line, " %s\n", m.Data)
		_, _ = file.Write(line.Bytes())
	})
	ts.Check(err)
	ts.Check(conn.Flush())
	s := of(ts)
	s.subs = append(s.subs, func() { conn.Close(); file.Close() })
}

// cmdRequest: request SUBJECT DATA prints the headers and data of the first answer.
func cmdRequest(ts *testscript.TestScript, _ bool, args []string) {
	conn := connect(ts)
	defer conn.Close()
	msg, err := conn.Request(args[0], []byte(args[1]), patience)
	ts.Check(err)
	for key, values := range msg.Header {
		fmt.Fprintf(ts.Stdout(), "%s: %s\n", key, strings.Join(values, ","))
	}
	fmt.Fprintf(ts.Stdout(), "%s\n", msg.Data)
}

// cmdIdle: idle NAME wants that the daemon has no child process.
func cmdIdle(ts *testscript.TestScript, _ bool, args []string) {
	d := of(ts).daemons[args[0]]
	ts.Check(poll(patience, func() error {
		// Children belong to the thread that started them.
		lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", d.cmd.Process.Pid))
		if err != nil || len(lists) == 0 {
			return fmt.Errorf("daemon %s: no threads: %v", args[0], err)
		}
		for _, list := range lists {
			data, err := os.ReadFile(list)
			if kids := strings.TrimSpace(string(data)); err == nil && kids != "" {
				return fmt.Errorf("daemon %s has children: %s", args[0], kids)
			}
		}
		return nil
	}))
}

// cmdExpand: expand FILE... replaces $VARIABLE in files of the story.
func cmdExpand(ts *testscript.TestScript, _ bool, args []string) {
	for _, file := range args {
		text := os.Expand(ts.ReadFile(file), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(file), []byte(text), 0o600))
	}
}

// cmdContainers: containers N waits until the daemon in use has N containers on
// the engine, whatever their state.
func cmdContainers(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	node, err := os.ReadFile(filepath.Join(ts.Getenv("PATCHBAY_DATA_DIR"), "node"))
	ts.Check(err)
	ts.Check(poll(patience, func() error {
		found, err := containers(ts.Getenv("DOCKER_HOST"), strings.TrimSpace(string(node)))
		if err == nil && len(found) != want {
			err = fmt.Errorf("containers: got %d %v, want %d", len(found), found, want)
		}
		return err
	}))
}

// truthMost is how soon /readyz must tell a fault (design.md: 5 s), and a bit.
const truthMost = 6 * time.Second

// cmdReady: ready waits until /readyz says 200; ! ready until it does not, soon.
func cmdReady(ts *testscript.TestScript, neg bool, _ []string) {
	d := of(ts).daemons[filepath.Base(ts.Getenv("PATCHBAY_DATA_DIR"))]
	if !neg {
		ts.Check(poll(patience, d.ready))
		return
	}
	ts.Check(poll(truthMost, func() error {
		if d.ready() == nil {
			return errors.New("readyz: 200 OK")
		}
		return nil
	}))
}
