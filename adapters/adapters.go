// Package adapters is the list of what this build can run: one line per adapter.
// It owns nothing; the adapters know neither each other nor the core beyond
// core/plugin and core/manifest.
package adapters

import (
	"path/filepath"

	"github.com/patchbay-dev/patchbay/adapters/container"
	"github.com/patchbay-dev/patchbay/adapters/goplugin"
	"github.com/patchbay-dev/patchbay/adapters/goplugin/reva"
	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/adapters/portable"
	"github.com/patchbay-dev/patchbay/adapters/provider"
	"github.com/patchbay-dev/patchbay/adapters/starlark"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Options is what adapters are told of the daemon.
type Options struct {
	// Node names the daemon; containers carry it as a label, processes in their mark.
	Node string
	// Dir is a folder that adapters may keep something in, each below its name; "" is
	// none.
	Dir string
	// AllowSource lists from where adapters may download what they build.
	AllowSource []string
	// DockerHost is the engine's address; empty: DOCKER_HOST, else the default.
	DockerHost string
}

// All returns every adapter. A sixth one is a line here and a folder beside.
func All(o Options) []plugin.Adapter {
	return []plugin.Adapter{
		container.New(container.Options{Node: o.Node, Host: o.DockerHost}),
		goplugin.New(goplugin.Options{Node: o.Node, Dir: below(o.Dir, "goplugin"), AllowSource: o.AllowSource}),
		portable.New(portable.Options{Node: o.Node}),
		provider.New(provider.Options{Node: o.Node}),
		starlark.New(),
	}
}

// Imports are the readers of other hosts' configurations, by the host's name: text of
// a file in folder in, manifests out, with notes on what is not as it was. A fault of
// the text is [plugin.ErrInvalid].
func Imports() map[string]func(text []byte, folder string) (manifests []any, notes []string, err error) {
	return map[string]func([]byte, string) ([]any, []string, error){
		"reva": func(text []byte, folder string) (manifests []any, notes []string, err error) {
			found, notes, err := reva.Import(text, folder)
			for _, m := range found {
				manifests = append(manifests, m)
			}
			return manifests, notes, err
		},
	}
}

// below leaves an adapter without a folder where there is none for all.
func below(dir, name string) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, name)
}

// ByName makes each adapter found by its name.
func ByName(all []plugin.Adapter) map[string]plugin.Adapter {
	found := map[string]plugin.Adapter{}
	for _, a := range all {
		found[a.Name()] = a
	}
	return found
}

// Child must be the first statement of main, and of TestMain where plugins are
// started: in a process that an adapter made to start a plugin it becomes that
// plugin and does not return.
func Child() { proc.Child() }
