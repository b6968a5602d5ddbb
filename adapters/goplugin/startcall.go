package goplugin

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// begin makes the calls of spec.goplugin.startCalls. What fails may work another time,
// but for an operation or an argument that the plugin does not have.
func (i *instance) begin(ctx context.Context) error {
	for n, call := range i.StartCalls {
		result, err := i.Invoke(ctx, plugin.Invocation{Operation: call.Operation, Data: call.Data, Caller: "patchbay"})
		if err == nil && call.Error != "" {
			err = reported(result.Data, call.Error)
		}
		if err != nil {
			return fmt.Errorf("spec.goplugin.startCalls[%d]: %s: %w", n, cut(call.Operation), startError(err))
		}
	}
	return nil
}

// startError makes a refusal, which is to an invocation, a start that failed.
func startError(err error) error {
	if no, ok := errors.AsType[*plugin.Refusal](err); ok {
		return fmt.Errorf("%w: %w", plugin.ErrUnavailable, errors.New(no.Error()))
	}
	if errors.Is(err, plugin.ErrNotFound) {
		return fmt.Errorf("%w: %w", plugin.ErrInvalid, err)
	}
	return err
}

// reported returns what the answer has as its error.
func reported(answer []byte, path string) error {
	text, err := pick(answer, strings.Split(path, "."))
	if err != nil {
		return fmt.Errorf("%w: the answer has no field %s: %w", plugin.ErrInvalid, path, err)
	}
	switch string(text) {
	case "", "null", `""`, "{}", "0", "false":
		return nil
	}
	return fmt.Errorf("%w: the plugin answers with the error %s", plugin.ErrUnavailable, cut(string(text)))
}
