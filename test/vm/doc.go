// Package vm runs tests where a machine may be broken that nobody else uses: a
// virtual one, booted by qemu from a kernel and a folder in memory, with no disk
// and no network but loopback. It is where the clock jumps (test/fault, tag vm), and
// where limits are kept by cgroup v2 with all its controllers, whatever the machine
// that runs the tests has.
//
//	host    make vm -> TestVM (tag vm): builds, packs an initramfs, boots once per
//	        guest, reads the serial console, and fails with all of it
//	guest   test/vm/guest is process 1: it mounts, runs one command, powers off
//
// test/ensure-vm.sh gets qemu and the kernel. KVM is used when /dev/kvm may be, else
// qemu interprets, some ten times more slowly. A guest is killed when it takes longer
// than its bound.
package vm
