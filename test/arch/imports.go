package arch

import (
	"fmt"
	"strings"
)

// direction says what of the house a folder may import. The longest folder that
// holds a file counts; "x/..." allows x and all below it.
var direction = []struct {
	folder string
	may    []string
	reason string
}{
	{"core/plugin", nil, "the vocabulary stands on the standard library alone, so that everybody can use it"},
	{"core/trace", []string{"core/plugin"}, "tells of invocations, and knows nobody"},
	{"core/health", []string{"core/plugin"}, "asks what it is given, and knows nobody"},
	{"core/lifecycle", []string{"core/plugin"}, "the state machine is pure"},
	{"core/grant", []string{"core/plugin"}, "decisions are pure"},
	{"core/secret", []string{"core/plugin"}, "resolves references, knows nobody"},
	{"core/config", []string{"core/plugin"}, "settings are data"},
	{"core/manifest", []string{"core/plugin"}, "adapters decode with it, so it can know none"},
	{"core/logs", []string{"core/plugin", "core/bus"}, "lines go to the bus's streams, and history comes from them"},
	{"core/bus", []string{"core/plugin"}, "the bus carries nouns and knows no other room"},
	{"core/store", []string{"core/plugin", "core/bus"}, "desired state lies in the bus's JetStream"},
	{"core/supervise", []string{"core/plugin", "core/lifecycle"}, "what it needs of logs, secrets and bus are interfaces of its own"},
	{"core/dispatch", []string{"core/plugin", "core/grant", "core/supervise", "core/trace"}, "three frames from caller to plugin, the bus not on the path"},
	{"core/reconcile", []string{"core/plugin", "core/manifest", "core/supervise", "core/dispatch", "core/store", "core/bus"}, "compares what is applied with what runs, and shows both as one registry"},
	{"core/api/wire", []string{"core/plugin"}, "clients import it"},
	{"core/api", []string{"core/..."}, "the top of core; adapters reach it through serve only"},
	{"adapters/internal", []string{"core/plugin", "adapters/internal/..."}, "what adapters share knows none of them"},
	{"adapters", []string{"core/plugin", "core/manifest", "adapters/..."}, "the list of adapters names them all; each adapter is held tighter below"},
	{"manifests", nil, "embedded files and nothing else"},
	{"manifests/gen", []string{"core/manifest", "core/plugin", "adapters"}, "writes the schema from the adapters' types"},
	{"sdk/go/client", []string{"core/plugin", "core/api/wire"}, "a client must not drag the daemon in"},
	{"sdk/go", []string{"core/plugin", "sdk/go/..."}, "plugins of others link it"},
	{"cmd/patchbay/internal/cli", []string{"core/plugin", "core/api/wire", "sdk/go/client"}, "the command line can do what the API can, and nothing else"},
	{"cmd/patchbay/internal/layers", nil, "runs functions from the bottom up and ends them from the top; knows nobody"},
	{"cmd/patchbay/internal/serve", []string{"core/...", "adapters/...", "manifests/...", "cmd/patchbay/internal/layers"}, "the one place that knows everybody"},
	{"cmd/patchbay", []string{"cmd/patchbay/internal/...", "adapters", "core/config", "core/api/wire", "sdk/go/client"}, "main chooses between daemon and command line, and declares the daemon's flags"},
	{"test", []string{"..."}, "tests may know everything, and nothing but tests knows them"},
}

// imports: down, never up or sideways.
func imports(h House) []string {
	var found []string
	for _, f := range h.Files {
		if f.IsTest() {
			continue
		}
		may, reason, ok := mayImport(f.Folder())
		for _, imp := range f.Imports() {
			inner, ours := strings.CutPrefix(imp, Module+"/")
			switch {
			case !ours:
			case !ok:
				found = append(found, fmt.Sprintf("%s: the folder is not in the table of test/arch", f.Path))
			case !allowed(f.Folder(), inner, may):
				found = append(found, fmt.Sprintf("%s imports %s: %s", f.Path, inner, reason))
			}
		}
	}
	return found
}

func mayImport(folder string) (may []string, reason string, ok bool) {
	longest := -1
	for _, d := range direction {
		if under(folder, d.folder) && len(d.folder) > longest {
			longest, may, reason, ok = len(d.folder), d.may, d.reason, true
		}
	}
	if one, in := adapterOf(folder); in {
		return []string{"core/plugin", "core/manifest", "adapters/internal/...", "adapters/" + one + "/..."},
			"an adapter knows core's vocabulary and manifest, and no other adapter", true
	}
	return may, reason, ok
}

// adapterOf names the adapter whose folder it is.
func adapterOf(folder string) (string, bool) {
	parts := strings.Split(folder, "/")
	if len(parts) < 2 || parts[0] != "adapters" || parts[1] == "internal" {
		return "", false
	}
	return parts[1], true
}

func allowed(folder, inner string, may []string) bool {
	for _, m := range may {
		prefix, all := strings.CutSuffix(m, "...")
		prefix = strings.TrimSuffix(prefix, "/")
		if m == inner || all && (prefix == "" || under(inner, prefix)) {
			return true
		}
	}
	return under(inner, folder) // its own subfolders
}

