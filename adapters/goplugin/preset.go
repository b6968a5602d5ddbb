package goplugin

import (
	"maps"
	"reflect"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/reva"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// A preset is what every plugin of one family has in common: a manifest that names
// it needs nothing but the command. What the manifest says itself wins, field by
// field.
type preset struct {
	name string
	spec Spec
	// env is what these plugins expect of their host beside the protocol's own
	// variables; spec.env wins.
	env map[string]string
	// aliases are names under which methods can be called too, where versions of one
	// protocol differ in the name only.
	aliases map[string]string
	// reva: its plugins are known by their names and dialects, and need no description.
	reva bool
}

// presets lists them, in the order of the enum in [Spec]. The values are those of
// the sources named; test/upstream runs a real plugin by each.
func presets() []preset {
	return []preset{
		{
			// sdk/go/goplugin.
			name: "patchbay",
			spec: Spec{
				Handshake: cookie("PATCHBAY_PLUGIN", []int{1}, "f1c7b9ae-3c52-4f0e-9d41-6a60a4c4a5a2"), Transport: transportGRPC,
				// The statuses that gRPC's gateway to HTTP has for these codes.
				Errors: map[string]int{
					"InvalidArgument": 400, "OutOfRange": 400, "Unauthenticated": 401, "PermissionDenied": 403, "NotFound": 404,
					"AlreadyExists": 409, "Aborted": 409, "ResourceExhausted": 429, "Internal": 500, "DataLoss": 500,
				},
				// What Host has; Invoke is for manifests to allow.
				Callbacks: map[string]Callback{
					"patchbay.plugin.v1.Host/Get":     {KV: &KVCallback{Do: "get", Missing: "NotFound"}},
					"patchbay.plugin.v1.Host/Put":     {KV: &KVCallback{Do: "put"}},
					"patchbay.plugin.v1.Host/Delete":  {KV: &KVCallback{Do: "delete"}},
					"patchbay.plugin.v1.Host/List":    {KV: &KVCallback{Do: "list"}},
					"patchbay.plugin.v1.Host/Publish": {Bus: &BusCallback{Type: "type", Data: "data"}},
				},
				BrokerIDs:  map[string]string{connectService + "/Connect": "broker"},
				StartCalls: []StartCall{{Operation: connectService + "/Connect"}},
			},
		},
		{
			// terraform-plugin-go, tfprotov5/tf5server and tfprotov6/tf6server. The
			// host's side is terraform's internal/plugin, which always asks for AutoMTLS.
			name: "terraform",
			spec: Spec{
				Handshake: cookie("TF_PLUGIN_MAGIC_COOKIE", []int{5, 6}, "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2"),
				Transport: transportGRPC, TLS: tlsAuto,
			},
			// Version 6 has these names; the messages of version 5 have the same fields.
			aliases: map[string]string{
				"GetProviderSchema":          "GetSchema",
				"ConfigureProvider":          "Configure",
				"StopProvider":               "Stop",
				"ValidateProviderConfig":     "PrepareProviderConfig",
				"ValidateResourceConfig":     "ValidateResourceTypeConfig",
				"ValidateDataResourceConfig": "ValidateDataSourceConfig",
			},
		},
		{
			// vault/sdk/plugin, secrets engines and auth methods. Without the variable
			// the plugin asks Vault for its certificate. Version 5 takes the backend's id
			// from the metadata; one process holds one backend here.
			name: "vault",
			spec: Spec{
				Handshake: cookie("VAULT_BACKEND_PLUGIN", []int{4, 5}, "6669da05-b1c8-4f49-97d9-c8e5bed98e20"),
				Transport: transportGRPC, TLS: tlsAuto,
				Metadata:  map[string]map[string]string{"*": {"multiplex_id": "patchbay"}},
				Callbacks: vaultCallbacks(),
				BrokerIDs: map[string]string{"pb.Backend/Setup": "broker_id"},
				StartCalls: []StartCall{
					{Operation: "pb.Backend/Setup", Data: plugin.RawJSON(`{"backendUUID": "` + vaultBackend + `"}`), Error: "err"},
					{Operation: "pb.Backend/Initialize", Error: "err.errMsg"},
				},
			},
			env: map[string]string{"VAULT_PLUGIN_AUTOMTLS_ENABLED": "true"},
		},
		{
			// tflint-plugin-sdk, plugin/internal/host2plugin; 10 is gRPC as well.
			name: "tflint",
			spec: Spec{
				Handshake: cookie("TFLINT_RULESET_PLUGIN", []int{10, 11}, "5adSn1bX8nrDfgBqiAqqEkC6OE1h3iD8SqbMc5UUONx8x3xCF0KlPDsBRNDjoYDP"),
				Transport: transportGRPC,
			},
		},
		{
			// grafana-plugin-sdk-go, backend/grpcplugin: data sources and apps alike.
			name: "grafana",
			spec: Spec{Handshake: cookie("grafana_plugin_type", []int{2}, "datasource"), Transport: transportGRPC},
		},
		// go-plugin's examples: go-plugin/examples/basic and so on.
		{
			name: "example-basic",
			spec: Spec{
				Handshake: cookie(basicKey, []int{1}, helloValue), Transport: transportNetRPC, Plugin: "greeter",
				Describe: Describe{Methods: map[string]Method{"Greet": {Args: "any", Reply: "string"}}},
			},
		},
		{
			name: "example-bidirectional",
			// What its AddHelper answers is for the manifest to say.
			spec: Spec{
				Handshake: cookie(basicKey, []int{1}, helloValue), Transport: transportGRPC,
				BrokerIDs: map[string]string{"proto.Counter/Put": "add_server"},
			},
		},
		{
			// examples/grpc: plugin-go-grpc tells its methods, plugin-go-netrpc has these.
			name: "example-kv",
			spec: Spec{Handshake: cookie(basicKey, []int{1}, helloValue), Plugin: "kv", Describe: describeKV()},
		},
		{
			// Version 2 is net/rpc, version 3 gRPC.
			name: "example-negotiated",
			spec: Spec{Handshake: cookie(basicKey, []int{2, 3}, helloValue), Plugin: "kv", Describe: describeKV()},
		},
		{
			name: "example-streaming",
			spec: Spec{Handshake: cookie(basicKey, []int{1}, helloValue), Transport: transportGRPC},
		},
		{
			// See package reva, which has all that is known of its plugins.
			name: "reva",
			spec: Spec{Handshake: cookie(basicKey, []int{1}, reva.Cookies("")...), Transport: transportNetRPC, Configure: reva.Configure, Errors: reva.Errors()},
			reva: true,
		},
	}
}

const (
	basicKey   = "BASIC_PLUGIN"
	helloValue = "hello"
)

// vaultBackend is what every plugin is told as the id of its backend: each keeps its
// storage apart from the others' anyway.
const vaultBackend = "320be151-096a-5391-9e6a-4e0094e44eda"

// vaultCallbacks are the services that Vault has for its plugins, answered as by one
// server of it without replication. What is left out needs a part of Vault that is not
// here, such as its tokens, and is denied: which, the log says.
func vaultCallbacks() map[string]Callback {
	static := func(text string) Callback { return Callback{Static: plugin.RawJSON(text)} }
	return map[string]Callback{
		"pb.Storage/Get":    {KV: &KVCallback{Do: "get", Value: "entry"}},
		"pb.Storage/Put":    {KV: &KVCallback{Do: "put", Key: "entry.key", Value: "entry"}},
		"pb.Storage/Delete": {KV: &KVCallback{Do: "delete"}},
		"pb.Storage/List":   {KV: &KVCallback{Do: "list", Delimiter: "/"}},

		"pb.Events/SendEvent":               {Bus: &BusCallback{Publish: "vault.event"}},
		"pb.Observations/RecordObservation": {Bus: &BusCallback{Publish: "vault.observation"}},

		// In nanoseconds: 32 days, which is Vault's default.
		"pb.SystemView/DefaultLeaseTTL": static(`{"TTL": "2764800000000000"}`),
		"pb.SystemView/MaxLeaseTTL":     static(`{"TTL": "2764800000000000"}`),
		// Two bits: performance and disaster replication are both disabled.
		"pb.SystemView/ReplicationState": static(`{"state": 12288}`),
		"pb.SystemView/Tainted":          static(`{}`),
		"pb.SystemView/CachingDisabled":  static(`{}`),
		"pb.SystemView/MlockEnabled":     static(`{}`),
		"pb.SystemView/LocalMount":       static(`{}`),
		"pb.SystemView/EntityInfo":       static(`{}`),
		"pb.SystemView/GroupsForEntity":  static(`{}`),
		"pb.SystemView/ClusterInfo":      static(`{"clusterName": "patchbay", "clusterId": "patchbay"}`),
		"pb.SystemView/PluginEnv":        static(`{"pluginEnvironment": {"vaultVersion": "1.21.0"}}`),
		// As Vault's free edition, which rotates nothing by itself.
		"pb.SystemView/GetRotationInformation": {Deny: "Unimplemented"},
		"pb.SystemView/RegisterRotationJob":    {Deny: "Unimplemented"},
		"pb.SystemView/DeregisterRotationJob":  {Deny: "Unimplemented"},
	}
}

func cookie(key string, versions []int, values ...string) Handshake {
	return Handshake{Key: key, Values: values, Versions: versions}
}

func describeKV() Describe {
	return Describe{
		Methods: map[string]Method{"Put": {Args: "Put", Reply: "any"}, "Get": {Args: "string", Reply: "bytes"}},
		Types:   Types{"Put": {Keys: map[string]string{"key": "string", "value": "bytes"}}},
	}
}

// presetOf returns the preset of that name; none is empty.
func presetOf(name string) preset {
	if name == "" {
		return preset{}
	}
	for _, p := range presets() {
		if p.name == name {
			return p
		}
	}
	return preset{}
}

// under returns s with the preset's value in every field that s leaves out.
func (p preset) under(s Spec) Spec {
	if p.reva {
		p.spec.Handshake.Values = reva.Cookies(s.Dialect)
	}
	if p.spec.Errors != nil { // a pattern of the manifest stands beside the preset's
		maps.Copy(p.spec.Errors, s.Errors)
		s.Errors = p.spec.Errors
	}
	if s.Handshake.Value != "" || len(s.Handshake.Values) > 0 {
		p.spec.Handshake.Values = nil
	}
	fill(&s.Handshake, p.spec.Handshake)
	if s.Transport == transportNetRPC {
		p.spec.Metadata, p.spec.Callbacks, p.spec.BrokerIDs = nil, nil, nil // which it has none of
	}
	if s.Transport == transportGRPC {
		p.spec.Plugin, p.spec.Describe = "", Describe{}
	}
	fill(&s, p.spec)
	return s
}

// fill sets the fields of into that have no value to those of from.
func fill[T any](into *T, from T) {
	dst, src := reflect.ValueOf(into).Elem(), reflect.ValueOf(from)
	for i := range dst.NumField() {
		if dst.Field(i).IsZero() {
			dst.Field(i).Set(src.Field(i))
		}
	}
}
