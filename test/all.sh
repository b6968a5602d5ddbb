#!/usr/bin/env bash
# Everything that make test runs, in the order cheap to dear, go test's own lines
# last: what is missing is ensured (a C compiler for -race, python, a Docker
# engine), short fuzzing, the real plugins of others (test/upstream, a module of
# its own), then all packages of the house with -race. What was started for it
# is stopped at the end, also when a test fails.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
go=${GO:-go}
# A package that takes longer hangs: the slowest takes a few minutes on 2 cores.
timeout=${TEST_TIMEOUT:-10m}

say() { echo "make test: $*" >&2; }

compiler() {
	if command -v "$("$go" env CC)" >/dev/null; then return; fi
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		say "go test -race needs a C compiler: install gcc (Debian, Ubuntu: apt-get install gcc libc6-dev)"
		exit 1
	fi
	say "installing gcc, which -race needs"
	DEBIAN_FRONTEND=noninteractive apt-get -qq update >&2
	DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install gcc libc6-dev >&2
}

compiler
PYTHON=$(test/ensure-python.sh)
export PYTHON
vars=$(test/ensure-docker.sh start)
eval "$vars"
# Quietly, so that go test's lines stay the last; what fails is still said.
trap '$ENSURE_DOCKER_STOP 2>bin/engine-stop.log || cat bin/engine-stop.log >&2' EXIT
test/ensure-docker.sh image

before=$(test/left.sh)

failed=0
test/fuzz.sh "${FUZZ_RUNS:-10000}" || failed=1
(cd test/upstream && "$go" test -race -timeout "$timeout" ./...) || failed=1
# The daemon of the stories has the race detector too.
E2E_RACE=1 "$go" test -race -timeout "$timeout" ./... || failed=1
after=$(test/left.sh)
new=$(comm -13 <(sort <<<"$before") <(sort <<<"$after"))
if [ -n "$new" ]; then
	say "the suite left these behind:"
	echo "$new" >&2
	failed=1
fi
exit $failed
