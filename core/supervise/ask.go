package supervise

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// probeHeadersMax bounds an answer's headers; its body is not read. Servers send
	// less than 8 KiB.
	probeHeadersMax = 64 << 10
	// quoteMax is what a sentence keeps of a command's output.
	quoteMax = 200
	loopback = "127.0.0.1"
)

// asker puts one question to one instance, again and again, and never twice at
// the same time. It is for one goroutine; close it.
type asker struct {
	plugin *Plugin
	one    *living

	question plugin.Question
	statuses plugin.Statuses // of an HTTP question
	seen     func() bool     // of a log question
	stop     func()          // ends the search of a log question
	fault    error           // the question cannot be asked at all
	asked    *call
}

// ask returns nil when the answer is good and comes in time. A question that hangs
// is a failure each time, and no second one is begun beside it.
func (a *asker) ask(ctx context.Context, q plugin.Question, timeout time.Duration) error {
	if !reflect.DeepEqual(q, a.question) {
		a.take(q)
	}
	if a.fault != nil {
		return a.fault
	}
	ctx, end := context.WithTimeout(ctx, timeout)
	defer end()
	if a.asked == nil || a.asked.over() {
		put := a.asking(q)
		a.asked = a.plugin.begin("probe", func() error { return put(ctx) })
	}
	return a.asked.wait(ctx, probeOvertime)
}

// take prepares a question. What it says was checked when it was applied.
func (a *asker) take(q plugin.Question) {
	a.close()
	a.question, a.fault = q, nil
	switch {
	case q.HTTP != nil:
		a.statuses, a.fault = plugin.ParseStatuses(q.HTTP.Status)
	case q.Log != nil && a.one.adopted:
		a.seen = func() bool { return true } // it was running: its line may be older than what memory has
	case q.Log != nil:
		pattern, err := regexp.Compile(q.Log.Matches)
		if err != nil {
			a.fault = fmt.Errorf("log: %w: %w", plugin.ErrInvalid, err)
			return
		}
		a.seen, a.stop = a.one.log.Match(pattern)
	}
}

// close ends what a question keeps.
func (a *asker) close() {
	if a.stop != nil {
		a.stop()
	}
	a.seen, a.stop = nil, nil
}

// asking returns how q is asked; it may outlive the asker's next question.
func (a *asker) asking(q plugin.Question) func(context.Context) error {
	switch {
	case q.HTTP != nil:
		statuses := a.statuses
		return func(ctx context.Context) error { return a.one.askHTTP(ctx, q.HTTP, statuses) }
	case q.TCP != nil:
		return func(ctx context.Context) error { return a.one.askTCP(ctx, q.TCP) }
	case q.Exec != nil:
		return func(ctx context.Context) error { return a.one.askExec(ctx, q.Exec) }
	case q.Log != nil:
		seen := a.seen
		return func(context.Context) error { return logged(seen, q.Log) }
	case q.NATS != nil:
		return func(ctx context.Context) error { return a.plugin.askBus(ctx, q.NATS) }
	}
	if prober, ok := a.one.instance.(plugin.Prober); ok {
		return prober.Probe
	}
	return func(context.Context) error { return nil } // it has no sign of life: its process is all there is
}

// askHTTP sends one GET on a connection of its own. Redirects are answers.
func (one *living) askHTTP(ctx context.Context, q *plugin.HTTPQuestion, statuses plugin.Statuses) error {
	network, address, err := one.door(q.Port, q.Socket)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host(network, address)+q.Path, nil)
	if err != nil {
		return fmt.Errorf("http: %w: %w", plugin.ErrInvalid, err)
	}
	request.Header.Set("User-Agent", "patchbay-probe")
	transport := &http.Transport{ // and no proxy, whatever the environment says
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: probeHeadersMax,
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("http %s%s: %w: %w", address, q.Path, plugin.ErrUnavailable, err)
	}
	_ = response.Body.Close() // and with it the connection: the status is the answer
	if !statuses.Has(response.StatusCode) {
		return fmt.Errorf("http %s%s: %w: it answered %d, and %s passes", address, q.Path, plugin.ErrUnavailable, response.StatusCode, q.Status)
	}
	return nil
}

// host is what a request calls the other end.
func host(network, address string) string {
	if network == "unix" {
		return "localhost"
	}
	return address
}

func (one *living) askTCP(ctx context.Context, q *plugin.TCPQuestion) error {
	network, address, err := one.door(q.Port, q.Socket)
	if err != nil {
		return err
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return fmt.Errorf("tcp: %w: %w", plugin.ErrUnavailable, err)
	}
	_ = conn.Close() // nothing was written
	return nil
}

// door is where the instance answers: a socket in its folder, the address that it
// says its port has, or this machine.
func (one *living) door(port int, socket string) (network, address string, err error) {
	if socket != "" {
		return "unix", filepath.Join(one.dir, socket), nil
	}
	if i, ok := one.instance.(plugin.Addressed); ok {
		address, err = i.Address(port)
		return "tcp", address, err
	}
	return "tcp", net.JoinHostPort(loopback, strconv.Itoa(port)), nil
}

func (one *living) askExec(ctx context.Context, q *plugin.ExecQuestion) error {
	i, ok := one.instance.(plugin.Execer)
	if !ok {
		return fmt.Errorf("exec: %w: the %s adapter cannot run a command beside a plugin; ask by http, tcp, log or nats", plugin.ErrInvalid, one.adapter.Name())
	}
	code, output, err := i.Exec(ctx, q.Command)
	switch {
	case err != nil:
		return fmt.Errorf("exec: %w", err)
	case code != 0:
		return fmt.Errorf("exec %s: %w: exit code %d%s", q.Command[0], plugin.ErrUnavailable, code, quoted(output))
	}
	return nil
}

// quoted is the end of an output, where programs say what is wrong.
func quoted(output []byte) string {
	text := strings.Join(strings.Fields(strings.ToValidUTF8(string(output), "\uFFFD")), " ")
	if text == "" {
		return ""
	}
	if len(text) > quoteMax {
		text = "..." + strings.ToValidUTF8(text[len(text)-quoteMax:], "")
	}
	return ": " + text
}

func logged(seen func() bool, q *plugin.LogQuestion) error {
	if seen() {
		return nil
	}
	return fmt.Errorf("log: %w: it has printed no line that matches %q", plugin.ErrUnavailable, q.Matches)
}

func (p *Plugin) askBus(ctx context.Context, q *plugin.NATSQuestion) error {
	if err := p.deps.Request(ctx, q.Subject); err != nil {
		return fmt.Errorf("nats %s: %w", q.Subject, err)
	}
	return nil
}
