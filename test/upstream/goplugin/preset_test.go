package goplugin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// family is a plugin with the preset that is for it.
type family struct {
	preset, file      string
	protocol, version string
	tls               string
	operation, data   string
	want              string // in the answer, without blanks
}

func families() []family {
	put := `{"key": "a", "value": "` + encoded("x") + `"}`
	return []family{
		{"terraform", "terraform-provider-time", "grpc", "5", "mutual", "GetProviderSchema", "{}", `"time_static"`},
		{"vault", "vault-plugin-secrets-kv", "grpc", "5", "mutual", "MultiplexingSupport", "{}", `{"supported":true}`},
		{"tflint", "tflint-ruleset-terraform", "grpc", "11", "", "GetRuleNames", "{}", `"terraform_deprecated_index"`},
		{"grafana", "grafana-source", "grpc", "2", "", "CheckHealth", `{"pluginContext": {}}`, `{"status":"OK","message":"thesourceisthere"}`},
		{"example-basic", "example-basic", "netrpc", "1", "", "Greet", "", `"Hello!"`},
		{"example-bidirectional", "example-bidirectional", "grpc", "1", "", "", "", ""},
		{"example-kv", "example-kv-grpc", "grpc", "1", "", "Put", put, "{}"},
		{"example-kv", "example-kv-netrpc", "netrpc", "1", "", "Put", put, "null"},
		{"example-negotiated", "example-negotiated", "grpc", "3", "", "Put", put, "{}"},
		{"example-streaming", "example-streaming", "grpc", "1", "", "Configure", `{"path": "/dev/null"}`, "{}"},
	}
}

func (f family) launch(t *testing.T) plugin.Launch {
	t.Helper()
	return launchFile(t, f.file, `, "preset": "`+f.preset+`"`)
}

func (f family) answers(t *testing.T, i plugin.Instance) {
	t.Helper()
	if f.operation == "" {
		return
	}
	if got := call(t, i, f.operation, f.data); !strings.Contains(got, f.want) {
		t.Errorf("%s: got %.300s, want %s", f.operation, got, f.want)
	}
}

func names(t *testing.T, i plugin.Instance) []string {
	t.Helper()
	ops, err := i.(plugin.Describer).Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, op := range ops {
		names = append(names, op.Name)
	}
	return names
}

// TestPresets: the preset and the binary are all that a manifest needs.
func TestPresets(t *testing.T) {
	for _, f := range families() {
		t.Run(f.file, func(t *testing.T) {
			i, _, err := startOf(t, f.launch(t))
			if err != nil {
				t.Fatal(err)
			}
			facts(t, i, f.protocol, f.version)
			if got := i.(plugin.Inspector).Inspect()["tls"]; got != f.tls {
				t.Errorf("tls: got %q, want %q", got, f.tls)
			}
			if err := i.(plugin.Prober).Probe(t.Context()); err != nil {
				t.Errorf("probe: %v", err)
			}
			f.answers(t, i)
		})
	}
}

// TestPresets_adopted: whatever the family, the plugin is found again, and ends when
// it is asked to.
func TestPresets_adopted(t *testing.T) {
	for _, f := range families() {
		if strings.HasPrefix(f.preset, "example-") {
			continue // TestKV_adopted
		}
		t.Run(f.file, func(t *testing.T) {
			i := handOver(t, f.launch(t), func(first plugin.Instance) { f.answers(t, first) })
			f.answers(t, i)
			endsUponBeingAsked(t, i)
		})
	}
}

// TestPresets_frozen: each is gone within its grace and half a second.
func TestPresets_frozen(t *testing.T) {
	const grace, slack = 300 * time.Millisecond, 500 * time.Millisecond
	for _, f := range families() {
		t.Run(f.file, func(t *testing.T) {
			i, _, err := startOf(t, f.launch(t))
			if err != nil {
				t.Fatal(err)
			}
			signal(t, i, syscall.SIGSTOP)
			ctx, cancel := context.WithTimeout(t.Context(), grace)
			defer cancel()
			begin := time.Now()
			if err := i.Stop(ctx); err != nil || time.Since(begin) > grace+slack {
				t.Errorf("stop: got %v after %v", err, time.Since(begin))
			}
		})
	}
}

