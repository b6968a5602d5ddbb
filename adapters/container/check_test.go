package container_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/adapters/container"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		name, block string
		mode        plugin.Mode
		change      func(*plugin.Spec)
		want        []string // path: part of the detail; none means right
	}{
		{"least service", `{"image": "a", "port": 80}`, plugin.Service, nil, nil},
		{"least job", `{"image": "a"}`, plugin.Job, nil, nil},
		{"image by digest", `{"image": "a/b:1@sha256:` + strings.Repeat("a", 64) + `"}`, plugin.Job, nil, nil},
		{"image by id", `{"image": "` + strings.Repeat("a", 64) + `", "pull": "never"}`, plugin.Job, nil, nil},
		{"everything at once", `{"image": "Not An Image", "workDir": "x", "user": "a b", "network": "a/b", "stopSignal": "SIGNOT", "tmpfs": ["tmp"], "capDrop": ["net raw"], "health": "h", "invoke": {"path": "/x"}}`, plugin.Service, nil, []string{
			`spec.container.image: "Not An Image" is no image name`, "spec.container.workDir: ", "spec.container.user: ", "spec.container.network: ",
			"spec.container.stopSignal: ", "spec.container.tmpfs[0]: ", "spec.container.capDrop[0]: ", "spec.container.health: ",
			`spec.container.invoke.path: "/x" lacks {operation}`, "spec.container.port: is missing"}},
		{"job with what is a service's", `{"image": "a", "port": 80, "health": "/", "operations": [{"name": "x"}], "invoke": {"path": "/x/{operation}"}}`, plugin.Job, nil, []string{
			"spec.container.port: is for a service", "spec.container.health: ", "spec.container.operations: ", "spec.container.invoke: "}},
		{"service without a network", `{"image": "a", "port": 80, "network": "none"}`, plugin.Service, nil, []string{"spec.container.network: none cannot publish"}},
		{"operation names", `{"image": "a", "port": 80, "operations": [{"name": "a/b"}, {"name": "c"}, {"name": "c"}]}`, plugin.Service, nil, []string{
			`spec.container.operations[0].name: "a/b" is no operation name`, `spec.container.operations[2].name: "c" is there twice`}},
		{"pull policy", `{"image": "a", "pull": "sometimes"}`, plugin.Job, nil, []string{"spec.container.pull: "}},
		{"pull an id", `{"image": "` + strings.Repeat("a", 64) + `", "pull": "always"}`, plugin.Job, nil, []string{"spec.container.pull: an image id cannot be pulled"}},
		{"streams", `{"image": "a", "port": 80}`, plugin.Service, func(s *plugin.Spec) { s.Streams = []plugin.Stream{{Source: "x", Publish: "y"}} }, []string{"spec.streams: not supported"}},
		{"probes of the port", `{"image": "a", "port": 80}`, plugin.Service, func(s *plugin.Spec) {
			s.Probe = plugin.Probe{Question: plugin.Question{HTTP: &plugin.HTTPQuestion{Port: 80}}, Startup: &plugin.StartupProbe{Question: plugin.Question{Exec: &plugin.ExecQuestion{Command: []string{"up"}}}}}
		}, nil},
		{"probes that cannot be", `{"image": "a", "port": 80}`, plugin.Service, func(s *plugin.Spec) {
			s.Probe = plugin.Probe{Question: plugin.Question{HTTP: &plugin.HTTPQuestion{Port: 81}}, Liveness: &plugin.LivenessProbe{Question: plugin.Question{TCP: &plugin.TCPQuestion{Socket: "s"}}}}
		}, []string{"spec.probe.http.port: 81 is not published", "spec.probe.liveness.tcp.socket: a socket in the container"}},
		{"too little memory", `{"image": "a"}`, plugin.Job, func(s *plugin.Spec) { s.Limits.Memory = 1 << 20 }, []string{"spec.limits.memory: "}},
		{"variable too long", `{"image": "a"}`, plugin.Job, func(s *plugin.Spec) {
			s.Env = map[string]plugin.EnvValue{"BIG": {Value: strings.Repeat("x", 128<<10)}}
		}, []string{"spec.env.BIG: is larger than 131071 bytes"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := manifestOf(tt.mode, tt.block)
			if tt.change != nil {
				tt.change(&m.Spec)
			}
			err := container.New(container.Options{}).Check(m)
			var faults plugin.Faults
			if err != nil && !errors.As(err, &faults) {
				t.Fatalf("got %v, want plugin.Faults", err)
			}
			if len(faults) != len(tt.want) {
				t.Errorf("got %d faults, want %d:\n%v", len(faults), len(tt.want), err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q in it", err, want)
				}
			}
		})
	}
}
