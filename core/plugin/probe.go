package plugin

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Probe is how a service is asked whether it works. Its own fields are of
// readiness: failing makes it degraded, passing makes it running again; calls
// still go through.
type Probe struct {
	Interval  Duration `json:"interval,omitempty" doc:"Between two probes (default 10s)."`
	Timeout   Duration `json:"timeout,omitempty" doc:"For one answer (default 1s)."`
	Failures  int      `json:"failures,omitempty" doc:"Failures in a row that make the plugin degraded (default 3)." min:"1" max:"1000"`
	Successes int      `json:"successes,omitempty" doc:"Answers in a row that make a degraded plugin running again (default 1)." min:"1" max:"1000"`
	Question
	Startup  *StartupProbe  `json:"startup,omitempty" doc:"Until this has passed once the plugin is starting; bounded by timeouts.start. Without it the adapter's own handshake is enough."`
	Liveness *LivenessProbe `json:"liveness,omitempty" doc:"Failing kills the instance and starts it again. Off when left out."`
}

// StartupProbe is what a plugin must answer once to be running.
type StartupProbe struct {
	Interval Duration `json:"interval,omitempty" doc:"Between two probes (default 250ms)."`
	Timeout  Duration `json:"timeout,omitempty" doc:"For one answer (default 1s)."`
	Question
}

// LivenessProbe is what a plugin must answer to be left alive.
type LivenessProbe struct {
	Interval Duration `json:"interval,omitempty" doc:"Between two probes (default 10s)."`
	Timeout  Duration `json:"timeout,omitempty" doc:"For one answer (default 1s)."`
	Failures int      `json:"failures,omitempty" doc:"Failures in a row after which it is killed and started again (default 3)." min:"1" max:"1000"`
	Question
}

// Question is what a probe asks: at most one of these. None is the adapter's own
// sign of life.
type Question struct {
	HTTP *HTTPQuestion `json:"http,omitempty" doc:"A GET that must be answered with one of the statuses. Redirects are not followed."`
	TCP  *TCPQuestion  `json:"tcp,omitempty" doc:"A connection that must be accepted."`
	Exec *ExecQuestion `json:"exec,omitempty" doc:"A command that must exit with 0, run as the plugin is: in its container, or on the machine with its environment and folder."`
	Log  *LogQuestion  `json:"log,omitempty" doc:"A line that the instance must have printed since its start. Not for liveness."`
	NATS *NATSQuestion `json:"nats,omitempty" doc:"A request on the bus that must be answered without an error."`
}

// HTTPQuestion is a GET.
type HTTPQuestion struct {
	Port   int    `json:"port,omitempty" doc:"The plugin's port: on 127.0.0.1, or in its container." min:"1" max:"65535"`
	Socket string `json:"socket,omitempty" doc:"Instead of port: a unix socket, relative to the instance's folder. Not for containers."`
	Path   string `json:"path,omitempty" doc:"What to ask for, beginning with a slash (default /)."`
	Status string `json:"status,omitempty" doc:"Statuses that pass: numbers and ranges with commas between (default 200-399)."`
}

// TCPQuestion is a connection.
type TCPQuestion struct {
	Port   int    `json:"port,omitempty" doc:"The plugin's port: on 127.0.0.1, or in its container." min:"1" max:"65535"`
	Socket string `json:"socket,omitempty" doc:"Instead of port: a unix socket, relative to the instance's folder. Not for containers."`
}

// ExecQuestion is a command.
type ExecQuestion struct {
	Command []string `json:"command" doc:"Program and arguments, never a shell. On the machine a name without a slash is looked for in the plugin's PATH, another one starts from the manifest's folder."`
}

// LogQuestion is a line.
type LogQuestion struct {
	Matches string `json:"matches" doc:"Regular expression (RE2) for a line's message, as patchbay logs shows it."`
}

// NATSQuestion is a request.
type NATSQuestion struct {
	Subject string `json:"subject" doc:"Subject on which the plugin itself answers; no wildcards, none of Patchbay's own and none that begin with $ or _."`
}

