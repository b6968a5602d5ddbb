package container

import "github.com/patchbay-dev/patchbay/core/plugin"

// Spec is the manifest block under spec.container.
type Spec struct {
	Image      string      `json:"image" required:"true" doc:"Image, as for docker run: name, name:tag, name@sha256:HEX, or the id of a local image."`
	Pull       string      `json:"pull,omitempty" enum:"missing,always,never" doc:"missing (default): pull only what is not on this machine. always: before each launch. never: local images only."`
	Command    []string    `json:"command,omitempty" doc:"Replaces the image's entrypoint."`
	Args       []string    `json:"args,omitempty" doc:"Replaces the image's arguments (its CMD)."`
	WorkDir    string      `json:"workDir,omitempty" doc:"Working folder in the container (default: the image's)."`
	User       string      `json:"user,omitempty" doc:"User, uid, user:group or uid:gid to run as (default: the image's)."`
	Network    string      `json:"network,omitempty" doc:"bridge (default), the name of a network, or for jobs also none or host."`
	ReadOnly   bool        `json:"readOnly,omitempty" doc:"Mounts the image read-only; give tmpfs what must be writable."`
	Tmpfs      []string    `json:"tmpfs,omitempty" doc:"Absolute folders that are empty, writable and in memory."`
	CapDrop    []string    `json:"capDrop,omitempty" doc:"Linux capabilities taken away from the engine's default ones: ALL, or names such as NET_RAW."`
	Init       bool        `json:"init,omitempty" doc:"Runs the engine's init as process 1, which reaps children and passes signals on."`
	StopSignal string      `json:"stopSignal,omitempty" doc:"Signal that asks it to stop (default: the image's, else SIGTERM)."`
	Port       int         `json:"port,omitempty" min:"1" max:"65535" doc:"Service: the port in the container that serves HTTP."`
	Health     string      `json:"health,omitempty" doc:"Service: path that answers GET with less than 400 when all is well; asked for readiness and by the probe. Without it any HTTP answer of / is ready, and the probe asks the engine."`
	Invoke     Invoke      `json:"invoke,omitzero" doc:"Service: how an operation becomes an HTTP request."`
	Operations []Operation `json:"operations,omitempty" doc:"Service: what it offers. When given, other operations are not found; when not, the container's own 404 says so."`
}

// Invoke is how an operation becomes an HTTP request.
type Invoke struct {
	Method string `json:"method,omitempty" enum:"POST,PUT,PATCH" doc:"POST (default), PUT or PATCH."`
	Path   string `json:"path,omitempty" doc:"Path with {operation} in it (default /{operation})."`
}

// Operation is one thing that the service offers.
type Operation struct {
	Name    string         `json:"name" required:"true" doc:"Name to invoke it by: letters, digits, dot, hyphen and underscore."`
	Summary string         `json:"summary,omitempty" doc:"What it does, in a sentence."`
	Method  string         `json:"method,omitempty" enum:"GET,POST,PUT,PATCH,DELETE" doc:"Method, when not spec.container.invoke's. GET and DELETE take no argument."`
	Path    string         `json:"path,omitempty" doc:"Path, when not spec.container.invoke's."`
	Input   plugin.RawJSON `json:"input,omitempty" doc:"JSON Schema of the argument."`
	Output  plugin.RawJSON `json:"output,omitempty" doc:"JSON Schema of the answer."`
	Streams bool           `json:"streams,omitempty" doc:"The answer comes in parts: NDJSON lines, server-sent events, or chunks."`
}

// The pull policies.
const (
	pullMissing = "missing"
	pullAlways  = "always"
	pullNever   = "never"
)

// The network modes with a meaning of their own.
const (
	networkBridge = "bridge"
	networkNone   = "none"
	networkHost   = "host"
)

func (s Spec) withDefaults() Spec {
	orDefault(&s.Pull, pullMissing)
	orDefault(&s.Network, networkBridge)
	orDefault(&s.Invoke.Method, "POST")
	orDefault(&s.Invoke.Path, "/"+operationMark)
	return s
}

func orDefault(field *string, value string) {
	if *field == "" {
		*field = value
	}
}
