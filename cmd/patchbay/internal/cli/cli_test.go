package cli

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestVerbs(t *testing.T) {
	newDaemon(t)
	dir := folder(t, map[string]string{"a.yaml": "apiVersion: patchbay/v1\n", "bad/b.yaml": "apiVersion: bad", "in.json": `{"n":1}`})
	good := filepath.Join(dir, "a.yaml")
	for _, tt := range []struct {
		name     string
		args     string
		stdin    string
		code     int
		out, err []string // parts of it
	}{
		{"table", "get plugins", "", 0, []string{"NAME    ADAPTER    STATE     AGE   RESTARTS   REASON\nhello   starlark   running   90m   0          Answers\nworld"}, nil},
		{"wide", "get plugins -o wide", "", 0, []string{"READY   LIVE      INSTANCE", "True    Unknown   hello-0", "pid=42"}, nil},
		{"names", "get plugins -o name", "", 0, []string{"plugin/hello\nplugin/world\n"}, nil},
		{"one as YAML", "get plugin hello -o yaml", "", 0, []string{"apiVersion: patchbay/v1\nkind: Plugin\nmetadata:\n  name: hello\n", "  starlark:\n    module: hello.star\n"}, nil},
		{"none", "get plugins -l team=none", "", 0, nil, []string{"no plugins"}},
		{"operations", "get operations hello", "", 0, []string{"count   answer", "talk    both", "sum     argument", "greet   no         {name}"}, nil},
		{"instances", "get instances hello", "", 0, []string{"hello-0"}, nil},
		{"watch", "get plugins -w", "", 0, []string{"hello   starlark", "backoff", "Exited: exit code 3"}, nil},
		{"describe", "describe plugin hello", "", 0, []string{"State:", "running (Answers)", "pid=42", "module: hello.star", "greet", "running -> backoff: exited (Exited: exit code 3)"}, nil},
		{"describe health", "describe plugin hello", "", 0, []string{
			"  TYPE    STATUS    SINCE   REASON        MESSAGE\n  Ready   True      60m     ProbePassed   -\n  Live    Unknown   -       ProbeFailed   deaf\n",
			"  memory   cgroup2   -\n  cpu      -         no controller\n", "took 1.204s: drain done 3ms, kill ended 1.201s"}, nil},
		{"not found", "get plugin nobody", "", 4, nil, []string{`patchbay: plugin "nobody": not found`}},
		{"invoke", `invoke hello greet --data {"a":1} --timeout 2s`, "", 0, []string{`{"got":"{\"a\":1}","timeout":"2s"}` + "\n"}, nil},
		{"invoke with stdin", "invoke hello greet --data -", "[1]", 0, []string{`"got":"[1]"`}, nil},
		{"invoke with a file", "invoke hello greet --data @" + filepath.Join(dir, "in.json"), "", 0, []string{`{\"n\":1}`}, nil},
		{"invoke in parts", "invoke hello count", "", 0, []string{"1\n2\n"}, nil},
		{"invoke with parts", "invoke hello sum", "1 2\n{\n\"a\": 3}", 0, []string{`{"got":"1\n2\n{\"a\":3}\n","as":"application/x-ndjson","want":""}`}, nil},
		{"invoke with parts of a file", "invoke hello sum --show-metadata --data @" + filepath.Join(dir, "in.json"), "", 0, []string{`"got":"{\"n\":1}\n"`, `"want":"*"`}, []string{"tiny-bin: AAE=\n"}},
		{"invoke in parts both ways", "invoke hello talk --stream", "1\n[2,\n3]", 0, []string{"1\n[2,3]\n"}, nil},
		{"refused amid parts", "invoke hello talk", "1 \"no\"", 1, nil, []string{"refused: enough\n"}},
		{"not JSON", "invoke hello talk --stream", "1\n{", 2, nil, []string{"standard input: value 2: it is cut off"}},
		{"not JSON at all", "invoke hello sum --data {1:2}", "", 2, nil, []string{"--data: value 1: invalid character '1'"}},
		{"parts have no type", "invoke hello talk --stream --content-type text/plain", "", 2, nil, []string{"--content-type"}},
		{"refusal", "invoke hello refuse", "", 1, nil, []string{"refused: E7: no thanks\n{\"why\":\"tired\"}\n"}},
		{"broken link", "invoke hello break", "", 3, nil, []string{"patchbay: plugin hello: break: unavailable"}},
		{"too late", "invoke hello late", "", 7, nil, []string{"patchbay: plugin hello: late"}},
		{"no operation", "invoke hello fly", "", 4, nil, nil},
		{"logs", "logs hello", "", 0, []string{"stderr WARN  tail=500\uFFFD[31m a=\"x\" b=2\n"}, nil},
		{"all logs, as they are", "logs hello --tail -1 -o raw", "", 0, []string{"tail=\x1b"}, nil},
		{"logs since", "logs hello --since 10m -o json", "", 0, []string{`"message":"tail=\u001b`}, nil},
		{"logs of several", "logs hello world -l team=edge --level warn --grep a+b", "", 0, []string{
			"hello ... 120 lines dropped\nhello ", "ERROR panic: x\nhello \tat y\uFFFD\nwider-name ",
			"grep=a%2Bb&level=warn&plugin=hello%2Cworld&selector=team%3Dedge&tail=500\n",
		}, nil},
		{"logs of all, as they are", "logs --selector= -o raw", "", 0, []string{"panic: x\n\tat y"}, []string{"... 120 lines of hello dropped\n"}},
		{"previous logs", "logs hello world --previous", "", 0, []string{"previous=true"}, nil},
		{"logs of nobody", "logs", "", 2, nil, []string{"-l '' chooses all"}},
		{"instance of two", "logs hello world --instance x", "", 2, nil, []string{"--instance"}},
		{"previous follows", "logs hello --previous -f", "", 2, nil, []string{"--previous"}},
		{"events", "events", "", 0, []string{"hello                running -> backoff: exited", "invoked: greet ok (2 times)", `com.acme.ripe {"n":1}`}, nil},
		{"events of one", "events hello -o json", "", 0, []string{`"specversion":"1.0"`}, nil},
		{"event types", "events --types", "", 0, []string{"dev.patchbay.plugin.state.v1   0.1.0   It changed.\n"}, nil},
		{"event types with schemas", "events --types -o json", "", 0, []string{`"schema": {`}, nil},
		{"event types of one", "events hello --types", "", 2, nil, []string{"--types"}},
		{"health", "get health", "", 3, []string{"bus                 ready           90m     1.5ms     -\n", "disk                not ready       90m     0s        1 MiB is free", "adapter/container   not available"}, nil},
		{"health as JSON", "get health -o json", "", 3, []string{`"ready": false`}, nil},
		{"start", "start hello world", "", 0, []string{"plugin/hello running\nplugin/world running\n"}, nil},
		{"stop", "stop hello", "", 0, []string{"plugin/hello stopped\n"}, nil},
		{"start again", "start hello", "", 0, []string{"plugin/hello running\n"}, nil},
		{"restart", "restart hello", "", 0, []string{"plugin/hello restarted\n"}, nil},
		{"restart without waiting", "restart hello --wait=false", "", 0, []string{"plugin/hello restart asked for\n"}, nil},
		{"reload", "reload hello", "", 0, []string{"plugin/hello reloaded\n"}, nil},
		{"reload that fails", "reload world", "", exitDiffers, nil, []string{"the old instance goes on; the new one: exit code 7"}},
		{"rollback", "rollback hello --to 1", "", 0, []string{"plugin/hello rolled back\n"}, nil},
		{"pin", "pin hello", "", 0, []string{"plugin/hello pinned to generation 2, sha256:ab\n"}, nil},
		{"unpin", "unpin hello", "", 0, []string{"plugin/hello unpinned\n"}, nil},
		{"pin of nobody", "pin nobody", "", exitNotFound, nil, []string{"nobody"}},
		{"revisions", "get revisions hello", "", 0, []string{"2            60m ago   yes       -\n", "1            2h ago", "spec.quantum: is no field"}, nil},
		{"revisions by name", "get revisions hello -o name", "", 0, []string{"2\n1\n"}, nil},
		{"wait", "wait hello world hello", "", 0, []string{"plugin/hello running\nplugin/world running\n"}, nil},
		{"wait by label", "wait -l team=edge --for=condition=Ready", "", 0, []string{"plugin/hello condition=Ready\n", "plugin/world"}, nil},
		{"wait for nobody", "wait nobody", "", 4, nil, []string{"not found"}},
		{"wait by label for nobody", "wait -l team=none", "", 4, nil, []string{"no plugin matches"}},
		{"wait for an end", "wait nobody --for=deleted", "", 0, []string{"plugin/nobody deleted\n"}, nil},
		{"wait too long", "wait hello --for=stopped --timeout 300ms", "", 7, nil, []string{"hello: deadline: it is still running (Answers), not stopped"}},
		{"wait for what is no state", "wait hello --for=dancing", "", 2, nil, []string{`--for: invalid: "dancing" cannot be waited for`}},
		{"wait for what is no condition", "wait hello --for=condition=Happy", "", 2, nil, []string{`there is no condition "Happy"`}},
		{"wait for whom", "wait", "", 2, nil, []string{"give names or --selector"}},
		{"delete", "delete plugin hello nobody", "", 4, []string{"plugin/hello deleted\n"}, []string{"not found"}},
		{"delete by file", "delete -f " + good, "", 0, []string{"plugin/hello deleted\nplugin/world deleted\n"}, nil},
		{"apply", "apply -f " + good, "", 0, []string{"plugin/hello changed, restarts\nplugin/world unchanged\n"}, nil},
		{"apply and wait", "apply --wait -f " + good, "", 0, []string{"plugin/hello changed"}, nil},
		{"apply dry", "apply --dry-run -f " + good, "", 0, []string{"(dry run)"}, nil},
		{"apply stdin", "apply -f -", "apiVersion: patchbay/v1", 0, []string{"plugin/hello"}, nil},
		{"apply with a fault", "apply -f " + dir, "", 2, nil, []string{"in.json: left out", "1 fault; nothing was changed\n" + dir + "/bad/b.yaml:3:5: spec.bad: unknown field"}},
		{"apply nothing", "apply", "", 2, nil, []string{"name a manifest"}},
		{"apply what is not there", "apply -f /nowhere.yaml", "", 2, nil, []string{"no such file"}},
		{"diff", "diff -f " + good, "", 3, []string{"plugin/hello changed, restarts\n  ~ spec.digest: \"a\" -> \"b\"   (restarts)\n"}, nil},
		{"validate", "validate -f " + good, "", 0, []string{"plugin/hello valid\n"}, nil},
		{"version", "version", "", 0, []string{"patchbay 1.2.3\ndaemon   9.9 (API v1, node n1)\n"}, nil},
		{"completion", "completion bash", "", 0, []string{"bash completion"}, nil},
		{"completion of names", "__complete get plugins wo", "", 0, []string{"world\n"}, nil},
		{"completion of goals", "__complete wait hello --for con", "", 0, []string{"condition=Ready\n"}, nil},
		{"unknown verb", "dance", "", 2, nil, []string{"unknown command", "--help"}},
		{"unknown flag", "get plugins --colour", "", 2, nil, []string{"unknown flag"}},
		{"too few names", "start", "", 2, nil, []string{"requires at least 1 arg"}},
		{"unknown format", "get plugins -o xml", "", 2, nil, []string{`"xml" is not one of table`}},
		{"bad since", "logs hello --since yesterday", "", 2, nil, []string{"--since"}},
		{"help", "--help", "", 0, []string{"Exit codes:"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, out, errs := patchbay(t, tt.stdin, strings.Fields(tt.args)...)
			if code != tt.code {
				t.Errorf("got code %d, want %d; stderr: %s", code, tt.code, errs)
			}
			for _, want := range tt.out {
				if !strings.Contains(out, want) {
					t.Errorf("stdout: got %q, want it to contain %q", out, want)
				}
			}
			for _, want := range tt.err {
				if !strings.Contains(errs, want) {
					t.Errorf("stderr: got %q, want it to contain %q", errs, want)
				}
			}
			if tt.code != 0 && errs == "" && tt.code != exitDiffers {
				t.Error("it failed without a word")
			}
		})
	}
}

