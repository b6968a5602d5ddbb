package manifest

import (
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Limits of what a probe asks.
const (
	// patternBytesMax keeps a line's test short: RE2 takes time by the product of
	// both lengths.
	patternBytesMax = 1000
	// probePathBytesMax is what servers take for a request line at the least.
	probePathBytesMax = 2000
	// socketBytesMax and the 64 bytes of plugin.Launch.Dir fit in the address of a
	// unix socket, 107.
	socketBytesMax = 42
	// argumentsMax and argumentBytesMax are more than any check of health has.
	argumentsMax, argumentBytesMax = 64, 4096
	exitRulesMax                   = 16
)

// probes checks what spec.probe asks.
func probes(faults *plugin.Faults, p plugin.Probe) {
	question(faults, "spec.probe", p.Question)
	if p.Startup != nil {
		question(faults, "spec.probe.startup", p.Startup.Question)
	}
	if p.Liveness != nil {
		question(faults, "spec.probe.liveness", p.Liveness.Question)
		if p.Liveness.Log != nil {
			faults.Add("spec.probe.liveness.log", "is for readiness and startup: a line that was printed once says nothing of now; use http, tcp, exec or nats")
		}
	}
}

func question(faults *plugin.Faults, at string, q plugin.Question) {
	if q.Kinds() > 1 {
		faults.Add(at, "asks more than one of http, tcp, exec, log and nats; keep one of them")
	}
	if q.HTTP != nil {
		door(faults, at+".http", q.HTTP.Port, q.HTTP.Socket)
		web(faults, at+".http", q.HTTP)
	}
	if q.TCP != nil {
		door(faults, at+".tcp", q.TCP.Port, q.TCP.Socket)
	}
	if q.Exec != nil {
		command(faults, at+".exec.command", q.Exec.Command)
	}
	if q.Log != nil {
		pattern(faults, at+".log.matches", q.Log.Matches)
	}
	if q.NATS != nil {
		requestSubject(faults, at+".nats.subject", q.NATS.Subject)
	}
}

// door checks where a plugin is asked.
func door(faults *plugin.Faults, at string, port int, socket string) {
	switch {
	case port == 0 && socket == "":
		faults.Add(at, "has no port from 1 to 65535, and no socket; give the port on which the plugin answers")
	case port != 0 && socket != "":
		faults.Add(at, "has both port and socket; keep one of them")
	case port < 0 || port > 65535:
		faults.Add(at+".port", "%d is no port; write 1 to 65535", port)
	case socket != "" && !filepath.IsLocal(socket):
		faults.Add(at+".socket", "%q leads out of the instance's folder; write a path in it, such as health.sock", abbreviate(socket))
	case len(socket) > socketBytesMax:
		faults.Add(at+".socket", "has %d bytes, the most is %d: the address of a unix socket is short; shorten it", len(socket), socketBytesMax)
	}
}

func web(faults *plugin.Faults, at string, q *plugin.HTTPQuestion) {
	switch {
	case q.Path != "" && q.Path[0] != '/':
		faults.Add(at+".path", "%q does not begin with a slash; write a path such as /health", abbreviate(q.Path))
	case len(q.Path) > probePathBytesMax:
		faults.Add(at+".path", "has %d bytes, the most is %d; shorten it", len(q.Path), probePathBytesMax)
	case strings.ContainsFunc(q.Path, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' }):
		faults.Add(at+".path", "%q has what cannot stand in a request; write it percent-encoded", abbreviate(q.Path))
	}
	if q.Status != "" {
		if _, err := plugin.ParseStatuses(q.Status); err != nil {
			faults.Add(at+".status", "%s", err)
		}
	}
}

func command(faults *plugin.Faults, at string, argv []string) {
	switch {
	case len(argv) == 0 || argv[0] == "":
		faults.Add(at, "names no program; write a list such as [bin/health, --quick]")
	case len(argv) > argumentsMax:
		faults.Add(at, "has %d parts, the most is %d; put them into a script", len(argv), argumentsMax)
	}
	for i, word := range argv {
		part := at + "[" + strconv.Itoa(i) + "]"
		if strings.IndexByte(word, 0) >= 0 {
			faults.Add(part, "holds a NUL, which no command can; take it out")
		}
		if len(word) > argumentBytesMax {
			faults.Add(part, "has %d bytes, the most is %d; put it into a script", len(word), argumentBytesMax)
		}
	}
}

func pattern(faults *plugin.Faults, at, text string) {
	switch _, err := regexp.Compile(text); {
	case text == "":
		faults.Add(at, "is empty, which every line matches; write a part of the line to wait for")
	case len(text) > patternBytesMax:
		faults.Add(at, "has %d bytes, the most is %d; shorten it", len(text), patternBytesMax)
	case err != nil:
		faults.Add(at, "%s; see https://pkg.go.dev/regexp/syntax", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
}

// requestSubject keeps a probe from the bus's own levers: the daemon's connection
// may do everything there.
func requestSubject(faults *plugin.Faults, at, subject string) {
	first, _, _ := strings.Cut(subject, ".")
	switch {
	case subject == "":
		faults.Add(at, "is missing; name a subject on which the plugin answers, such as acme.health")
	case strings.HasPrefix(subject, "$"), strings.HasPrefix(subject, "_"), first == "patchbay":
		faults.Add(at, "%q is not the plugin's: subjects that begin with $, _ or patchbay. are the bus's own; name one on which the plugin itself answers",
			abbreviate(subject))
	case len(subject) > subjectBytesMax:
		faults.Add(at, "has %d bytes, the most is %d; shorten it", len(subject), subjectBytesMax)
	default:
		for token := range strings.SplitSeq(subject, ".") {
			if !tokenPattern.MatchString(token) {
				faults.Add(at, "%q is no subject to ask; write letters, digits, - and _ with dots between, and no wildcards", abbreviate(subject))
				return
			}
		}
	}
}

// exits checks the rules of spec.restart.exits.
func exits(faults *plugin.Faults, rules []plugin.ExitRule) {
	if len(rules) > exitRulesMax {
		faults.Add("spec.restart.exits", "has %d rules, the most is %d; join those with the same action", len(rules), exitRulesMax)
	}
	for i, r := range rules {
		at := "spec.restart.exits[" + strconv.Itoa(i) + "]"
		if len(r.Codes) == 0 && len(r.Signals) == 0 {
			faults.Add(at, "matches nothing; give codes or signals")
		}
		switch r.Action {
		case plugin.ExitRestart, plugin.ExitFail, plugin.ExitFinish:
		case "": // also when the decoder found another word
			faults.Add(at, "has no action that is known; write restart, fail or finish")
		default:
			faults.Add(at+".action", "%q is unknown; want one of restart, fail, finish", abbreviate(string(r.Action)))
		}
		for j, code := range r.Codes {
			if code < 0 || code > 255 {
				faults.Add(at+".codes["+strconv.Itoa(j)+"]", "%d is no exit code; write 0 to 255", code)
			}
		}
		for j, name := range r.Signals {
			if !isSignal(name) {
				faults.Add(at+".signals["+strconv.Itoa(j)+"]", "%q is no signal%s; write a name such as SIGTERM", abbreviate(name),
					didYouMean(name, strings.Fields(signals)))
			}
		}
	}
}

// signals are those of Linux that end a process.
const signals = "SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2 SIGPIPE SIGALRM SIGTERM " +
	"SIGSTKFLT SIGXCPU SIGXFSZ SIGVTALRM SIGPROF SIGIO SIGPWR SIGSYS"

func isSignal(name string) bool { return oneOf(strings.ReplaceAll(signals, " ", ","), name) }
