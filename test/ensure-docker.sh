#!/usr/bin/env bash
# Makes sure that the tests have a real Docker engine, and the image they run.
#
#   eval "$(test/ensure-docker.sh start)"   an engine that answers; sets DOCKER_HOST and
#                                           ENSURE_DOCKER_STOP (what to run at the end)
#   test/ensure-docker.sh run CMD...        the same around one command
#   eval "$(test/ensure-docker.sh find)"    only if one answers already, and that of DOCKER_HOST
#                                           only if it is set; else says why not, exit 1
#   test/ensure-docker.sh image [TAG]       build the test image on the engine that answers
#   test/ensure-docker.sh stop              end the engine that start began, leave nothing of it
#
# An engine that answers (DOCKER_HOST, the default socket, or one that start
# began earlier) is used as it is. Else, as root on Debian or Ubuntu, what is
# missing is installed by apt and an engine of our own is started, with its own
# socket, pid file, data and state in one folder, ENSURE_DOCKER_DIR. Else it
# says what to install and fails. Everything people should read goes to stderr.
#
# Our own engine sets no firewall rule and no forwarding: containers reach the
# host and the host reaches them, through ports published on loopback, and that
# is all the tests need. So nothing of it is left when it stops, but for the
# packages and, when there was none before, docker0 is removed too.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dir=${ENSURE_DOCKER_DIR:-/var/tmp/patchbay-engine}
socket=$dir/docker.sock
default_tag=patchbay-test/echo:latest
start_seconds=60 # a first start of dockerd takes 1 to 3 s; a loaded machine ten times that
memory_max=2g    # the test image has 6 MB; room for a few real ones
stop_seconds=30  # dockerd gives its containers 10 to 15 s of grace
# Where sbin is not on the PATH of a root shell, dockerd would not be found.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { echo "ensure-docker: $*" >&2; }
die() { say "$*"; exit 1; }

# prepare builds the helper that pings and builds; it needs no docker client.
helper=
prepare() {
	helper=$(mktemp -d)
	trap 'rm -rf "$helper"' EXIT
	(cd "$root" && go build -o "$helper/image" ./test/plugins/container/image) ||
		die "go build ./test/plugins/container/image: see above"
}
engine() { "$helper/image" "$@"; }

# lock keeps two starts, or a start and a stop, from crossing each other.
lock() {
	mkdir -p "$(dirname "$dir")"
	exec 9<"$(dirname "$dir")"
	flock 9
}

# answering prints the DOCKER_HOST of the first engine that answers.
answering() {
	local host
	for host in "${DOCKER_HOST:-}" unix:///var/run/docker.sock "unix://$socket"; do
		if [ -n "$host" ] && engine -host "$host" ping 2>/dev/null; then
			echo "$host"
			return
		fi
	done
	return 1
}

exports() { # HOST STOP-COMMAND
	printf 'export DOCKER_HOST=%q\nexport ENSURE_DOCKER_STOP=%q\n' "$1" "$2"
}

