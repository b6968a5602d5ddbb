package portable

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/portable/sp"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// goBytesMax is what the Go SDK takes in one message: 1 MiB with its request
	// id. More makes it drop the connection without a word.
	goBytesMax = 1<<20 - 4
	// envelopeBytes is what may stand around a result or a tuple's message.
	envelopeBytes = 64 << 10
	// redialGrace is how long a lost function connection may take to come back by
	// itself: the Go SDK redials after 100 ms.
	redialGrace = time.Second
	// restartPause is between two attempts to start a lost function again.
	restartPause = 5 * time.Second
)

// A function is one operation of the plugin.
type function struct {
	name    string
	link    *link
	context []byte // the last argument of every call, with a comma before it
	most    int    // the longest call that the plugin takes
}

func newFunction(name string, number int, spec Spec, l *link) *function {
	f := &function{name: name, link: l, most: math.MaxInt}
	if spec.Language == languageGo {
		f.most = goBytesMax
	}
	// The plugin's author sees these; the SDKs insist on all four.
	text, _ := json.Marshal(fmt.Sprintf(`{"ruleId":%q,"opId":%q,"instanceId":0,"funcId":%d}`, ruleID, name, number))
	f.context = text
	return f
}

// invoke calls the function with the arguments in data.
func (f *function) invoke(ctx context.Context, data []byte) (plugin.Result, error) {
	body, err := f.encode(data)
	if err != nil {
		return plugin.Result{}, fmt.Errorf("%s: %w", f.name, err)
	}
	answer, err := f.link.call(ctx, body)
	var large *sp.TooLargeError
	if errors.As(err, &large) {
		return plugin.Result{}, fmt.Errorf("%s: %w: its answer: %w", f.name, plugin.ErrUnavailable, err)
	}
	if err != nil {
		return plugin.Result{}, err
	}
	result, err := decodeAnswer(answer)
	var refusal *plugin.Refusal
	if err != nil && !errors.As(err, &refusal) {
		err = fmt.Errorf("%s: %w", f.name, err)
	}
	return plugin.Result{Data: result}, err
}

// encode writes {"func":"Exec","arg":[ARGUMENTS...,CONTEXT]}.
func (f *function) encode(data []byte) ([]byte, error) {
	data = bytes.TrimSpace(data)
	if len(data) > 0 && !json.Valid(data) {
		return nil, fmt.Errorf("%w: the arguments are not JSON", plugin.ErrInvalid)
	}
	if len(data) > 0 && data[0] == '[' {
		data = bytes.TrimSpace(data[1 : len(data)-1])
	}
	const head, tail = `{"func":"Exec","arg":[`, `]}`
	body := make([]byte, 0, len(head)+len(data)+1+len(f.context)+len(tail))
	body = append(body, head...)
	if len(data) > 0 {
		body = append(append(body, data...), ',')
	}
	body = append(append(body, f.context...), tail...)
	if len(body) > f.most {
		return nil, fmt.Errorf("%w: %d bytes of arguments: a Go plugin takes at most 1 MiB in one call, with its envelope",
			plugin.ErrInvalid, len(data))
	}
	return body, nil
}

// decodeAnswer reads {"state":true,"result":...}, and the refusal that state:false is.
func decodeAnswer(answer []byte) ([]byte, error) {
	var a struct {
		State  *bool          `json:"state"`
		Result plugin.RawJSON `json:"result"`
	}
	if len(answer) == 0 {
		return nil, fmt.Errorf("%w: the answer is empty: the plugin could not write its result as JSON", plugin.ErrUnavailable)
	}
	if err := json.Unmarshal(answer, &a); err != nil || a.State == nil {
		return nil, fmt.Errorf("%w: the answer is not {\"state\":...,\"result\":...}: %.100q", plugin.ErrUnavailable, answer)
	}
	if len(a.Result) == 0 {
		a.Result = plugin.RawJSON("null")
	}
	if *a.State {
		return a.Result, nil
	}
	return nil, refusal(a.Result)
}

// refusal makes the plugin's text the message; whatever is more than one line is
// in the details.
func refusal(result plugin.RawJSON) *plugin.Refusal {
	var text string
	if json.Unmarshal(result, &text) != nil || string(result) == "null" {
		return &plugin.Refusal{Message: "the function failed", Details: result}
	}
	r := &plugin.Refusal{Message: lastLine(text)}
	if r.Message != text {
		r.Details = result
	}
	return r
}

// isAggregate is a question that every function answers and that changes
// nothing.
const isAggregate = `{"func":"IsAggregate","arg":null}`

// probe asks the function for a sign of life, unless it is in a call.
func (f *function) probe(ctx context.Context) error {
	if err := f.link.health(); err != nil {
		return err
	}
	_, err := f.link.tryCall(ctx, []byte(isAggregate))
	return err
}

// startFunction listens, starts the function and keeps it connected.
func (i *instance) startFunction(ctx context.Context, f *function) error {
	if err := i.serveFunction(f); err != nil {
		return err
	}
	if err := i.command(ctx, "start", symbol{kind: kindFunction, name: f.name}); err != nil {
		return err
	}
	if err := f.link.await(ctx); err != nil {
		return err
	}
	return i.keepInTouch(f)
}

func (i *instance) serveFunction(f *function) error {
	_, err := i.serve(functionSocket(f.name), f.link.handler(int(i.manifest.Spec.Limits.Payload)+envelopeBytes))
	return err
}

// keepInTouch keeps a function connected until the end.
func (i *instance) keepInTouch(f *function) error {
	if !i.enter() {
		return errEnded
	}
	go func() { // ends with the instance's life; bury waits
		defer i.group.Done()
		i.keepFunction(i.life, f)
	}()
	return nil
}

// keepFunction starts f again when its connection is lost and does not come back
// by itself: the Go SDK closes a function for good when it could not send, and
// opens it again upon a start. Until it is back the probe fails.
func (i *instance) keepFunction(ctx context.Context, f *function) {
	for f.link.lost(ctx) {
		if f.awaitFor(ctx, redialGrace) == nil {
			continue
		}
		i.log.Warn("the function's connection is lost; starting it again", "function", f.name)
		if err := i.command(ctx, "start", symbol{kind: kindFunction, name: f.name}); err != nil && ctx.Err() == nil {
			i.log.Error("the function does not start again", "function", f.name, "error", err.Error())
		}
		_ = f.awaitFor(ctx, restartPause) // its absence is what lost finds next
	}
}

func (f *function) awaitFor(ctx context.Context, most time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	return f.link.await(ctx)
}
