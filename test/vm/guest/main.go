// Command guest is process 1 of a virtual machine that test/vm boots: it mounts what
// a Linux system has, runs the command that is its arguments, says how that ended
// on the console, which is its output, and powers off. What the command leaves
// behind is reaped meanwhile.
//
// VM_GROUP names the cgroup in which the command runs, delegated to it as systemd
// does with Delegate=; without it that is the root.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const groups = "/sys/fs/cgroup"

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guest: this is process 1 of a virtual machine, and nothing else")
		os.Exit(2)
	}
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Println("guest:", err)
	}
	fmt.Printf("\nguest: exit %d\n", code)
	_ = unix.IoctlSetInt(1, unix.TCSBRK, 1) // until the console has it
	err = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	fmt.Println("guest: power off:", err) // to end now is the kernel's panic, which ends qemu
}

func run(command []string) (code int, err error) {
	if len(command) == 0 {
		return 2, errors.New("no command is given")
	}
	if err := mounts(); err != nil {
		return 2, err
	}
	if out, err := exec.Command("/bin/busybox", "ifconfig", "lo", "127.0.0.1", "up").CombinedOutput(); err != nil {
		return 2, fmt.Errorf("loopback: %w: %s", err, out)
	}
	if err := group(os.Getenv("VM_GROUP")); err != nil {
		return 2, fmt.Errorf("cgroup: %w", err)
	}
	return reap(command)
}

func mounts() error {
	for _, m := range []struct{ kind, at string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"cgroup2", groups}, {"tmpfs", "/tmp"}, {"tmpfs", "/var/tmp"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	return nil
}

// group hands all controllers down to a group, and moves this process there: the
// command inherits that.
func group(name string) error {
	dir := groups
	for word := range strings.FieldsFuncSeq(name, func(r rune) bool { return r == '/' }) {
		available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		if err != nil {
			return err
		}
		for controller := range strings.FieldsSeq(string(available)) {
			if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0); err != nil {
				return err
			}
		}
		dir = filepath.Join(dir, word)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if dir == groups {
		return nil
	}
	if err := unix.Setxattr(dir, "trusted.delegate", []byte("1"), 0); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
}

// reap runs the command, and takes in whatever ends until it does.
func reap(command []string) (code int, err error) {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return 2, err
	}
	nothing, err := os.Open(os.DevNull)
	if err != nil {
		return 2, err
	}
	child, err := os.StartProcess(path, command, &os.ProcAttr{Env: os.Environ(), Files: []*os.File{nothing, os.Stdout, os.Stderr}})
	if err != nil {
		return 2, err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 2, fmt.Errorf("wait: %w", err)
		case pid == child.Pid && status.Signaled():
			return 128 + int(status.Signal()), fmt.Errorf("%s: %s", command[0], status.Signal())
		case pid == child.Pid:
			return status.ExitStatus(), nil
		}
	}
}
