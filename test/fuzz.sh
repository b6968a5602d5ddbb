#!/usr/bin/env bash
# Runs every fuzz target of the house for SECONDS (default 3) each.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
go=${GO:-go}
seconds=${1:-3}
grep -rl --include='*_test.go' '^func Fuzz' core adapters sdk test 2>/dev/null | grep -v '^test/upstream/' | xargs -r -n1 dirname | sort -u |
	while read -r dir; do
		for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$dir"/*_test.go | sort -u); do
			echo "fuzz: ./$dir $target for ${seconds}s"
			"$go" test "./$dir" -run '^$' -fuzz "^$target\$" -fuzztime "${seconds}s" -fuzzminimizetime 1x </dev/null >"${TMPDIR:-/tmp}/fuzz.$$" 2>&1 || {
				cat "${TMPDIR:-/tmp}/fuzz.$$"
				rm -f "${TMPDIR:-/tmp}/fuzz.$$"
				exit 1
			}
			rm -f "${TMPDIR:-/tmp}/fuzz.$$"
		done
	done