// TestTerraform_schema reads what the provider says of its resources, and lets it
// validate one.
func TestTerraform_schema(t *testing.T) {
	i, _, err := startOf(t, families()[0].launch(t))
	if err != nil {
		t.Fatal(err)
	}
	type attribute struct {
		Name string
		Type []byte // JSON in base64: the protocol's own form
	}
	var schema struct {
		ResourceSchemas map[string]struct {
			Block struct{ Attributes []attribute }
		}
	}
	text := call(t, i, "GetProviderSchema", "{}")
	if err := json.Unmarshal([]byte(text), &schema); err != nil {
		t.Fatal(err)
	}
	attributes := schema.ResourceSchemas["time_sleep"].Block.Attributes
	n := slices.IndexFunc(attributes, func(a attribute) bool { return a.Name == "create_duration" })
	if n < 0 || string(attributes[n].Type) != `"string"` {
		t.Errorf("time_sleep has %v", attributes)
	}
	if got := call(t, i, "tfplugin5.Provider/GetSchema", ""); len(got) != len(text) {
		t.Errorf("one method by two names gives %d and %d bytes", len(text), len(got))
	}
	config := encoded(`{"id": null, "create_duration": "soon", "destroy_duration": null, "triggers": null}`)
	got := call(t, i, "ValidateResourceConfig", `{"typeName": "time_sleep", "config": {"json": "`+config+`"}}`)
	if !strings.Contains(got, `"severity":"ERROR"`) || !strings.Contains(got, "create_duration") {
		t.Errorf("validate: got %s", got)
	}
	if list := names(t, i); !slices.Contains(list, "PlanResourceChange") || slices.Contains(list, "StreamStdio") {
		t.Errorf("operations: %v", list)
	}
}

func TestGrafana_streamsAndQueries(t *testing.T) {
	i, _, err := startOf(t, families()[3].launch(t))
	if err != nil {
		t.Fatal(err)
	}
	got := call(t, i, "CallResource", `{"pluginContext": {}, "path": "hello", "method": "GET"}`)
	if want := fmt.Sprintf(`[{"code":200,"body":%q},{"code":200,"body":%q}]`, encoded("hello"), encoded("!")); got != want {
		t.Errorf("resource: got %s, want %s", got, want)
	}
	got = call(t, i, "QueryData", `{"pluginContext": {}, "queries": [{"refId": "A", "json": "e30=", "timeRange": {"fromEpochMS": "0", "toEpochMS": "1"}}]}`)
	if !strings.Contains(got, `"responses":{"A":{"frames":`) {
		t.Errorf("query: got %.300s", got)
	}
}

// TestReva: the user plugin that came with Reva 1.18, with the first of the two
// cookies that Reva has had: configured at the start, called, and called again after
// an error that breaks net/rpc's stream.
func TestReva(t *testing.T) {
	users := filepath.Join(t.TempDir(), "users.json")
	if err := os.WriteFile(users, []byte(`[{"username": "einstein", "display_name": "Albert", "mail": "e@cern.ch", "groups": ["violin"], "id": {"opaque_id": "1"}}, {"username": "marie", "id": {"opaque_id": "2"}}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	i, _, err := startOf(t, launchFile(t, "reva-json", fmt.Sprintf(`, "preset": "reva", "config": {"users": %q}`, users)))
	if err != nil {
		t.Fatal(err)
	}
	facts(t, i, "netrpc", "1")
	for _, tt := range []struct{ operation, data, want string }{
		{"FindUsers", `{"Query": "ein"}`, `"Username":"einstein"`},
		{"GetUser", `{"UID": {"OpaqueId": "2"}}`, `"Username":"marie"`},
		{"GetUser", `{"UID": {"OpaqueId": "3"}}`, `"User":null`},
		{"GetUserByClaim", `{"Claim": "mail", "Value": "e@cern.ch"}`, `"Username":"einstein"`},
		{"GetUserGroups", `{"User": {"OpaqueId": "1"}}`, `["violin"]`},
	} {
		var no *plugin.Refusal
		_, err := i.Invoke(t.Context(), plugin.Invocation{Operation: "GetUserByClaim", Data: []byte(`{"Claim": "mail", "Value": "nobody"}`)})
		if !errors.As(err, &no) || no.Code != "errtypes.NotFound" || no.Status != 404 {
			t.Errorf("nobody: got %v", err)
		}
		if got := call(t, i, tt.operation, tt.data); !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %s, want %s", tt.operation, got, tt.want)
		}
	}
}

// TestPreset_ofAnotherFamily says which field is wrong.
func TestPreset_ofAnotherFamily(t *testing.T) {
	_, _, err := startOf(t, launchFile(t, "terraform-provider-time", `, "preset": "vault"`))
	if !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "check spec.goplugin.preset") {
		t.Errorf("got %v", err)
	}
}
