package proc

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// A Fence is what a child sees and may do that works on what nobody vouches for. It has
// mounts, processes and IPC of its own, no capability, and can gain none by what it
// executes. When it ends, so does all that it has started. It needs Linux 5.12, and root
// or user namespaces: without them Start fails.
type Fence struct {
	// Readable are files and folders that it sees, Writable what it may change, beside
	// the machine's programs and libraries, what there is to know of names and of
	// certificates, and /dev/null and the like. All else is not there. What does not
	// exist is left out.
	Readable []string `json:"readable,omitempty"`
	Writable []string `json:"writable,omitempty"`
	// Root is an empty folder, on which the child's view is put together.
	Root string `json:"root"`
	// Network leaves it the machine's network; without, it has none, no loopback
	// either.
	Network bool `json:"network,omitempty"`
}

// machines are what most programs need.
func machines() (readable, devices []string) {
	return []string{
		"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr",
		"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/passwd", "/etc/group", "/etc/localtime",
		"/etc/ssl/certs", "/etc/pki/tls/certs", "/etc/pki/ca-trust", "/etc/alternatives", // not the keys beside them
		"/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
	}, []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}
}

// flags are those of the fork.
func (f *Fence) flags() uintptr {
	flags := uintptr(syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC)
	if !f.Network {
		flags |= syscall.CLONE_NEWNET
	}
	return flags
}

// capabilities are what the helper needs in a user namespace to put it up.
func (f *Fence) capabilities() []uintptr {
	return []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP}
}

// A view is one thing that is to be seen.
type view struct {
	path     string
	writable bool
	device   bool
}

func (f *Fence) views() (all []view) {
	readable, devices := machines()
	for _, path := range slices.Concat(readable, f.Readable) {
		if filepath.IsAbs(path) {
			all = append(all, view{path: filepath.Clean(path)})
		}
	}
	for _, path := range devices {
		all = append(all, view{path: path, device: true})
	}
	for _, path := range f.Writable {
		all = append(all, view{path: filepath.Clean(path), writable: true})
	}
	// What lies in another comes behind it, and what may be written last.
	slices.SortStableFunc(all, func(a, b view) int {
		return cmp.Or(cmp.Compare(len(a.path), len(b.path)), strings.Compare(a.path, b.path))
	})
	return slices.CompactFunc(all, func(a, b view) bool { return a == b })
}

// check refuses to show everything.
func (f *Fence) check() error {
	for _, path := range slices.Concat(f.Readable, f.Writable) {
		if filepath.IsAbs(path) && filepath.Clean(path) == "/" {
			return fmt.Errorf("%w: a fence that shows / is none", plugin.ErrInvalid)
		}
	}
	return nil
}

// enter puts the fence up around this process, which goes on in dir.
func (f *Fence) enter(dir string) error {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("none", f.Root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=1m"); err != nil {
		return fmt.Errorf("tmpfs: %w", err)
	}
	for _, v := range f.views() {
		if err := f.show(v); err != nil {
			return fmt.Errorf("%s: %w", v.path, err)
		}
	}
	proc := filepath.Join(f.Root, "proc")
	if err := errors.Join(os.MkdirAll(filepath.Join(f.Root, sharedTmp), 0o755), os.MkdirAll(proc, 0o755)); err != nil {
		return err
	}
	if err := unix.Mount("proc", proc, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("/proc: %w", err)
	}
	if err := limitMount(f.Root, unix.MOUNT_ATTR_RDONLY, false); err != nil {
		return err
	}
	// The old root lies over the new one for a moment, as pivot_root(2) has it.
	if err := unix.Chdir(f.Root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	return unix.Chdir(cmp.Or(dir, "/"))
}

// show binds one thing below Root, or makes the link that it is.
func (f *Fence) show(v view) error {
	info, err := os.Lstat(v.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	at := filepath.Join(f.Root, v.path)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.EROFS) {
			return nil // it lies in what is shown already
		}
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 && filepath.Dir(v.path) == "/" {
		to, err := os.Readlink(v.path)
		if err != nil {
			return err
		}
		return os.Symlink(to, at)
	}
	if info, err = os.Stat(v.path); err != nil {
		return nil // a link to nothing
	}
	if info.IsDir() {
		err = os.MkdirAll(at, 0o755)
	} else {
		err = os.WriteFile(at, nil, 0o644)
	}
	if _, there := os.Stat(at); err != nil && there != nil {
		return err
	}
	if err := unix.Mount(v.path, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	attributes := uint64(unix.MOUNT_ATTR_NOSUID)
	if !v.writable {
		attributes |= unix.MOUNT_ATTR_RDONLY
	}
	if !v.device {
		attributes |= unix.MOUNT_ATTR_NODEV
	}
	return limitMount(at, attributes, true)
}

func limitMount(path string, attributes uint64, below bool) error {
	flags := uint(0)
	if below {
		flags = unix.AT_RECURSIVE
	}
	err := unix.MountSetattr(unix.AT_FDCWD, path, flags, &unix.MountAttr{Attr_set: attributes})
	if errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("mount_setattr: %w: it came with Linux 5.12", err)
	}
	if err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	return nil
}

// renounce gives up every capability for good, root's own too, on this thread.
func renounce() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	for capability := uintptr(0); ; capability++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // that was the last one that the kernel has
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", capability, err)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}

// fenceError says what a fence needs, when it could not be put up.
func fenceError(err error) error {
	if !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	limits := []string{"/proc/sys/user/max_user_namespaces", "/proc/sys/kernel/unprivileged_userns_clone"}
	return fmt.Errorf("%w: a sandbox needs root's CAP_SYS_ADMIN, or user namespaces (see %s); in a container: --cap-add SYS_ADMIN", err, strings.Join(limits, ", "))
}
