package portable

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// ruleID is what plugins see as the rule that uses them.
const ruleID = "patchbay"

// The kinds of symbols, on the wire.
const (
	kindFunction = "func"
	kindSource   = "source"
	kindSink     = "sink"
)

const (
	// commandMost bounds one control command. The slowest honest answers come
	// after the SDKs' own retries: 5.3 s (Python cannot dial), 3.1 s (Go cannot
	// listen).
	commandMost = 10 * time.Second
	// stopMost bounds the stop of a symbol that nobody waits for any more.
	stopMost = 2 * time.Second
	// controlBytesMax holds any traceback.
	controlBytesMax = 1 << 20
	// opIDDigitsMax is what an opID has beyond the symbol's name.
	opIDDigitsMax = 20
	// answerTextMax is how much of a plugin's text goes into an error.
	answerTextMax = 500
)

// A symbol is a function, source or sink, as a control command names it. Sources
// and sinks get an opID of their own at each start: the SDKs tell starts of one
// symbol apart by it. The instance number is always 0, because the Go SDK takes
// 0 whatever it is told.
type symbol struct {
	kind, name, opID string
	source           string // the eKuiper data source
	config           []byte // a JSON object
}

type symbolMeta struct {
	RuleID     string `json:"ruleId"`
	OpID       string `json:"opId"`
	InstanceID int    `json:"instanceId"`
}

// symbolArgument is the argument of a command. The data source is written twice
// here and once in the configuration, because the SDKs' versions look for it in
// all three.
type symbolArgument struct {
	SymbolName  string         `json:"symbolName"`
	Meta        symbolMeta     `json:"meta"`
	PluginType  string         `json:"pluginType"`
	DataSource  string         `json:"dataSource,omitempty"`
	DataSource2 string         `json:"datasource,omitempty"`
	Config      plugin.RawJSON `json:"config,omitempty"`
}

type controlCommand struct {
	Cmd string `json:"cmd"`
	Arg string `json:"arg"`
}

// encode writes the command for s.
func (s symbol) encode(cmd string) ([]byte, error) {
	a := symbolArgument{
		SymbolName: s.name, PluginType: s.kind, DataSource: s.source, DataSource2: s.source, Config: s.config,
	}
	if s.kind != kindFunction {
		a.Meta = symbolMeta{RuleID: ruleID, OpID: s.opID}
	}
	arg, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", plugin.ErrInvalid, err)
	}
	return json.Marshal(controlCommand{Cmd: cmd, Arg: string(arg)})
}

// symbolConfig reads a stream's configuration: an object, whose datasource is
// also told apart.
func symbolConfig(config plugin.RawJSON) (object []byte, source string, err error) {
	if len(bytes.TrimSpace(config)) == 0 {
		return []byte("{}"), "", nil
	}
	var fields map[string]plugin.RawJSON
	if err := json.Unmarshal(config, &fields); err != nil || fields == nil {
		return nil, "", errors.New("is not an object; write the symbol's settings by name")
	}
	for _, key := range []string{"datasource", "dataSource"} {
		value, ok := fields[key]
		if !ok {
			continue
		}
		if json.Unmarshal(value, &source) != nil {
			return nil, "", fmt.Errorf("%s is not a text", key)
		}
		fields["datasource"] = value
		break
	}
	object, err = json.Marshal(fields)
	return object, source, err
}

// command sends one control command and returns nil when the plugin says ok.
func (i *instance) command(ctx context.Context, cmd string, s symbol) error {
	ctx, cancel := context.WithTimeout(ctx, commandMost)
	defer cancel()
	body, err := s.encode(cmd)
	if err != nil {
		return err
	}
	if i.spec.Language == languageGo && len(body) > goBytesMax {
		return fmt.Errorf("%s %s %s: %w: its configuration is longer than 1 MiB", cmd, s.kind, s.name, plugin.ErrInvalid)
	}
	answer, err := i.control.call(ctx, body)
	if err != nil {
		return fmt.Errorf("%s %s %s: %w", cmd, s.kind, s.name, err)
	}
	if string(answer) == "ok" {
		return nil
	}
	if strings.Contains(string(answer), "\n") {
		i.log.Error(cmd+" answered with a traceback", s.kind, s.name, "traceback", string(answer))
	}
	return fmt.Errorf("%s %s %s: %w: the plugin answers: %s", cmd, s.kind, s.name, s.class(string(answer)), lastLine(string(answer)))
}

// class sorts a plugin's error text: what a source or sink says may be the fault
// of something it connects to, and pass.
func (s symbol) class(answer string) error {
	if s.kind == kindFunction || answer == "symbol not found" {
		return plugin.ErrInvalid
	}
	return plugin.ErrUnavailable
}

// lastLine is what a Python traceback means to say, and all of a one-line text.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	if len(last) > answerTextMax {
		last = strings.ToValidUTF8(last[:answerTextMax], "") + "..."
	}
	return last
}

// validOpID says whether a text may be one of newSymbol's.
func validOpID(s string) bool { return len(s) <= nameMax+opIDDigitsMax && namePattern.MatchString(s) }

// startSymbol starts a source or sink, and remembers it for the end and for the
// next daemon: from before the command, and also when unsure, for it may start yet.
func (i *instance) startSymbol(ctx context.Context, s symbol) error {
	i.mu.Lock()
	i.started[s.opID] = s
	i.mu.Unlock()
	i.keep.write(i.record)
	err := i.command(ctx, "start", s)
	if err != nil && ctx.Err() == nil && !errors.Is(err, plugin.ErrDeadline) {
		i.mu.Lock()
		delete(i.started, s.opID)
		i.mu.Unlock()
		i.keep.write(i.record)
	}
	return err
}

// stopSymbol stops one that was started; what the plugin says to it changes
// nothing. When the process was left, the next daemon goes on with it.
func (i *instance) stopSymbol(ctx context.Context, s symbol) {
	if i.process.Left() {
		return
	}
	i.mu.Lock()
	_, known := i.started[s.opID]
	delete(i.started, s.opID)
	i.mu.Unlock()
	if !known {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, stopMost)
	defer cancel()
	if err := i.command(ctx, "stop", s); err != nil && i.life.Err() == nil {
		i.log.Warn("stop", "error", err.Error())
	}
	i.keep.write(i.record)
}

// stopSymbols stops all of them.
func (i *instance) stopSymbols(ctx context.Context) {
	i.mu.Lock()
	var all []symbol
	for _, s := range i.started {
		all = append(all, s)
	}
	i.mu.Unlock()
	for _, s := range all {
		i.stopSymbol(ctx, s)
	}
}
