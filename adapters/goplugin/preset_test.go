package goplugin

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestPresets_areTheWordsOfTheSchema(t *testing.T) {
	field, _ := reflect.TypeFor[Spec]().FieldByName("Preset")
	var names []string
	for _, p := range presets() {
		names = append(names, p.name)
	}
	if got := strings.Join(names, ","); got != field.Tag.Get("enum") {
		t.Errorf("presets are %s, the field's enum is %s", got, field.Tag.Get("enum"))
	}
}

// TestPresets_isAllThatIsNeeded: with the command beside it, a preset is a whole
// manifest.
func TestPresets_isAllThatIsNeeded(t *testing.T) {
	for _, p := range presets() {
		c, err := compile(blockOf(`{"command": ["/bin/sh"], "preset": "`+p.name+`"}`), executables{})
		if err != nil {
			t.Errorf("%s: %v", p.name, err)
		}
		if len(c.Handshake.Values) == 0 || c.Handshake.Key == "" || len(c.Handshake.Versions) == 0 {
			t.Errorf("%s: the handshake is %+v", p.name, c.Handshake)
		}
	}
}

func blockOf(block string) plugin.Manifest {
	return plugin.Manifest{
		APIVersion: plugin.APIVersion, Kind: plugin.Kind, Metadata: plugin.Metadata{Name: "p"},
		Spec: plugin.Spec{Adapter: name, Block: plugin.RawJSON(block)},
	}
}

func TestPresets_giveWayToTheManifest(t *testing.T) {
	const magic = "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2"
	for _, tt := range []struct {
		name, block string
		want        Handshake
		tls         string
	}{
		{"nothing", `"preset": "terraform"`, Handshake{Key: "TF_PLUGIN_MAGIC_COOKIE", Values: []string{magic}, Versions: []int{5, 6}}, "auto"},
		{"versions", `"preset": "terraform", "handshake": {"versions": [5]}`, Handshake{Key: "TF_PLUGIN_MAGIC_COOKIE", Values: []string{magic}, Versions: []int{5}}, "auto"},
		{"value", `"preset": "terraform", "handshake": {"value": "x"}`, Handshake{Key: "TF_PLUGIN_MAGIC_COOKIE", Value: "x", Values: []string{"x"}, Versions: []int{5, 6}}, "auto"},
		{"values", `"preset": "terraform", "handshake": {"values": ["x", "y"]}`, Handshake{Key: "TF_PLUGIN_MAGIC_COOKIE", Values: []string{"x", "y"}, Versions: []int{5, 6}}, "auto"},
		{"tls", `"preset": "terraform", "tls": "off"`, Handshake{Key: "TF_PLUGIN_MAGIC_COOKIE", Values: []string{magic}, Versions: []int{5, 6}}, "off"},
		{"no preset", `"handshake": {"key": "K", "value": "v"}`, Handshake{Key: "K", Value: "v", Values: []string{"v"}, Versions: []int{1}}, ""},
	} {
		c, err := compile(blockOf(`{"command": ["/bin/sh"], `+tt.block+`}`), executables{})
		if diff := cmp.Diff(tt.want, c.Handshake); err != nil || diff != "" || c.TLS != tt.tls {
			t.Errorf("%s: error %v, tls %q, handshake (-want +got):\n%s", tt.name, err, c.TLS, diff)
		}
	}
}

// TestPresets_ofBothProtocols: what is for net/rpc does not disturb a manifest that
// asks for gRPC, and the other way round.
func TestPresets_ofBothProtocols(t *testing.T) {
	for block, methods := range map[string]int{
		`"preset": "example-kv"`:                           2,
		`"preset": "example-kv", "transport": "grpc"`:      0,
		`"preset": "example-kv", "transport": "netrpc"`:    2,
		`"preset": "vault", "metadata": {"*": {"a": "b"}}`: 0,
	} {
		c, err := compile(blockOf(`{"command": ["/bin/sh"], `+block+`}`), executables{})
		if err != nil || len(c.described.Offers()) != methods {
			t.Errorf("%s: got %d methods, %v; want %d", block, len(c.described.Offers()), err, methods)
		}
	}
}

func TestPresets_environment(t *testing.T) {
	const variable = "VAULT_PLUGIN_AUTOMTLS_ENABLED"
	c, err := compile(blockOf(`{"command": ["/bin/sh"], "preset": "vault"}`), executables{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		given map[string]string
		want  string
	}{{nil, "true"}, {map[string]string{variable: "false"}, "false"}} {
		env := c.environ(plugin.Launch{ID: "p-1", Env: tt.given}, nil)
		if n := slices.Index(env, variable+"="+tt.want); n < 0 || strings.Count(strings.Join(env, "\n"), variable) != 1 {
			t.Errorf("with %v: got %v, want %s=%s once", tt.given, env, variable, tt.want)
		}
	}
}

func TestHandshake_faults(t *testing.T) {
	for block, want := range map[string]string{
		`"preset": "nomad"`: "spec.goplugin.preset",
		`"plugin": "x", "describe": {"methods": {"A": {"args": "any", "reply": "any"}}}`: "spec.goplugin.handshake: is missing",
		`"handshake": {"value": "v"}`:                                     "spec.goplugin.handshake.key: is missing",
		`"handshake": {"key": "K"}`:                                       "spec.goplugin.handshake.value: is missing",
		`"handshake": {"key": "K", "value": "a", "values": ["b"]}`:        "spec.goplugin.handshake.values: stands beside value",
		`"handshake": {"key": "K", "values": ["a", ""]}`:                  "spec.goplugin.handshake.values[1]: is empty",
		`"handshake": {"key": "K", "values": ["\u0000"]}`:                 "spec.goplugin.handshake.values[0]: is empty or holds a zero byte",
		`"handshake": {"key": "K", "value": "\u0000"}`:                    "spec.goplugin.handshake.value: holds a zero byte",
		`"handshake": {"key": "K", "values": [` + manyValues(valuesMax+1): "spec.goplugin.handshake.values: has 9 values",
	} {
		_, err := compile(blockOf(`{"command": ["/bin/sh"], `+block+`}`), executables{})
		var faults plugin.Faults
		if !errors.As(err, &faults) || len(faults) != 1 || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want the one fault %s", block, err, want)
		}
	}
}

func manyValues(n int) string {
	return strings.TrimSuffix(strings.Repeat(`"x",`, n), ",") + "]}"
}

func TestCatalog_aliases(t *testing.T) {
	old, both := &grpcMethod{full: "p.S/GetSchema"}, &grpcMethod{full: "p.S/Stop"}
	c := &catalog{methods: map[string]*grpcMethod{"GetSchema": old, "Stop": both, "StopProvider": both}}
	c.alias(map[string]string{"GetProviderSchema": "GetSchema", "StopProvider": "Stop", "Other": "Missing"})
	if c.methods["GetProviderSchema"] != old || c.methods["Other"] != nil {
		t.Errorf("got %v", c.methods)
	}
	if got := old.summary(); got != "p.S/GetSchema, also GetProviderSchema" || both.summary() != both.full {
		t.Errorf("got %s and %s", got, both.summary())
	}
}
