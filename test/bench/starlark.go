package main

import (
	"context"

	star "go.starlark.net/starlark"
	"go.starlark.net/syntax"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// stepsMost is what the adapter sets as well: a call without a limit is another
// thing.
const stepsMost = 10_000_000

// starlarkCall tells what JSON in and out, limits, and records cost beside an
// interpreter that does nothing: it has no bar.
func starlarkCall(ctx context.Context, h *harness) ([]row, error) {
	globals, err := star.ExecFileOptions(&syntax.FileOptions{}, &star.Thread{}, "noop.star", "def noop(arg):\n    return arg\n", nil)
	if err != nil {
		return nil, err
	}
	globals.Freeze()
	argument := star.NewDict(2)
	for key, value := range map[string]star.Value{"name": star.String("you"), "n": star.MakeInt(1)} {
		if err := argument.SetKey(star.String(key), value); err != nil {
			return nil, err
		}
	}
	argument.Freeze()
	args := star.Tuple{argument}
	bare := calls(callers, []int{self}, func(context.Context, int) error {
		thread := &star.Thread{}
		thread.SetMaxExecutionSteps(stepsMost)
		_, err := star.Call(thread, globals["noop"], args, nil)
		return err
	})
	o, err := h.newHouse(ctx, "starlark")
	if err != nil {
		return nil, err
	}
	defer o.end()
	if err := o.apply(ctx, noop); err != nil {
		return nil, err
	}
	in := plugin.Invocation{Plugin: "noop", Operation: "noop", Data: []byte(restBody)}
	c, err := h.compare(ctx, o.calls([]int{self}, in), bare, cpuMicros)
	if err != nil {
		return nil, err
	}
	return []row{c.row("starlark invoke cpu", "us/call", cpuMicros, bar{})}, nil
}
