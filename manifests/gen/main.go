// Command gen writes manifests/schema/plugin.schema.json from the Go types of the
// manifest and of all adapters. It is run by `go generate ./manifests`, or with a
// path as its argument.
package main

import (
	"fmt"
	"os"

	"github.com/patchbay-dev/patchbay/adapters"
	"github.com/patchbay-dev/patchbay/core/manifest"
)

func main() {
	path := "schema/plugin.schema.json"
	if len(os.Args) > 1 {
		path = os.Args[1]
	}
	if err := write(path); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func write(path string) error {
	schema, err := manifest.NewParser(adapters.All(adapters.Options{})...).Schema()
	if err != nil {
		return err
	}
	return os.WriteFile(path, schema, 0o644)
}
