// Command shapes is a go-plugin plugin that speaks net/rpc with arguments and
// answers of many shapes, and fails in the ways that net/rpc has.
package main

import (
	"encoding/gob"
	"errors"
	"net/rpc"

	"github.com/hashicorp/go-plugin"

	"github.com/patchbay-dev/patchbay/test/plugins/goplugin/tiny"
	"github.com/patchbay-dev/patchbay/test/plugins/habit"
)

// served gives a new object for each dispense, as go-plugin's own examples do;
// what they share is in it.
type served struct{ object func() any }

func (s served) Server(*plugin.MuxBroker) (any, error) { return s.object(), nil }

func (served) Client(*plugin.MuxBroker, *rpc.Client) (any, error) {
	return nil, errors.New("this side only serves")
}

func main() {
	habit.Begin()
	gob.Register(Circle{})
	gob.Register(&Square{})
	gob.Register(Registered{})
	var state state
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: tiny.Handshake(),
		Plugins: plugin.PluginSet{
			"shapes": served{func() any { return &Service{state: &state} }},
			"other":  served{func() any { return Other{} }},
		},
	})
}
