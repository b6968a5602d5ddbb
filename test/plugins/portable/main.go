// Command portable is the tiny eKuiper portable plugin of Patchbay's tests and
// examples. It speaks the wire itself, with the standard library alone, and
// behaves as the Go SDK does where a host could notice: one control loop, one
// loop per function with a keepalive every five seconds, sources that push,
// sinks that listen and acknowledge.
//
// Functions: echo (its argument), refuse (a refusal with the message given), exit
// (ends with the code given), print (prints the text given), slow (answers after
// that many milliseconds; prints a second argument before). Source: ticker (config interval in milliseconds, value).
// Sinks: print, file (config path).
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/patchbay-dev/patchbay/test/plugins/habit"
)

// name is what the host finds the plugin by.
const name = "tiny"

// keepalive is how long a function waits for a call before it says so.
const keepalive = 5 * time.Second

func main() {
	if len(os.Args) == 2 && !json.Valid([]byte(os.Args[1])) {
		fmt.Fprintln(os.Stderr, "the argument is not JSON")
		os.Exit(2)
	}
	habit.Begin()
	p := &program{functions: map[string]bool{}, running: map[string]func(){}}
	err := serve("plugin_"+name, 0, func(command []byte) []byte { return []byte(p.control(command)) })
	fmt.Fprintln(os.Stderr, "control:", err)
	os.Exit(1)
}

// program is what runs in this process.
type program struct {
	mu        sync.Mutex
	functions map[string]bool
	running   map[string]func() // how to stop each source and sink
}

// command is the argument of a control command.
type command struct {
	SymbolName string `json:"symbolName"`
	PluginType string `json:"pluginType"`
	Meta       struct {
		RuleID string `json:"ruleId"`
		OpID   string `json:"opId"`
	} `json:"meta"`
	DataSource string `json:"dataSource"`
	Config     struct {
		Interval int    `json:"interval"`
		Value    any    `json:"value"`
		Path     string `json:"path"`
	} `json:"config"`
}

// socket is the name of the source's or sink's data socket.
func (c command) socket() string { return c.Meta.RuleID + "_" + c.Meta.OpID + "_0" }

func (p *program) control(text []byte) string {
	var outer struct{ Cmd, Arg string }
	if err := json.Unmarshal(text, &outer); err != nil {
		return err.Error()
	}
	var c command
	if err := json.Unmarshal([]byte(outer.Arg), &c); err != nil {
		return err.Error()
	}
	if c.PluginType != "func" && (c.Meta.RuleID == "" || c.Meta.OpID == "") {
		return fmt.Sprintf("invalid arg %v, ruleId and opId are required", c.Meta)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch outer.Cmd {
	case "start":
		return answer(p.start(c))
	case "stop":
		return answer(p.stop(c))
	}
	return "invalid command received: " + outer.Cmd
}

func answer(err error) string {
	if err != nil {
		return err.Error()
	}
	return "ok"
}

func (p *program) stop(c command) error {
	stop, ok := p.running[c.socket()]
	if !ok {
		return fmt.Errorf("symbol %s_%s not found", c.socket(), c.SymbolName)
	}
	delete(p.running, c.socket())
	stop()
	return nil
}

func (p *program) start(c command) error {
	var stop func()
	var err error
	switch c.PluginType + " " + c.SymbolName {
	case "source ticker":
		stop, err = startTicker(c)
	case "sink print", "sink file":
		stop, err = startSink(c)
	default:
		return p.startFunction(c)
	}
	if err == nil {
		p.running[c.socket()] = stop
	}
	return err
}

func (p *program) startFunction(c command) error {
	call, ok := functions[c.SymbolName]
	if c.PluginType != "func" || !ok {
		return fmt.Errorf("symbol not found")
	}
	if p.functions[c.SymbolName] {
		return nil
	}
	p.functions[c.SymbolName] = true
	connected := make(chan error, 1)
	go func() { // ends with its connection
		socket, err := dial("func_"+c.SymbolName, protocolReq)
		connected <- err
		if err == nil {
			err = socket.requests(keepalive, func(body []byte) []byte { return invoke(call, body) })
			fmt.Fprintln(os.Stderr, "function", c.SymbolName+":", err)
		}
		p.mu.Lock()
		delete(p.functions, c.SymbolName)
		p.mu.Unlock()
	}()
	return <-connected
}
