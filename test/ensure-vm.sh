#!/usr/bin/env bash
# Makes sure that test/vm has what it boots, and says where it is:
#
#   eval "$(test/ensure-vm.sh)"    sets VM_QEMU, VM_KERNEL and VM_BUSYBOX
#
# What is set already is used as it is. Else qemu is installed by apt (as root on
# Debian or Ubuntu), and the kernel and a static busybox are Debian's packages,
# downloaded and unpacked into ENSURE_VM_DIR, never installed. A second run finds
# everything and does nothing. Else it says what to install and fails. Everything
# people should read goes to stderr.
set -euo pipefail

dir=${ENSURE_VM_DIR:-/var/tmp/patchbay-vm}
# Small, and with all that a guest needs built in; it depends on the real package.
kernel_meta=linux-image-cloud-amd64

say() { echo "ensure-vm: $*" >&2; }
die() { say "$*"; exit 1; }

updated=
update() {
	[ -z "$updated" ] || return 0
	apt-get -o DPkg::Lock::Timeout=120 -qq update >&2 || die "apt-get update: see above"
	updated=yes
}

qemu() {
	command -v qemu-system-x86_64 && return
	local hint="install it (Debian, Ubuntu: apt-get install qemu-system-x86) or set VM_QEMU"
	[ "$(id -u)" = 0 ] || die "there is no qemu-system-x86_64: $hint"
	command -v apt-get >/dev/null || die "there is no qemu-system-x86_64: $hint"
	say "installing qemu-system-x86 by apt-get"
	update
	DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 -qq -y --no-remove --no-install-recommends \
		install qemu-system-x86 >&2 || die "apt-get could not install qemu-system-x86 (see above): $hint"
	command -v qemu-system-x86_64 || die "qemu-system-x86 is installed and there is no qemu-system-x86_64: $hint"
}

# unpack PACKAGE FILE NAME: FILE (a pattern) of a package becomes $dir/NAME.
unpack() (
	command -v apt-get >/dev/null || die "there is no apt-get to download $1 with: set VM_KERNEL and VM_BUSYBOX"
	work=$(mktemp -d "$dir/unpack.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	cd "$work"
	say "downloading $1"
	download "$1" || { update && download "$1"; } || die "apt-get could not download $1 (see above): set VM_KERNEL and VM_BUSYBOX"
	dpkg-deb -x ./*.deb root >&2 || die "dpkg-deb -x of $1: see above"
	# shellcheck disable=SC2086 # a pattern
	mv root/$2 "$dir/$3" || die "$1 has no $2"
)
download() { apt-get -o APT::Sandbox::User=root -qq download "$1" >&2; }

# kernel is the name of the package that the one for all versions depends on.
kernel() {
	[ -n "$(versioned)" ] || update
	versioned | grep . || die "apt knows no $kernel_meta: set VM_KERNEL to an x86-64 kernel with cgroup v2, tmpfs and a serial console built in"
}
versioned() { apt-cache depends "$kernel_meta" 2>/dev/null | awk '$1 == "Depends:" && $2 ~ /^linux-image-/ { print $2; exit }'; }

[ "$(uname -m)" = x86_64 ] || die "this machine is $(uname -m): the guest's programs are built for x86_64"
mkdir -p "$dir"
exec 9<"$dir"
flock 9 # two at once would unpack into each other
VM_QEMU=${VM_QEMU:-$(qemu)}
if [ -z "${VM_KERNEL:-}" ]; then
	VM_KERNEL=$dir/vmlinuz
	if [ ! -s "$VM_KERNEL" ]; then
		name=$(kernel)
		unpack "$name" 'boot/vmlinuz-*' vmlinuz
	fi
fi
if [ -z "${VM_BUSYBOX:-}" ]; then
	VM_BUSYBOX=$dir/busybox
	[ -s "$VM_BUSYBOX" ] || unpack busybox-static 'bin/busybox' busybox
fi
printf 'export VM_QEMU=%q VM_KERNEL=%q VM_BUSYBOX=%q\n' "$VM_QEMU" "$VM_KERNEL" "$VM_BUSYBOX"
