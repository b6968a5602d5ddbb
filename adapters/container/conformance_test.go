package container_test

import (
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// engineSlack is what an engine adds to a kill: it tears the network down before
// it reports an exit, 50 ms on a quiet machine, several times that on a busy one.
const engineSlack = time.Second

func TestConformance(t *testing.T) {
	const operations = `, "operations": [{"name": "slow"}, {"name": "echo"}, {"name": "refuse"}, {"name": "exit"}, {"name": "print"}]`
	conformance.Run(t, conformance.Fixture{
		Adapter:  newAdapter(t),
		Manifest: func(testing.TB) plugin.Manifest { return manifestOf(plugin.Service, serviceBlock(operations)) },
		Echo:     conformance.Call{Operation: "echo", Data: `{"n": @N@}`, Want: `{"n": @N@}`},
		Refuse:   conformance.Call{Operation: "refuse", Data: `{"message": "not today"}`, WantMessage: "not today"},
		Exit:     &conformance.Call{Operation: "exit", Data: `{"code": 3}`, WantCode: 3},
		Slow:     conformance.Call{Operation: "slow", Data: `{"ms": 60000}`},
		Print:    conformance.Call{Operation: "print", Data: `{"text": "line @N@"}`, Want: "line @N@"},
		Process:  true, Limits: true, Jobs: true, Slack: engineSlack,
	})
}