// homes says where a library lives. Tests may use every library that is listed.
var homes = []struct {
	library string
	folders []string
	reason  string
}{
	{"github.com/labstack/echo/v4", []string{"core/api"}, "REST; facades return http.Handler"},
	{"github.com/nats-io/nats.go", []string{"core/bus", "core/store"}, "the bus, and KV on it"},
	{"github.com/nats-io/nats-server/v2", []string{"core/bus"}, "the embedded server"},
	{"github.com/nats-io/nkeys", []string{"core/bus"}, "credentials of an external server"},
	{"github.com/nats-io/jwt/v2", []string{"core/bus"}, "credentials of an external server"},
	{"github.com/nats-io/nuid", []string{"core/bus"}, "message ids that cost nothing"},
	{"github.com/docker/docker", []string{"adapters/container"}, "the Engine API"},
	{"github.com/docker/go-connections", []string{"adapters/container"}, "port types of the Engine API"},
	{"github.com/distribution/reference", []string{"adapters/container"}, "image names"},
	{"github.com/opencontainers/image-spec", []string{"adapters/container"}, "platform types of the Engine API"},
	{"github.com/opencontainers/go-digest", []string{"adapters/container"}, "image digests"},
	{"github.com/containerd/errdefs", []string{"adapters/container"}, "error classes of the Engine API"},
	{"github.com/hashicorp/go-plugin", []string{"sdk/go"}, "the serving side, and tests; the launcher is our own"},
	{"github.com/hashicorp/go-hclog", []string{"sdk/go"}, "go-plugin's logger"},
	{"github.com/hashicorp/yamux", []string{"adapters/goplugin"}, "the multiplexer of net/rpc and its broker"},
	{"google.golang.org/grpc", []string{"adapters/goplugin", "sdk/go/goplugin"}, "go-plugin's second protocol"},
	{"google.golang.org/protobuf", []string{"adapters/goplugin", "sdk/go/goplugin"}, "messages by reflection"},
	{"google.golang.org/genproto/googleapis/rpc", []string{"adapters/goplugin"}, "status details"},
	{"go.starlark.net", []string{"adapters/starlark"}, "the interpreter"},
	{"go.nanomsg.org/mangos/v3", nil, "tests only: the other side of our own SP framing"},
	{"github.com/spf13/cobra", []string{"cmd/patchbay"}, "verbs and flags"},
	{"github.com/spf13/pflag", []string{"cmd/patchbay", "core/config"}, "cobra's flags; the settings declare theirs"},
	{"go.yaml.in/yaml/v3", []string{"core/manifest", "cmd/patchbay/internal/cli", "adapters/provider"}, "manifests in, -o yaml out; a provider's define output is YAML"},
	{"github.com/pelletier/go-toml/v2", []string{"adapters/goplugin/reva"}, "Reva's configuration is TOML"},
	{"go.opentelemetry.io/otel", []string{"core/trace"}, "traces by OTLP; the rest of the house sees begin and end"},
	{"go.opentelemetry.io/proto/otlp", nil, "tests only: what a collector is sent"},
	{"github.com/prometheus/client_golang", []string{"core/api"}, "/metrics"},
	{"github.com/prometheus/client_model", nil, "tests only: reading /metrics"},
	{"github.com/santhosh-tekuri/jsonschema/v6", []string{"core/manifest"}, "checks that the schema and the decoder agree"},
	{"github.com/google/uuid", []string{"core", "adapters"}, "ids where a protocol wants a UUID"},
	{"github.com/google/go-cmp", nil, "tests only"},
	{"github.com/rogpeppe/go-internal", nil, "tests only: testscript"},
	{"golang.org/x/sys", []string{"core", "adapters", "cmd"}, "system calls that syscall lacks"},
	{"golang.org/x/sync", []string{"core", "adapters", "cmd"}, "errgroup: who starts a goroutine waits for it"},
	{"golang.org/x/term", []string{"cmd/patchbay/internal/cli"}, "is it a terminal?"},
	{"golang.org/x/time", []string{"core"}, "rates"},
	{"golang.org/x/net", []string{"core/api"}, "what net/http keeps there"},
	// Only in test/upstream, a module of its own: plugins that others wrote.
	{"github.com/digitalrebar", nil, "tests only: a provider's library"},
	// What the standard library has and the house does not use.
	{"log", nil, "logging is slog; http.Server's ErrorLog is slog.NewLogLogger"},
	{"plugin", nil, "Go's own plugins cannot be unloaded and must match the daemon's build"},
}

// libraries: each has one home, and none comes in unseen.
func libraries(h House) []string {
	var found []string
	for _, f := range h.Files {
		for _, imp := range f.Imports() {
			if under(imp, Module) {
				continue
			}
			if problem := home(f, imp); problem != "" {
				found = append(found, f.Path+" imports "+imp+": "+problem)
			}
		}
	}
	return found
}

func home(f File, imp string) string {
	for _, lib := range homes {
		if imp != lib.library && !(strings.Contains(lib.library, ".") && under(imp, lib.library)) {
			continue
		}
		if f.IsTest() {
			return ""
		}
		for _, folder := range lib.folders {
			if under(f.Folder(), folder) {
				return ""
			}
		}
		return fmt.Sprintf("its home is %v (%s)", lib.folders, lib.reason)
	}
	if first, _, _ := strings.Cut(imp, "/"); !strings.Contains(first, ".") {
		return "" // the standard library
	}
	if under(f.Path, "test/upstream") {
		return "" // its whole purpose is other people's code
	}
	return "the library is not in the table of test/arch; add it with its home and a reason"
}
