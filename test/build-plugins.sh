#!/usr/bin/env bash
# Builds every tiny plugin of test/plugins that is a Go command into bin/plugins:
# test/plugins/provider becomes bin/plugins/provider, test/plugins/goplugin/grpc
# becomes bin/plugins/goplugin-grpc. The container's is built static, and again by
# test/ensure-docker.sh into an image.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
go=${GO:-go}
mkdir -p bin/plugins
for dir in $("$go" list -f '{{if eq .Name "main"}}{{.Dir}}{{end}}' ./test/plugins/...); do
	name=${dir#"$PWD"/test/plugins/}
	case $name in container/*) continue ;; esac # a tool that builds the image, no plugin
	CGO_ENABLED=0 "$go" build -trimpath -o "bin/plugins/${name//\//-}" "$dir"
done
