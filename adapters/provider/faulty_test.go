package provider_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/patchbay-dev/patchbay/adapters/provider"
)

// faultyArg makes the test binary a provider with one fault:
// BINARY faulty-provider FAULT define|unpack|listen ...
const faultyArg = "faulty-provider"

// faulty is the block of such a provider.
func faulty(fault string) provider.Spec {
	return provider.Spec{Command: []string{os.Args[0], faultyArg, fault}}
}

// defines are the answers to define of faults that lie there.
var defines = map[string]string{
	"define-text":       "hello\n",
	"define-empty":      "",
	"define-no-name":    `{"PluginVersion": 4}`,
	"define-bad-name":   `{"Name": "../../etc", "PluginVersion": 4}`,
	"define-version":    `{"Name": "faulty", "PluginVersion": 3}`,
	"define-no-command": `{"Name": "faulty", "PluginVersion": 4, "AvailableActions": [{}]}`,
	"define-twice":      `{"Name": "faulty", "PluginVersion": 4, "AvailableActions": [{"Command": "a"}, {"Command": "a"}]}`,
	"define-content":    `{"Name": "faulty", "PluginVersion": 4, "Content": "a: [b"}`,
	"required": `{"Name": "faulty", "PluginVersion": 4, "RequiredParams": ["x/one", "x/two", "x/three"],
		"Content": "sections: {params: {x/two: {Schema: {default: 2}}}}"}`,
	"version-2": `{"Name": "faulty", "PluginVersion": 2, "HasPublish": true, "AvailableActions": [{"Command": "act"}]}`,
}

const plainDefine = `{"Name": "faulty", "Version": "v1", "PluginVersion": 4, "AvailableActions":
	[{"Command": "act"}, {"Command": "both"}, {"Command": "both", "Model": "machines"}, {"Command": "one", "Model": "machines"}]}`

func playFaulty(fault string, args []string) {
	switch args[0] {
	case "define":
		playDefine(fault)
	case "unpack":
		if fault == "unpack-fails" {
			fmt.Fprintln(os.Stderr, "noise\nError: no room")
			os.Exit(1)
		}
		os.Exit(0)
	}
	playListen(fault, args[1], args[2])
}

func playDefine(fault string) {
	fmt.Fprintln(os.Stderr, "local log: noise")
	switch fault {
	case "define-fails":
		fmt.Fprintln(os.Stderr, "Error: no licence")
		os.Exit(1)
	case "define-hangs":
		select {}
	}
	text, ok := defines[fault]
	if !ok {
		text = plainDefine
	}
	fmt.Print(text)
	os.Exit(0)
}

func playListen(fault, to, from string) {
	switch fault {
	case "never-ready":
		select {}
	case "closes-stdout":
		os.Stdout.Close()
		select {}
	case "ends-before-ready":
		fmt.Fprintln(os.Stderr, "bind: no")
		os.Exit(4)
	case "failed":
		fmt.Println("Failed")
		select {}
	case "ignores-everything":
		signal.Ignore(syscall.SIGTERM)
	}
	socket, err := net.Listen("unix", to)
	if err != nil {
		panic(err)
	}
	fmt.Println("chatter\nREADY!")
	_ = http.Serve(socket, faultyServer{fault, from})
}

type faultyServer struct{ fault, host string }

func (s faultyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	body, _ := io.ReadAll(r.Body)
	prefix := "/api-plugin/v4"
	if s.fault == "version-2" {
		prefix = "/api-plugin/v3"
	}
	path, ok := strings.CutPrefix(r.URL.Path, prefix)
	switch {
	case !ok:
		s.say(w, 404, `{"Code": 404}`)
	case path == "/config":
		s.config(w, body)
	case path == "/action":
		s.action(w, body)
	case path == "/stop" && s.fault == "stop-panics":
		s.say(w, 500, `{"Messages": ["Panic recovered: close of closed channel"], "Code": 500}`)
	case path == "/stop" && s.fault == "ignores-everything":
		select {}
	case path == "/stop":
		os.Exit(0)
	default:
		s.say(w, 404, `{"Code": 404}`)
	}
}

func (s faultyServer) say(w http.ResponseWriter, status int, body string) {
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func (s faultyServer) config(w http.ResponseWriter, body []byte) {
	switch s.fault {
	case "config-refused":
		s.say(w, 400, `{"Messages": ["{\"Messages\": [\"bad\", \"worse\"], \"Code\": 400}"], "Code": 400}`)
	case "config-zero":
		s.say(w, 500, `{"Messages": ["Panic recovered: invalid WriteHeader code 0", "stack"], "Code": 500}`)
	case "config-ends":
		os.Exit(5)
	case "config-hangs":
		select {}
	case "config-garbage":
		s.say(w, 502, "what?")
	default:
		_ = os.WriteFile("config.json", body, 0o600)
		s.say(w, 200, `{"Code": 200}`)
	}
}

func (s faultyServer) action(w http.ResponseWriter, body []byte) {
	switch s.fault {
	case "action-none":
		s.say(w, 404, `{"Key": "/api-plugin/v4/action", "Type": "POST", "Messages": null, "Code": 404}`)
	case "action-zero":
		s.say(w, 500, `{"Messages": ["Panic recovered: invalid WriteHeader code 0", "stack"], "Code": 500}`)
	case "action-panics":
		s.say(w, 500, `{"Messages": ["Panic recovered: nil map", "goroutine 7", "secret path"], "Code": 500}`)
	case "action-garbage":
		s.say(w, 502, "what?")
	case "action-long":
		s.say(w, 200, `"`+strings.Repeat("x", 2<<20)+`"`)
	case "action-endless":
		w.WriteHeader(200)
		for {
			if _, err := io.WriteString(w, strings.Repeat("x", 1<<16)); err != nil {
				return
			}
		}
	default:
		s.say(w, 200, string(body))
	}
}
