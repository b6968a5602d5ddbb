#!/usr/bin/env bash
# Builds the go-plugins that others wrote into bin/upstream: the library's own
# examples, from test/upstream, and the tool of each module in
# test/upstream/goplugin/real. Those have modules of their own, because no one set
# of versions suits them all; all are pinned, and come from the Go proxy.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
go=${GO:-go}
out=$PWD/bin/upstream
mkdir -p "$out"
for example in basic=basic/plugin bidirectional=bidirectional/plugin-go-grpc kv-grpc=grpc/plugin-go-grpc \
	kv-netrpc=grpc/plugin-go-netrpc negotiated=negotiated/plugin-go streaming=streaming/plugin; do
	(cd test/upstream && "$go" build -o "$out/example-${example%=*}" "github.com/hashicorp/go-plugin/examples/${example#*=}")
done
for module in test/upstream/goplugin/real/*/; do
	(cd "$module" && "$go" build -o "$out/$(basename "$module")" tool)
done
