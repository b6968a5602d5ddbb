package manifest_test

import (
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestProbes_faults(t *testing.T) {
	for _, tt := range []struct{ name, spec, want string }{
		{"two questions", `probe: {tcp: {port: 1}, http: {port: 1}}`, `spec.probe: asks more than one of http, tcp, exec, log and nats`},
		{"no door", `probe: {http: {path: /}}`, `m:6:11: spec.probe.http: has no port from 1 to 65535, and no socket`},
		{"two doors", `probe: {startup: {tcp: {port: 1, socket: a}}}`, `spec.probe.startup.tcp: has both port and socket`},
		{"port", `probe: {tcp: {port: 70000}}`, `spec.probe.tcp.port: 70000 is too large`},
		{"socket climbs", `probe: {tcp: {socket: ../x}}`, `m:6:25: spec.probe.tcp.socket: "../x" leads out of the instance's folder`},
		{"socket of the machine", `probe: {http: {socket: /run/docker.sock}}`, `leads out of the instance's folder`},
		{"long socket", `probe: {tcp: {socket: ` + strings.Repeat("a", 43) + `}}`, `has 43 bytes, the most is 42`},
		{"path", `probe: {http: {port: 1, path: health}}`, `"health" does not begin with a slash; write a path such as /health`},
		{"path with a space", `probe: {http: {port: 1, path: "/a b"}}`, `write it percent-encoded`},
		{"status", `probe: {http: {port: 1, status: "299-200"}}`, `spec.probe.http.status: "299-200" is no HTTP status`},
		{"no command", `probe: {exec: {command: []}}`, `spec.probe.exec.command: names no program`},
		{"command missing", `probe: {exec: {}}`, `spec.probe.exec.command: names no program`},
		{"NUL", `probe: {exec: {command: ["a\0"]}}`, `spec.probe.exec.command[0]: holds a NUL`},
		{"pattern", `probe: {log: {matches: "("}}`, `spec.probe.log.matches: missing closing )`},
		{"empty pattern", `probe: {log: {matches: ""}}`, `is empty, which every line matches`},
		{"log for liveness", `probe: {liveness: {log: {matches: x}}}`, `spec.probe.liveness.log: is for readiness and startup`},
		{"wildcard", `probe: {nats: {subject: a.*}}`, `"a.*" is no subject to ask`},
		{"the bus's own", `probe: {nats: {subject: $JS.API.STREAM.DELETE.PATCHBAY_EVENTS}}`, `subjects that begin with $, _ or patchbay. are the bus's own`},
		{"Patchbay's own", `probe: {nats: {subject: patchbay.v1.invoke.a.b}}`, `are the bus's own`},
		{"startup counts", `probe: {startup: {failures: 3}}`, `spec.probe.startup.failures: unknown field`},
		{"successes", `probe: {successes: 1001}`, `spec.probe.successes: 1001 is too large`},
		{"rule of nothing", `restart: {exits: [{action: fail}]}`, `m:6:21: spec.restart.exits[0]: matches nothing; give codes or signals`},
		{"rule without action", `restart: {exits: [{codes: [1]}]}`, `spec.restart.exits[0]: has no action`},
		{"action", `restart: {exits: [{codes: [1], action: stop}]}`, `"stop" is unknown`},
		{"code", `restart: {exits: [{codes: [256], action: fail}]}`, `spec.restart.exits[0].codes[0]: 256 is too large`},
		{"signal", `restart: {exits: [{signals: [SIGTRM], action: fail}]}`, `spec.restart.exits[0].signals[0]: "SIGTRM" is no signal; did you mean "SIGTERM"?`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parser().Parse("m", []byte(with(cmdLine+"  "+tt.spec+"\n")))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s\n got %v\nwant %s", tt.spec, err, tt.want)
			}
		})
	}
}

func TestProbes_whole(t *testing.T) {
	text := with(cmdLine + `  probe:
    successes: 2
    http: {socket: run/health.sock, path: "/ok?q=1", status: "200,300-302"}
    startup: {log: {matches: "listening on \\d+"}}
    liveness: {interval: 3s, exec: {command: [bin/alive, --now]}}
  restart:
    backoff: {reset: 1m}
    exits: [{codes: [0, 75], action: restart}, {signals: [SIGTERM], action: finish}]
`)
	all, err := parser().Parse("m", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	p := all[0].WithDefaults().Spec.Probe
	if p.Liveness.Failures != 3 || p.Startup.Interval.Std().Milliseconds() != 250 || p.Kind() != "http" || p.Startup.Kind() != "log" {
		t.Errorf("got %+v, want the defaults in all three", p)
	}
	if all[0].Spec.Probe.Liveness.Failures != 0 {
		t.Error("writing defaults in has changed the manifest that they were written from")
	}
}

func TestCheck_probesOfDecodedManifests(t *testing.T) {
	m := plugin.Manifest{APIVersion: plugin.APIVersion, Kind: plugin.Kind, Metadata: plugin.Metadata{Name: "a"},
		Spec: plugin.Spec{Adapter: "toy", Block: plugin.RawJSON(`{"command":["x"]}`), Probe: plugin.Probe{
			Liveness: &plugin.LivenessProbe{Failures: 5000}, Question: plugin.Question{TCP: &plugin.TCPQuestion{Port: 70000}}}}}
	err := parser().Check(m)
	for _, want := range []string{`spec.probe.liveness.failures: 5000 is too large`, `spec.probe.tcp.port: 70000 is`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
