// Package manifests holds what people start from: the JSON Schema of a manifest,
// made from the Go types by `go generate ./manifests`, and the examples, one
// folder per adapter; in the folder upstream, which is not embedded, those that
// need what `make upstream` builds. It owns no code but the way to them.
package manifests

import (
	"embed"
	"io/fs"
)

//go:generate go run ./gen

//go:embed schema examples
var files embed.FS

// Schema returns the JSON Schema (2020-12) of a manifest.
func Schema() ([]byte, error) { return files.ReadFile("schema/plugin.schema.json") }

// Examples returns the examples: <adapter>/<name>.yaml and what they refer to,
// but for what `make plugins` builds.
func Examples() (fs.FS, error) { return fs.Sub(files, "examples") }
