#!/usr/bin/env bash
# Lists what a suite may not leave behind: plugins and daemons, containers of the
# engine at DOCKER_HOST, run folders and sockets; one per line, nothing when all
# is well. test/all.sh compares the lists before and after. A question that nobody
# answers is a failure, never "none".
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
engine=${ENSURE_DOCKER_DIR:-/var/tmp/patchbay-engine} # test/ensure-docker.sh ends what is in there
ask_seconds=10                                        # an engine that is busy answers within two
filter='%7B%22label%22%3A%5B%22dev.patchbay.node%22%5D%7D'

fail() {
	echo "left: $*" >&2
	exit 1
}

# matching is grep, for which no match is no failure.
matching() { grep -E "$@" || [ $? -eq 1 ]; }

processes=$(ps -eo pid=,args=) || fail "ps: see above"
matching "$root/bin/(patchbay|plugins/|upstream/)|/tmp/go-build[0-9]+/|/tmp/Test[A-Za-z_]+[0-9]+/" <<<"$processes"

find /tmp -maxdepth 1 \( -name 'patchbay-*' -o -name '*.ipc' -o -name 'plugin[0-9]*' \) || fail "find /tmp: see above"

# Sockets that are bound, whether or not their file is still there. Some plugins
# reach their folder through a descriptor, because its path is too long.
sockets=$(cat /proc/net/unix) || fail "/proc/net/unix: see above"
awk -v root="$root/" -v engine="$engine/" '
	index($8, engine) == 1 { next }
	index($8, root) == 1 || $8 ~ "^/(tmp|var/tmp|proc/self/fd)/" { print "socket", $8 }' <<<"$sockets" | sort -u

case "${DOCKER_HOST:-}" in
unix://*) at=(--unix-socket "${DOCKER_HOST#unix://}" http://docker) ;;
tcp://*) at=("http://${DOCKER_HOST#tcp://}") ;;
*) fail "DOCKER_HOST is ${DOCKER_HOST:-not set}: want unix://PATH or tcp://HOST:PORT" ;;
esac
containers=$(curl -fsS --max-time "$ask_seconds" "${at[@]}/containers/json?all=true&filters=$filter") ||
	fail "the engine at $DOCKER_HOST does not tell its containers"
case "$containers" in
\[*\]*) matching -o '"Id":"[0-9a-f]{12}' <<<"$containers" | sed 's/"Id":"/container /' ;;
*) fail "the engine at $DOCKER_HOST answers $containers, want a list of containers" ;;
esac
