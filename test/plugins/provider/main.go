// Command provider is the smallest complete Digital Rebar plugin provider that
// patchbay's tests and its first example run. It writes the protocol itself, with
// the standard library only, so that the adapter is tested against the protocol
// and not against a library. The demo's counter is in memory and ends with it.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/patchbay-dev/patchbay/test/plugins/habit"
)

func main() {
	switch args := os.Args[1:]; {
	case len(args) >= 1 && args[0] == "define":
		_ = json.NewEncoder(os.Stdout).Encode(definition())
	case len(args) == 2 && args[0] == "unpack":
		check(os.MkdirAll(args[1], 0o755))
		check(os.WriteFile(args[1]+"/README", []byte("unpacked by provider-demo\n"), 0o644))
	case len(args) == 3 && args[0] == "listen":
		habit.Begin()
		check(listen(args[1], args[2]))
	default:
		fmt.Println("Failed")
		os.Exit(1)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

type action struct {
	Model, Command                 string
	RequiredParams, OptionalParams []string
}

func definition() map[string]any {
	return map[string]any{
		"Name": "provider-demo", "Version": "v1.0.0", "PluginVersion": 4,
		"RequiredParams": nil, "OptionalParams": []string{"demo/step", "demo/password"},
		"StoreObjects": map[string]any{"cows": map[string]any{}},
		"AvailableActions": []action{
			{Command: "echo"},
			{Command: "refuse", OptionalParams: []string{"message"}},
			{Command: "exit", OptionalParams: []string{"code"}},
			{Command: "print", RequiredParams: []string{"text"}},
			{Command: "slow", RequiredParams: []string{"milliseconds"}},
			{Command: "log", RequiredParams: []string{"text"}},
			{Command: "count"},
			{Command: "announce", RequiredParams: []string{"key"}},
			{Command: "leave"},
			{Command: "tag", Model: "machines", RequiredParams: []string{"demo/tag"}},
		},
		"Content": content,
	}
}

const content = `
meta: {Name: provider-demo}
sections:
  params:
    demo/step: {Name: demo/step, Schema: {type: integer, default: 1}}
    demo/password: {Name: demo/password, Secure: true, Schema: {type: string}}
    demo/tag: {Name: demo/tag, Schema: {type: string}}
    message: {Name: message, Schema: {type: string, default: "no"}}
    code: {Name: code, Schema: {type: integer, default: 0}}
    text: {Name: text, Schema: {type: string}}
    milliseconds: {Name: milliseconds, Schema: {type: integer}}
`

// A failure is the protocol's error body.
type failure struct {
	Model, Key, Type string
	Messages         []string
	Code             int
}

func listen(to, from string) error {
	_ = os.Remove(to)
	socket, err := net.Listen("unix", to)
	if err != nil {
		return err
	}
	p := &provider{host: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", from)
		},
	}}}
	fmt.Println("READY!")
	return http.Serve(socket, p)
}

// A provider answers what patchbay posts.
type provider struct {
	host  *http.Client
	step  int64
	count atomic.Int64
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		reply(w, http.StatusNotFound, failure{Key: r.URL.Path, Type: r.Method, Code: http.StatusNotFound})
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	switch r.URL.Path {
	case "/api-plugin/v4/config":
		p.config(w, body)
	case "/api-plugin/v4/action":
		p.action(w, body)
	case "/api-plugin/v4/stop":
		p.log("info", "stopping")
		os.Exit(0)
	default:
		reply(w, http.StatusNotFound, failure{Key: r.URL.Path, Type: r.Method, Code: http.StatusNotFound})
	}
}

func (p *provider) config(w http.ResponseWriter, body []byte) {
	p.log("info", "received config request: "+string(body)) // as the common library does, secrets and all
	var params struct {
		Name string
		Step int64 `json:"demo/step"`
	}
	if err := json.Unmarshal(body, &params); err != nil || params.Name == "" || params.Step == 0 {
		inner, _ := json.Marshal(failure{Model: "plugin", Messages: []string{"demo/step must not be 0"}, Code: http.StatusBadRequest})
		reply(w, http.StatusBadRequest, failure{Messages: []string{string(inner)}, Code: http.StatusBadRequest})
		return
	}
	p.step = params.Step
	reply(w, http.StatusOK, failure{Code: http.StatusOK})
}

// An invoked action, with every parameter that some action takes.
type invoked struct {
	Command string
	Model   map[string]any
	Params  json.RawMessage
	args    struct {
		Message, Text, Key string
		Code               int
		Milliseconds       int64
		Tag                string `json:"demo/tag"`
	}
}

func (p *provider) action(w http.ResponseWriter, body []byte) {
	var a invoked
	err := json.Unmarshal(body, &a)
	if err == nil {
		err = json.Unmarshal(a.Params, &a.args)
	}
	if err != nil {
		reply(w, http.StatusBadRequest, failure{Messages: []string{err.Error()}, Code: http.StatusBadRequest})
		return
	}
	switch a.Command {
	case "echo":
		reply(w, http.StatusOK, a.Params)
	case "refuse":
		reply(w, http.StatusConflict, failure{Model: "plugin", Key: "provider-demo", Messages: []string{a.args.Message}, Code: http.StatusConflict})
	case "exit":
		os.Exit(a.args.Code)
	case "print":
		fmt.Println(a.args.Text)
		reply(w, http.StatusOK, nil)
	case "slow":
		time.Sleep(time.Duration(a.args.Milliseconds) * time.Millisecond)
		reply(w, http.StatusOK, a.args.Milliseconds)
	case "log":
		p.log("warn", a.args.Text)
		reply(w, http.StatusOK, nil)
	case "count":
		reply(w, http.StatusOK, p.count.Add(p.step))
	case "announce":
		reply(w, http.StatusOK, p.post("/publish", map[string]any{
			"Time": time.Now(), "Type": "demo", "Action": "announce", "Key": a.args.Key, "Object": a.Params,
		}))
	case "leave":
		reply(w, http.StatusOK, p.post("/leaving", failure{Messages: []string{"enough for today"}, Code: http.StatusGone}))
	case "tag":
		a.Model["Tag"] = a.args.Tag
		reply(w, http.StatusOK, a.Model)
	default:
		reply(w, http.StatusNotFound, failure{Messages: []string{"unknown command " + a.Command}, Code: http.StatusNotFound})
	}
}

// log posts one line, as the common library does for each.
func (p *provider) log(level, message string) {
	p.post("/log", map[string]any{"Time": time.Now(), "Service": "provider-demo", "Level": level, "Message": message})
}

// post returns the status.
func (p *provider) post(path string, body any) int {
	data, err := json.Marshal(body)
	if err != nil {
		return 0
	}
	response, err := p.host.Post("http://unix/api-server-plugin/v4"+path, "application/json", bytes.NewReader(data))
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", path, err)
		return 0
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	return response.StatusCode
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
