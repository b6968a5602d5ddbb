#!/usr/bin/env bash
# Runs every fuzz target of the house on RUNS inputs each (default 10000, some
# seconds for all). A number of inputs, not a time: when go's own -fuzztime
# clock runs out while a worker is busy, go test may report "context deadline
# exceeded" as a failure of the target (golang/go#75804).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
go=${GO:-go}
runs=${1:-10000}
log=$(mktemp "${TMPDIR:-/tmp}/fuzz.XXXXXX")
trap 'rm -f "$log"' EXIT
grep -rl --include='*_test.go' '^func Fuzz' core adapters sdk test 2>/dev/null | grep -v '^test/upstream/' | xargs -r -n1 dirname | sort -u |
	while read -r dir; do
		for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$dir"/*_test.go | sort -u); do
			echo "fuzz: ./$dir $target, $runs inputs"
			"$go" test "./$dir" -run '^$' -fuzz "^$target\$" -fuzztime "${runs}x" -fuzzminimizetime 1x -timeout 0 </dev/null >"$log" 2>&1 || {
				cat "$log"
				exit 1
			}
		done
	done
