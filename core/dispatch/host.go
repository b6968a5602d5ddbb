package dispatch

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// hostDepthMax bounds plugins that call plugins that call plugins: a cycle ends
// here and not in the memory of the daemon.
const hostDepthMax = 16

// eventType is what a plugin may call its events: CloudEvents asks for a
// reverse-DNS prefix but requires only a text; this keeps it one line of log.
var eventType = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?$`)

// Host is a plugin's way back into the core.
type Host struct {
	Plugin   string
	Node     string
	Dispatch *Dispatch
	Publish  func(plugin.Event)
	// Kept are the keys and values of the plugin's own.
	Kept plugin.Values
	// Ask is the bus's: it sends what a plugin asks and returns the first answer.
	Ask func(ctx context.Context, plugin, name string, data []byte) ([]byte, error)
	// Count takes one callback for the metrics.
	Count func(plugin, binding, outcome string)
}

var (
	_ plugin.Host      = Host{}
	_ plugin.Keeper    = Host{}
	_ plugin.Requester = Host{}

	_ plugin.CallbackCounter = Host{}
)

// reserved begins the types of the core's own events: who reads "state" has to be
// able to believe it.
const reserved = "dev.patchbay."

type depthKey struct{}

// Emit publishes an event of the plugin.
func (h Host) Emit(_ context.Context, e plugin.Event) error {
	switch {
	case !eventType.MatchString(e.Type):
		return fmt.Errorf("%w: event type %q: want 1 to 128 letters, digits, '.', '_', '-' or '/'", plugin.ErrInvalid, e.Type)
	case strings.HasPrefix(e.Type, reserved):
		return fmt.Errorf("%w: event type %q: %s is for Patchbay's own; use a prefix of yours", plugin.ErrInvalid, e.Type, reserved)
	case len(e.Data) > plugin.EventDataBytesMax:
		return fmt.Errorf("%w: event data has %d bytes, at most %d are allowed", plugin.ErrInvalid, len(e.Data), plugin.EventDataBytesMax)
	case len(e.Data) > 0 && !json.Valid(e.Data):
		return fmt.Errorf("%w: event data is not JSON", plugin.ErrInvalid)
	}
	h.Publish(Event(h.Node, h.Plugin, e.Type, e.Data))
	return nil
}

// Event makes an event about a plugin, with a fresh id.
func Event(node, name, eventType string, data plugin.RawJSON) plugin.Event {
	return plugin.Event{
		ID: uuid.Must(uuid.NewV7()).String(), Source: "/patchbay/" + node + "/plugins/" + name, Type: eventType, Subject: name,
		Time: time.Now(), Plugin: name, ContentType: "application/json", Data: data,
	}
}

// Invoke calls another plugin for this one.
func (h Host) Invoke(ctx context.Context, in plugin.Invocation) (plugin.Result, error) {
	depth, _ := ctx.Value(depthKey{}).(int)
	if depth >= hostDepthMax {
		return plugin.Result{}, fmt.Errorf("%w: plugins call each other %d deep", plugin.ErrBusy, depth)
	}
	in.Caller = "plugin:" + h.Plugin
	return h.Dispatch.Invoke(context.WithValue(ctx, depthKey{}, depth+1), in)
}

// Values are the plugin's own.
func (h Host) Values() plugin.Values { return h.Kept }

// Request asks whoever listens on the bus.
func (h Host) Request(ctx context.Context, name string, data []byte) ([]byte, error) {
	return h.Ask(ctx, h.Plugin, name, data)
}

// Called counts one callback.
func (h Host) Called(binding, outcome string) { h.Count(h.Plugin, binding, outcome) }

// Permit denies: this daemon has no grants yet, and nothing is allowed by
// default.
func (h Host) Permit(_ context.Context, ask plugin.Ask) error {
	return fmt.Errorf("%w: %s may not %s %s: this daemon knows no grants", plugin.ErrDenied, h.Plugin, ask.Verb, ask.Object)
}
