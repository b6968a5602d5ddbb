//go:build vm

package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	// memory is of one guest: its files, which are in memory, and a daemon.
	memory = "2G"
	// cmdline: a panic ends the guest at once, and the kernel says nothing but that.
	// patchbay.vm=1 tells a test that the clock is its own (test/fault).
	cmdline = "console=ttyS0 quiet loglevel=0 panic=-1 patchbay.vm=1 HOME=/tmp PATH=/bin TMPDIR=/tmp"
	// probeMax is for a guest that has nothing to do: a second with KVM, six without.
	probeMax = 30 * time.Second
	// endMax is for qemu to end once it is told to.
	endMax = 10 * time.Second
)

// A guest is one boot: a test binary and what it needs.
type guest struct {
	name string
	// pkg is the folder of the tests, from here; run chooses some of them.
	pkg, run string
	// group is the cgroup that they run in; empty: the root.
	group string
	// most is how long it may take, interpreted.
	most time.Duration
}

// heldByGroups are the tests of children that groups have a part in.
const heldByGroups = "^Test(Limits|CheckLimits|Unified|StrayCgroups|Open|Reaper|KillBound|Adopt|ExitOf|Strays|Stop|Wait)"

func TestVM(t *testing.T) {
	guests := []guest{
		{name: "limits in the root group", pkg: "../../adapters/internal/proc", run: heldByGroups, most: 10 * time.Minute},
		{name: "limits in a delegated group", pkg: "../../adapters/internal/proc", run: heldByGroups, group: "system.slice/patchbay.service", most: 10 * time.Minute},
		{name: "groups", pkg: "../fault", run: "^TestGroups", group: "system.slice/patchbay.service", most: 10 * time.Minute},
		{name: "clock", pkg: "../fault", run: "^TestClock", most: 10 * time.Minute},
	}
	bin := t.TempDir()
	build(t, bin)
	fast := accelerator(t, bin)
	for _, g := range guests {
		t.Run(g.name, func(t *testing.T) { g.boot(t, bin, fast) })
	}
}

// build makes what all guests have: process 1, the daemon and the tiny plugins.
func build(t *testing.T, bin string) {
	t.Helper()
	goes(t, "build", "-trimpath", "-o", filepath.Join(bin, "init"), "./guest")
	goes(t, "build", "-trimpath", "-o", filepath.Join(bin, "patchbay"), "../../cmd/patchbay")
	goes(t, "build", "-trimpath", "-o", filepath.Join(bin, "plugins")+"/", "../plugins/...")
}

// goes builds static programs, for there is no library in a guest.
func goes(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}

func (g guest) boot(t *testing.T, bin string, accelerator []string) {
	dir := t.TempDir()
	program, image := filepath.Join(dir, "test"), filepath.Join(dir, "initramfs")
	goes(t, "test", "-c", "-tags", "vm", "-o", program, g.pkg)
	pack(t, image, g.files(t, bin, program))
	console, err := qemu(t, g.most, slices.Concat(accelerator, []string{"-initrd", image, "-append", g.cmdline()}))
	if err == nil {
		err = verdict(console)
	}
	if err != nil {
		t.Fatalf("the guest: %v; the console:\n%s", err, console)
	}
	for _, line := range passes.FindAll(console, -1) {
		t.Logf("%s", line)
	}
}

// files are the guest's. Busybox is what tests expect of any machine.
func (g guest) files(t *testing.T, bin, program string) map[string]string {
	t.Helper()
	files := map[string]string{"init": filepath.Join(bin, "init"), "patchbay/test": program, "patchbay/patchbay": filepath.Join(bin, "patchbay")}
	for _, tool := range []string{"busybox", "cat", "true", "sleep", "sh"} {
		files["bin/"+tool] = ensured(t, "VM_BUSYBOX")
	}
	plugins, err := filepath.Glob(filepath.Join(bin, "plugins", "*"))
	if err != nil || len(plugins) == 0 {
		t.Fatalf("plugins: %v, %v", plugins, err)
	}
	for _, path := range plugins {
		files["patchbay/plugins/"+filepath.Base(path)] = path
	}
	return files
}

func pack(t *testing.T, image string, files map[string]string) {
	t.Helper()
	out, err := os.Create(image)
	if err == nil {
		err = errors.Join(archiveOf(out, files), out.Close())
	}
	if err != nil {
		t.Fatalf("initramfs: %v", err)
	}
}

// ensured is what test/ensure-vm.sh says.
func ensured(t *testing.T, variable string) string {
	t.Helper()
	value := os.Getenv(variable)
	if value == "" {
		t.Fatalf(`%s is not set: run make vm, or eval "$(test/ensure-vm.sh)" first`, variable)
	}
	return value
}

// accelerators are tried in this order: KVM is there on some machines, and boots no
// usual kernel (nested, or PVM). Interpreted, all takes some ten times as long.
func accelerators() [][]string {
	return [][]string{{"-accel", "kvm", "-cpu", "host"}, {"-accel", "tcg", "-cpu", "max"}}
}

// accelerator is the first that boots a guest which has nothing to do.
func accelerator(t *testing.T, bin string) []string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "initramfs")
	pack(t, image, map[string]string{"init": filepath.Join(bin, "init"), "bin/busybox": ensured(t, "VM_BUSYBOX"), "bin/true": ensured(t, "VM_BUSYBOX")})
	for _, one := range accelerators() {
		console, err := qemu(t, probeMax, append(one, "-initrd", image, "-append", cmdline+" -- true"))
		if err == nil && exited.Match(console) {
			t.Logf("guests run with %s", one[1])
			return one
		}
		t.Logf("no guest boots with %s: %v; the console:\n%s", one[1], err, console)
	}
	t.Fatal("no guest boots on this machine: see above")
	return nil
}

// qemu boots and returns all that came over the serial line, with plain ends of
// lines. It ends with this process, at the latest.
func qemu(t *testing.T, most time.Duration, args []string) (console []byte, err error) {
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	cmd := exec.CommandContext(ctx, ensured(t, "VM_QEMU"), append([]string{"-smp", "2", "-m", memory, "-nodefaults", "-no-user-config",
		"-nographic", "-no-reboot", "-nic", "none", "-serial", "stdio", "-kernel", ensured(t, "VM_KERNEL")}, args...)...)
	cmd.WaitDelay = endMax
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the signal comes when the thread ends that forked
	defer runtime.UnlockOSThread()
	console, err = cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("it did not end within %s", most)
	}
	return bytes.ReplaceAll(console, []byte("\r\n"), []byte("\n")), err
}

// cmdline has the environment before "--", and the command behind it. The test's
// own bound comes first, for it tells where it hangs.
func (g guest) cmdline() string {
	text := cmdline + " FAULT_BIN=/patchbay"
	if g.group != "" {
		text += " VM_GROUP=" + g.group
	}
	return fmt.Sprintf("%s -- /patchbay/test -test.v -test.run=%s -test.timeout=%s", text, g.run, g.most-g.most/10)
}

var (
	passes = regexp.MustCompile(`(?m)^--- PASS: .*$`)
	exited = regexp.MustCompile(`(?m)^guest: exit (\d+)$`)
)

// verdict wants that the command ended well and that tests ran.
func verdict(console []byte) error {
	code := exited.FindSubmatch(console)
	switch {
	case code == nil:
		return errors.New("the guest ended without a word")
	case string(code[1]) != "0":
		return fmt.Errorf("the tests exited with %s", code[1])
	case !passes.Match(console) || strings.Contains(string(console), "--- SKIP"):
		return errors.New("no test ran, or one was skipped")
	}
	return nil
}
