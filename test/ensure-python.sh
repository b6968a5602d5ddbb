#!/usr/bin/env bash
# Makes sure that the tests have a Python 3 that can make virtual environments
# with pip, and prints the interpreter's path.
#
#   python=$(test/ensure-python.sh)
#
# The first of $PYTHON, python3 on the PATH and /usr/bin/python3 that can is used
# as it is. Else, as root on Debian or Ubuntu, python3, python3-venv and
# python3-pip are installed by apt. Else it says what to install and fails.
# Everything but the path goes to stderr. Nothing else is left behind.
set -euo pipefail

oldest="3, 9" # the oldest that the ekuiper SDK and pip's current wheels run on

say() { echo "ensure-python: $*" >&2; }
die() { say "$*"; exit 1; }

# able reports whether interpreter $1 makes a virtual environment whose pip works.
# It tries: Debian's python3 has a venv module that fails without python3-venv.
able() {
	local dir ok=1
	command -v "$1" >/dev/null || return 1
	"$1" -c "import sys; sys.exit(sys.version_info < ($oldest))" 2>/dev/null || return 1
	dir=$(mktemp -d)
	if "$1" -m venv "$dir/venv" >/dev/null 2>&1 && "$dir/venv/bin/pip" --version >/dev/null 2>&1; then ok=0; fi
	rm -rf "$dir"
	return $ok
}

# find prints the first interpreter that is able.
find() {
	local python
	for python in "${PYTHON:-}" python3 /usr/bin/python3; do
		if [ -n "$python" ] && able "$python"; then
			# The program itself, not a version manager's shim: a shim needs an environment.
			"$python" -c 'import sys; print(sys.executable)'
			return
		fi
	done
	return 1
}

install() {
	local advice="install Python 3.9 or newer with venv and pip (Debian, Ubuntu: apt-get install python3 python3-venv python3-pip), or set PYTHON"
	[ "$(id -u)" = 0 ] || die "no Python that can make virtual environments: $advice"
	command -v apt-get >/dev/null || die "no Python that can make virtual environments: $advice"
	say "installing python3, python3-venv and python3-pip by apt-get"
	export DEBIAN_FRONTEND=noninteractive
	{
		apt-get -o DPkg::Lock::Timeout=120 -qq update
		apt-get -o DPkg::Lock::Timeout=120 -qq -y --no-remove --no-install-recommends install python3 python3-venv python3-pip
	} >&2 || die "apt-get could not install them (see above): $advice"
}

find && exit
install
find || die "Python was installed and still cannot make virtual environments; set PYTHON to one that can"