// TestVerbs_callTheirRoutes runs each verb that talks to the daemon, and looks up
// what it asked in the OpenAPI document.
func TestVerbs_callTheirRoutes(t *testing.T) {
	d := newDaemon(t)
	good := filepath.Join(folder(t, map[string]string{"a.yaml": "apiVersion: patchbay/v1"}), "a.yaml")
	paths := documented(t)
	called := map[string]bool{}
	for _, args := range []string{
		"apply -f " + good, "get plugins", "get operations hello", "get instances hello", "describe plugin hello", "delete plugin hello",
		"start hello", "stop hello", "restart hello", "reload hello", "rollback hello", "pin hello", "unpin hello", "get revisions hello", "wait hello", "invoke hello greet", "logs hello", "logs hello world", "events", "events hello", "events --types",
		"get health", "diff -f " + good, "validate -f " + good, "gc --dry-run", "gc", "version",
	} {
		code, _, errs := patchbay(t, "", strings.Fields(args)...)
		all := d.taken()
		if code != 0 && code != exitDiffers || len(all) == 0 {
			t.Errorf("%s: got %d, asked %d times: %s", args, code, len(all), errs)
		}
		for _, asked := range all {
			route := strings.NewReplacer("/plugins/hello", "/plugins/{name}", "/plugins/world", "/plugins/{name}", "/operations/greet", "/operations/{operation}").Replace(asked)
			if !paths[route] {
				t.Errorf("%s: asked %s, which is not documented", args, asked)
			}
			called[route] = true
		}
	}
	for route := range paths {
		if strings.HasPrefix(route[strings.IndexByte(route, ' ')+1:], "/v1/") && !called[route] && route != "PUT /v1/plugins/{name}" && route != "GET /v1/schema/plugin.json" {
			t.Errorf("no verb calls %s", route)
		}
	}
}

