package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/labstack/echo/v4"
	"golang.org/x/sys/unix"
)

// The parts that this command plays in processes of their own; argv[1] names them.
const (
	echoServer = "bench:echo-server" // the bare counterpart of an invocation by REST
	callServer = "bench:call-server" // TRANSPORT PLUGIN FOLDER: the same of one that calls a go-plugin
	logWriter  = "bench:log-writer"  // N LINE: writes that line N times, each with its own write(2)
	privateTmp = "bench:private-tmp" // DIR PROGRAM ARG...: executes it with DIR as /tmp
)

// child plays a part and does not return, if this process is to play one.
func child() {
	if len(os.Args) < 2 || !strings.HasPrefix(os.Args[1], "bench:") {
		return
	}
	var err error
	switch part, args := os.Args[1], os.Args[2:]; {
	case part == echoServer:
		err = serveEcho()
	case part == callServer && len(args) == 3:
		err = serveCalls(args[0], args[1], args[2])
	case part == logWriter && len(args) == 2:
		err = writeLines(args[0], args[1])
	case part == privateTmp && len(args) > 1:
		err = execWithTmp(args[0], args[1:])
	default:
		err = fmt.Errorf("no part %q", os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// part is a process of this program that plays one. It dies with its parent.
func part(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	// A program built with -race sleeps a second before it ends, unless told.
	cmd.Env, cmd.Stderr = []string{"GORACE=atexit_sleep_ms=0"}, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// benchToken is what the bare server asks for, as the daemon asks for its own.
const benchToken = "5cfa1f0b8c1de83bd2b3e3e1c7a3e0b35cfa1f0b8c1de83bd2b3e3e1c7a3e0b3"

// serveEcho is an echo v4 server with a handler that has the shape of an
// invocation: token, parameters of the path, bind, JSON. It prints its address.
func serveEcho() error {
	e := echo.New()
	e.POST("/v1/plugins/:name/operations/:operation", func(c echo.Context) error {
		if c.Request().Header.Get("Authorization") != "Bearer "+benchToken {
			return echo.ErrUnauthorized
		}
		var in struct {
			Name string `json:"name"`
			N    int    `json:"n"`
		}
		if err := c.Bind(&in); err != nil {
			return err
		}
		return c.JSON(http.StatusOK, in)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return http.Serve(l, e)
}

// startServer runs a server in a process of its own until ctx ends, and returns the
// line that it prints.
func startServer(ctx context.Context, args ...string) (said string, pid int, err error) {
	cmd := part(ctx, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", 0, err
	}
	if err := cmd.Start(); err != nil {
		return "", 0, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	go func() { _ = cmd.Wait() }() // ends with the process, by ctx
	return strings.TrimSpace(line), cmd.Process.Pid, err
}

// writeLines writes without a buffer, as most loggers do.
func writeLines(count, line string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	text := []byte(line + "\n")
	for range n {
		if _, err := syscall.Write(1, text); err != nil {
			return err
		}
	}
	return nil
}

// withPrivateTmp starts a program that sees dir as /tmp, as eKuiper's plugins need
// it to meet their host in a folder of its own.
func withPrivateTmp(ctx context.Context, dir, program string, args ...string) (*exec.Cmd, error) {
	cmd := part(ctx, append([]string{privateTmp, dir, program}, args...)...)
	cmd.Dir, cmd.Stderr = dir, nil // it complains when its host leaves
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS
	if id := os.Geteuid(); id != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: id, HostID: id, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN}
	}
	return cmd, cmd.Start()
}

// execWithTmp runs in the new mount namespace. What is executed is opened before
// /tmp is covered: it may lie there.
func execWithTmp(dir string, argv []string) error {
	program, err := os.Open(argv[0])
	if err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	if err := unix.Mount(dir, "/tmp", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("/tmp: %w", err)
	}
	err = unix.Exec(fmt.Sprintf("/proc/self/fd/%d", program.Fd()), argv, []string{})
	return errors.Join(fmt.Errorf("exec %s", argv[0]), err)
}