# ours reports whether process $1 is one of our own engine's: its command line
# names a path in our folder.
ours() { tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" | grep -qF "$dir/"; }

install() {
	command -v dockerd >/dev/null && return
	[ "$(id -u)" = 0 ] || die "no Docker engine answers and none is installed: install Docker Engine (Debian, Ubuntu: apt-get install docker.io), start it, and let this user use its socket; or set DOCKER_HOST"
	command -v apt-get >/dev/null || die "no Docker engine answers and none is installed: install Docker Engine (https://docs.docker.com/engine/install/) and start it, or set DOCKER_HOST"
	say "installing docker.io by apt-get"
	export DEBIAN_FRONTEND=noninteractive
	{
		apt-get -o DPkg::Lock::Timeout=120 -qq update
		# --no-remove: another vendor's packages are never taken away.
		apt-get -o DPkg::Lock::Timeout=120 -qq -y --no-remove --no-install-recommends install docker.io
	} >&2 || die "apt-get could not install docker.io (see above): install a Docker engine by hand, or set DOCKER_HOST"
	command -v dockerd >/dev/null || die "docker.io is installed and there is no dockerd: install Docker Engine by hand, or set DOCKER_HOST"
}

launch() {
	[ "$(id -u)" = 0 ] || die "no Docker engine answers and dockerd needs root: start the system's (systemctl start docker) and let this user use its socket, or set DOCKER_HOST"
	mkdir -p "$dir"
	chmod 0711 "$dir"
	# In memory: an engine syncs its books to disk at each step of a container's
	# life, and on a busy disk that has taken seconds.
	mount -t tmpfs -o "mode=0711,size=$memory_max" patchbay-engine "$dir" 2>/dev/null || say "no tmpfs here: the engine keeps its data on disk"
	[ -e /sys/class/net/docker0 ] || touch "$dir/made-docker0"
	echo '{}' >"$dir/daemon.json" # so that /etc/docker/daemon.json is not read
	say "starting an engine of our own in $dir"
	# Lock (fd 9) and output are closed for it, so that it holds nothing of ours.
	setsid dockerd --host "unix://$socket" --config-file "$dir/daemon.json" \
		--pidfile "$dir/docker.pid" --data-root "$dir/data" --exec-root "$dir/exec" \
		--iptables=false --ip6tables=false --ip-forward=false --ip-masq=false \
		</dev/null >"$dir/docker.log" 2>&1 9>&- &
	local pid=$! end=$((SECONDS + start_seconds))
	until engine -host "unix://$socket" -wait 500ms ping 2>/dev/null; do
		if ! kill -0 "$pid" 2>/dev/null || [ $SECONDS -ge $end ]; then
			tail -n 20 "$dir/docker.log" >&2
			stop
			die "our own engine did not answer; its last words are above"
		fi
	done
	say "engine answers at unix://$socket (stop it with: test/ensure-docker.sh stop)"
}

start() {
	local host
	lock
	prepare
	if host=$(answering); then
		say "using the engine at $host"
		exports "$host" :
		return
	fi
	install
	if host=$(answering); then # the package's own service was started
		say "using the engine at $host, which the package's service started"
		exports "$host" :
		return
	fi
	launch
	exports "unix://$socket" "$root/test/ensure-docker.sh stop"
}

# gone waits until process $1 has ended, for at most stop_seconds. A zombie has
# ended: its command line is empty.
gone() {
	local end=$((SECONDS + stop_seconds))
	while ours "$1"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.05 # between two looks
	done
}

# end_process sends TERM, then KILL, to process $1 if it is our own engine's.
end_process() {
	ours "$1" || return 0
	kill "$1" 2>/dev/null || return 0
	gone "$1" || { kill -KILL "$1" 2>/dev/null || true; gone "$1" || true; }
}

stop() {
	local file pid mount
	[ -d "$dir" ] || return 0
	if [ -s "$dir/docker.pid" ]; then
		end_process "$(cat "$dir/docker.pid")"
	fi
	# What is left if dockerd was killed: its containerd, and the containers' shims.
	for file in /proc/[0-9]*; do
		pid=${file#/proc/}
		if [ "$pid" != $$ ] && [ "$pid" != "$PPID" ] && engine_process "$pid"; then end_process "$pid"; fi
	done
	if [ -e "$dir/made-docker0" ] && command -v ip >/dev/null; then
		ip link delete docker0 2>/dev/null || true
	fi
	awk -v d="$dir" '$2 == d || index($2, d "/") == 1 {print $2}' /proc/self/mounts | sort -r | while read -r mount; do
		umount "$mount" 2>/dev/null || umount -l "$mount"
	done
	rm -rf "$dir"
	say "engine in $dir is stopped and removed"
}

# engine_process: one of our engine's own, not somebody's editor in the folder.
engine_process() {
	case "$(readlink "/proc/$1/exe" 2>/dev/null)" in
	*/dockerd | */containerd | */containerd-shim* | */docker-proxy) ours "$1" ;;
	*) return 1 ;;
	esac
}

case "${1:-}" in
start) start ;;
find)
	prepare
	if [ -n "${DOCKER_HOST:-}" ] && ! engine -host "$DOCKER_HOST" ping 2>/dev/null; then
		die "no Docker engine answers at DOCKER_HOST, $DOCKER_HOST"
	fi
	host=$(answering) || die "no Docker engine answers (DOCKER_HOST, /var/run/docker.sock): test/ensure-docker.sh start gets one"
	exports "$host" :
	;;
run)
	shift
	vars=$("$0" start)
	eval "$vars"
	trap '$ENSURE_DOCKER_STOP' EXIT
	"$@"
	;;
image)
	prepare
	host=$(answering) || die "no Docker engine answers (DOCKER_HOST, /var/run/docker.sock): test/ensure-docker.sh start gets one"
	engine -host "$host" -tag "${2:-$default_tag}" build "$root/test/plugins/container"
	;;
stop)
	lock
	stop
	;;
*)
	sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$0" >&2
	exit 2
	;;
esac
