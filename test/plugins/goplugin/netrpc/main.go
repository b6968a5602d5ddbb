// Command netrpc is the tiny go-plugin plugin that speaks net/rpc.
package main

import (
	"errors"
	"net/rpc"
	"time"

	"github.com/hashicorp/go-plugin"

	"github.com/patchbay-dev/patchbay/test/plugins/goplugin/tiny"
	"github.com/patchbay-dev/patchbay/test/plugins/habit"
)

// Text is the argument and answer of most operations.
type Text struct{ Text string }

// Code is the argument of Exit.
type Code struct{ Code int }

// Wait is the argument of Slow.
type Wait struct{ Milliseconds int64 }

// Odd is an answer that net/rpc cannot send: gob does not know the error's type.
type Odd struct{ Err error }

type unregistered struct{ Why string }

func (u unregistered) Error() string { return u.Why }

// Service is what is dispensed.
type Service struct{}

// Echo answers its argument.
func (Service) Echo(in Text, out *Text) error { *out = in; return nil }

// Refuse refuses with the message given.
func (Service) Refuse(in Text, _ *Text) error { return errors.New(in.Text) }

// Exit ends the process with the code given.
func (Service) Exit(in Code, _ *Text) error { tiny.Exit(in.Code); return nil }

// Print prints the text to stdout.
func (Service) Print(in Text, _ *Text) error { tiny.Print(in.Text); return nil }

// Slow answers after the time given.
func (Service) Slow(in Wait, _ *Text) error {
	time.Sleep(tiny.Pause(in.Milliseconds))
	return nil
}

// Odd answers with an error inside its answer, which breaks the stream.
func (Service) Odd(in Text, out *Odd) error { out.Err = unregistered{in.Text}; return nil }

type dispenser struct{}

func (dispenser) Server(*plugin.MuxBroker) (any, error) { return Service{}, nil }

func (dispenser) Client(*plugin.MuxBroker, *rpc.Client) (any, error) {
	return nil, errors.New("this side only serves")
}

func main() {
	habit.Begin()
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: tiny.Handshake(),
		Plugins:         plugin.PluginSet{tiny.Name: dispenser{}},
	})
}
