#!/usr/bin/env bash
# What make run (stay) and make demo (exit) do: start a daemon, apply the examples,
# invoke one operation of each, follow one log and the events for a moment, say
# what to try next. How an example is invoked stands in its own comment: the first
# line "patchbay invoke ..." in the manifest or in the module beside it.
#
# stay keeps its data in .patchbay and serves on the default ports until Ctrl-C
# (PATCHBAY_LISTEN and PATCHBAY_NATS_LISTEN choose others); exit uses a folder of
# its own and free ports, so that it can run beside anything. DEMO_BIN chooses
# another folder with the binary, DEMO_DATA_DIR another one for stay's data.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
mode=${1:-stay}
PATH=${DEMO_BIN:-$PWD/bin}:$PATH
examples=manifests/examples
start_seconds=20  # until the daemon answers: a second on a quiet machine
settle_seconds=30 # until every plugin runs or says why not: the default start timeout twice
follow_seconds=2  # how long the log and the events are followed

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
show() { printf '%s$ %s%s\n' "$dim" "$*" "$plain"; }

if [ "$mode" = exit ]; then
	data=$(mktemp -d "${TMPDIR:-/tmp}/patchbay-demo.XXXXXX")
	export PATCHBAY_LISTEN=127.0.0.1:0 PATCHBAY_NATS_LISTEN=127.0.0.1:0
else
	data=${DEMO_DATA_DIR:-$PWD/.patchbay}
	mkdir -p "$data"
fi
export PATCHBAY_DATA_DIR=$data
unset PATCHBAY_URL PATCHBAY_CONTEXT

daemon=
finish() {
	trap - EXIT INT TERM
	if [ -n "$daemon" ] && kill "$daemon" 2>/dev/null; then
		title "Stopping the daemon and its plugins"
		wait "$daemon" || echo "the daemon ended with exit code $?; its log: $log"
	fi
	if [ "$mode" = exit ]; then rm -rf "$data"; fi
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# An engine that answers is used; none is installed for this. The examples' image
# is built on it, from source, in a second or two.
engine() {
	local vars
	if vars=$(test/ensure-docker.sh find 2>/dev/null); then
		eval "$vars"
		test/ensure-docker.sh image >/dev/null && return
	fi
	echo "No Docker engine answers (DOCKER_HOST, /var/run/docker.sock): the container examples wait for one; all others work."
}

# serve starts the daemon and waits until it answers.
log=$data/daemon.log
serve() {
	# A session of its own: Ctrl-C is for this script, which stops the daemon in order.
	setsid patchbay serve --data-dir "$data" >"$log" 2>&1 </dev/null &
	daemon=$!
	local end=$((SECONDS + start_seconds))
	until patchbay get plugins >/dev/null 2>&1; do
		if ! kill -0 "$daemon" 2>/dev/null || [ $SECONDS -ge $end ]; then
			echo "the daemon does not answer; it said:"
			tail -n 20 "$log"
			exit 1
		fi
		sleep 0.1
	done
}

state() { patchbay get plugin "$1" 2>/dev/null | awk 'NR == 2 {print $3}'; }

# why is a plugin's state and reason.
why() { patchbay get plugin "$1" 2>/dev/null | awk 'NR == 2 {$1 = $2 = $4 = $5 = ""; sub(/^ +/, ""); gsub(/  +/, ": "); print}'; }

# settled waits until nothing is on its way up any more.
settled() {
	local end=$((SECONDS + settle_seconds))
	while patchbay get plugins | awk 'NR > 1 {print $3}' | grep -qx starting && [ $SECONDS -lt $end ]; do sleep 0.2; done
}

# try_line is how an example's own comment invokes it.
try_line() {
	sed -n "s/^[# ]*\(patchbay invoke $2 .*\)/\1/p" "$1" "${1%.yaml}".* 2>/dev/null | head -n 1
}

invoke_each() {
	local file name line
	for file in "$examples"/*/*.yaml; do
		name=$(sed -n 's/^  name: *//p' "$file" | head -n 1)
		line=$(try_line "$file" "$name")
		[ -n "$line" ] || continue
		if [ "$(state "$name")" != running ]; then
			printf '  %s is %s\n' "$name" "$(why "$name")"
			continue
		fi
		show "$line"
		eval "$line" || true # the example's own comment, from this repository; what went wrong is printed
	done
}

follow() { # COMMAND... for a moment; that it is ended is not its fault
	show "$*"
	timeout --foreground "$follow_seconds" "$@" || [ $? -eq 124 ]
}

title "Starting a daemon: embedded NATS, data in $data"
engine
serve
printf 'REST %s   NATS %s\n' "$(cat "$data/api.addr")" "$(cat "$data/nats.addr" 2>/dev/null || echo off)"

title "Applying $examples"
show "patchbay apply -f $examples/"
patchbay apply -f "$examples/"
settled
show "patchbay get plugins"
patchbay get plugins

title "One operation of each"
invoke_each

title "What a plugin printed, and what happened, followed for $follow_seconds seconds each"
follow patchbay logs greeter -f
follow patchbay events -f --since 5s

if [ "$mode" = exit ]; then
	echo
	echo "Done. make run does the same and keeps serving."
	exit 0
fi

cat <<END

${bold}It serves until Ctrl-C.${plain} In another terminal, from this folder:

  export PATH=\$PWD/bin:\$PATH PATCHBAY_DATA_DIR=$data
  patchbay describe plugin greeter
  patchbay invoke greeter greet --data '{"name": "Ada", "language": "fr"}'
  patchbay invoke greeter greet --data '{"name": "Ada", "language": "xx"}'    # the plugin's own no
  patchbay events -f                          # then: kill -9 the pid that patchbay get plugins -o wide shows
  patchbay diff -f $examples/            # after you changed one
  patchbay delete -f $examples/

  curl -H "Authorization: Bearer \$(cat $data/api.token)" $(cat "$data/api.addr")/v1/plugins
  nats --server $(cat "$data/nats.addr") --token "\$(cat $data/nats.token)" sub 'patchbay.v1.>'

The daemon's own log: $log
END
wait "$daemon" || true
