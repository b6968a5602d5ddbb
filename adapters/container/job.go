package container

import (
	"context"
	"fmt"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// job is a container whose exit is the result.
type job struct{ *instance }

var _ plugin.Instance = job{}

// Invoke finds nothing: a job is invoked by launching it.
func (j job) Invoke(_ context.Context, in plugin.Invocation) (plugin.Result, error) {
	return plugin.Result{}, fmt.Errorf("operation %q: %w: a job has no operations of its own", in.Operation, plugin.ErrNotFound)
}