// documented reads the routes of the OpenAPI document.
func documented(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("../../../../core/api/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	paths := map[string]bool{}
	for path, methods := range doc.Paths {
		for method := range methods {
			paths[strings.ToUpper(method)+" "+path] = true
		}
	}
	return paths
}

func TestApply_sendsTheManifestsOwnFolder(t *testing.T) {
	d := newDaemon(t)
	dir := folder(t, map[string]string{"b/two.yml": "apiVersion: x", "a/one.json": `{"apiVersion": "x"}`, ".hidden/no.yaml": "apiVersion: x", "notes.txt": "apiVersion"})
	if code, _, errs := patchbay(t, "", "apply", "-f", dir); code != 0 {
		t.Fatalf("got %d %s", code, errs)
	}
	var got []string
	for _, f := range d.files {
		got = append(got, strings.ReplaceAll(f.Name+" in "+f.Source, dir, "D"))
	}
	if diff := cmp.Diff([]string{"D/a/one.json in D/a", "D/b/two.yml in D/b"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestTarget(t *testing.T) {
	d := newDaemon(t)
	dir := folder(t, map[string]string{"api.addr": d.URL + "\n", "api.token": "secret\n", "other.token": "wrong"})
	config := "current: here\ncontexts:\n  here: {dataDir: " + dir + "}\n  wrong: {url: " + d.URL + ", tokenFile: " + dir + "/other.token}\n"
	home := folder(t, map[string]string{"patchbay/config.yaml": config})
	for _, tt := range []struct {
		name, args string
		env        map[string]string
		code       int
	}{
		{"environment", "get plugins", map[string]string{"PATCHBAY_URL": d.URL, "PATCHBAY_TOKEN": "secret"}, 0},
		{"environment with a token file", "get plugins", map[string]string{"PATCHBAY_URL": d.URL, "PATCHBAY_TOKEN_FILE": dir + "/api.token"}, 0},
		{"folder by environment", "get plugins", map[string]string{"PATCHBAY_DATA_DIR": dir}, 0},
		{"folder by flag", "get plugins --data-dir " + dir, map[string]string{"PATCHBAY_URL": "http://127.0.0.1:1"}, 0},
		{"URL by flag, folder's token", "get plugins --url " + d.URL + " --data-dir " + dir, nil, 0},
		{"current context", "get plugins", nil, 0},
		{"context by environment", "get plugins", map[string]string{"PATCHBAY_CONTEXT": "wrong"}, exitDenied},
		{"context by flag beats the environment", "get plugins --context here", map[string]string{"PATCHBAY_URL": "http://127.0.0.1:1", "PATCHBAY_TOKEN": "x"}, 0},
		{"token file by flag", "get plugins --context wrong --token-file " + dir + "/api.token", nil, 0},
		{"unknown context", "get plugins --context nowhere", nil, exitUsage},
		{"nobody there", "get plugins --url http://127.0.0.1:1 --token-file " + dir + "/api.token", nil, exitDiffers},
		{"no URL", "get plugins --url localhost --token-file " + dir + "/api.token", nil, exitUsage},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, name := range []string{"PATCHBAY_URL", "PATCHBAY_TOKEN", "PATCHBAY_TOKEN_FILE", "PATCHBAY_DATA_DIR", "PATCHBAY_CONTEXT"} {
				t.Setenv(name, tt.env[name])
			}
			t.Setenv("XDG_CONFIG_HOME", home)
			if code, _, errs := patchbay(t, "", strings.Fields(tt.args)...); code != tt.code {
				t.Errorf("got %d, want %d: %s", code, tt.code, errs)
			}
		})
	}
}

func TestServe_isACommand(t *testing.T) {
	for _, tt := range []struct {
		args string
		err  error
		code int
	}{
		{"serve --data-dir /x", nil, 0},
		{"serve --data-dir /x", errors.New("port in use"), exitError},
		{"serve --port 1", nil, exitUsage},
	} {
		got := ""
		serve := &cobra.Command{Use: "serve", RunE: func(cmd *cobra.Command, _ []string) error {
			got, _ = cmd.Flags().GetString("data-dir")
			return tt.err
		}}
		serve.Flags().String("data-dir", "", "its own")
		var out strings.Builder
		if code := Main("1", Given{Serve: serve}, strings.Fields(tt.args), strings.NewReader(""), &out, &out); code != tt.code || code != exitUsage && got != "/x" {
			t.Errorf("%s: got %d with %q, want %d: %s", tt.args, code, got, tt.code, &out)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{errors.New("x"), 1}, {&plugin.Refusal{}, 1}, {plugin.ErrBusy, 1}, {plugin.ErrInvalid, 2}, {plugin.Faults{{}}, 2}, {plugin.ErrUnavailable, 3},
		{quiet{3}, 3}, {plugin.ErrNotFound, 4}, {plugin.ErrConflict, 5}, {plugin.ErrDenied, 6}, {plugin.ErrDeadline, 7},
	} {
		if got := exitCode(tt.err); got != tt.want {
			t.Errorf("%v: got %d, want %d", tt.err, got, tt.want)
		}
	}
}

func TestAge(t *testing.T) {
	now := time.Unix(1e9, 0)
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 90 * time.Second: "90s", 3 * time.Minute: "3m", 119 * time.Minute: "119m", 25 * time.Hour: "25h", 72 * time.Hour: "3d",
	} {
		if got := age(now.Add(-d), now); got != want {
			t.Errorf("%s: got %s, want %s", d, got, want)
		}
	}
	if got := age(time.Time{}, now); got != "-" {
		t.Errorf("never: got %s, want -", got)
	}
}

func TestTable_coloursTakeNoWidth(t *testing.T) {
	var out strings.Builder
	if err := table(&out, [][]string{{"STATE", "X"}, {painter(true).state(plugin.Failed), "y"}}); err != nil {
		t.Fatal(err)
	}
	if want := "STATE    X\n\x1b[31mfailed\x1b[0m   y\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