// Kind is the word for what is asked: http, tcp, exec, log, nats or adapter.
func (q Question) Kind() string {
	switch {
	case q.HTTP != nil:
		return "http"
	case q.TCP != nil:
		return "tcp"
	case q.Exec != nil:
		return "exec"
	case q.Log != nil:
		return "log"
	case q.NATS != nil:
		return "nats"
	}
	return "adapter"
}

// Kinds counts what q asks; more than one is a fault.
func (q Question) Kinds() int {
	n := 0
	for _, asked := range [...]bool{q.HTTP != nil, q.TCP != nil, q.Exec != nil, q.Log != nil, q.NATS != nil} {
		if asked {
			n++
		}
	}
	return n
}

// withDefaults leaves what p points to alone: manifests are shared.
func (p Probe) withDefaults() Probe {
	orDefault(&p.Interval, Duration(10*time.Second))
	orDefault(&p.Timeout, Duration(time.Second))
	orDefault(&p.Failures, 3)
	orDefault(&p.Successes, 1)
	p.Question = p.Question.withDefaults()
	if p.Startup != nil {
		s := *p.Startup
		orDefault(&s.Interval, Duration(250*time.Millisecond))
		orDefault(&s.Timeout, Duration(time.Second))
		s.Question = s.Question.withDefaults()
		p.Startup = &s
	}
	if p.Liveness != nil {
		l := *p.Liveness
		orDefault(&l.Interval, Duration(10*time.Second))
		orDefault(&l.Timeout, Duration(time.Second))
		orDefault(&l.Failures, 3)
		l.Question = l.Question.withDefaults()
		p.Liveness = &l
	}
	return p
}

func (q Question) withDefaults() Question {
	if q.HTTP != nil {
		h := *q.HTTP
		orDefault(&h.Path, "/")
		orDefault(&h.Status, "200-399")
		q.HTTP = &h
	}
	return q
}

// ExitAction is what an exit leads to.
type ExitAction string

// The exit actions.
const (
	ExitRestart ExitAction = "restart" // as a failure: backoff and budget
	ExitFail    ExitAction = "fail"    // failed, at once
	ExitFinish  ExitAction = "finish"  // finished: it was a success
)

// ExitRule says what some exits of a service mean.
type ExitRule struct {
	Codes   []int      `json:"codes,omitempty" doc:"Exit codes, 0 to 255." min:"0" max:"255"`
	Signals []string   `json:"signals,omitempty" doc:"Signals that ended it, such as SIGTERM."`
	Action  ExitAction `json:"action" doc:"restart: a failure, tried again. fail: failed, not tried again. finish: finished, a success." enum:"restart,fail,finish"`
}

// Matches reports whether the rule is for this exit. One for which memory ran out
// is no rule's: what killed it was not the plugin's own idea.
func (r ExitRule) Matches(e Exit) bool {
	if e.OOM {
		return false
	}
	for _, s := range r.Signals {
		if s == e.Signal {
			return true
		}
	}
	if e.Code < 0 {
		return false
	}
	for _, c := range r.Codes {
		if c == e.Code {
			return true
		}
	}
	return false
}

// Statuses is a set of HTTP statuses.
type Statuses []struct{ least, most int }

// statusesMax is how many numbers and ranges one set may have: all there are
// take far fewer.
const statusesMax = 32

// ParseStatuses reads numbers and ranges with commas between: "200-299,304".
func ParseStatuses(text string) (Statuses, error) {
	var all Statuses
	for part := range strings.SplitSeq(text, ",") {
		low, high, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			high = low
		}
		least, err1 := strconv.Atoi(low)
		most, err2 := strconv.Atoi(high)
		switch {
		case err1 != nil || err2 != nil || least < 100 || most > 599 || least > most:
			return nil, fmt.Errorf("%.20q is no HTTP status or range of them; write numbers from 100 to 599, such as 200-299,304", part)
		case len(all) == statusesMax:
			return nil, fmt.Errorf("has more than %d parts; join them", statusesMax)
		}
		all = append(all, struct{ least, most int }{least, most})
	}
	return all, nil
}

// Has reports whether a status is in the set.
func (s Statuses) Has(status int) bool {
	for _, r := range s {
		if status >= r.least && status <= r.most {
			return true
		}
	}
	return false
}
