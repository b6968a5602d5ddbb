package plugin

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"time"
)

// APIVersion and Kind are what every manifest begins with.
const (
	APIVersion = "patchbay/v1"
	Kind       = "Plugin"
)

// NameMax is the longest plugin name: a DNS label, so that names fit in
// container names, subjects and host names.
const NameMax = 63

var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

// ValidName reports whether s can name a plugin: 1 to 63 of [a-z0-9-], not
// beginning or ending with a hyphen.
func ValidName(s string) bool { return len(s) <= NameMax && namePattern.MatchString(s) }

// RawJSON is JSON text that is passed on as it is.
type RawJSON = json.RawMessage

// A Manifest declares one plugin.
type Manifest struct {
	APIVersion string   `json:"apiVersion" doc:"Always patchbay/v1."`
	Kind       string   `json:"kind" doc:"Always Plugin."`
	Metadata   Metadata `json:"metadata" doc:"Who it is."`
	Spec       Spec     `json:"spec" doc:"What it runs and how it is kept."`
}

// Metadata is who a plugin is.
type Metadata struct {
	Name        string            `json:"name" doc:"Unique name: 1 to 63 of a-z, 0-9 and hyphen, beginning and ending with a letter or digit."`
	Labels      map[string]string `json:"labels,omitempty" doc:"Words to select plugins by."`
	Annotations map[string]string `json:"annotations,omitempty" doc:"Notes that Patchbay keeps and does not read."`
	// Source is the absolute folder against which relative paths in the spec
	// are resolved. The CLI sets it to the manifest file's own folder.
	Source string `json:"source,omitempty" doc:"Absolute folder that relative paths in the spec start from; the command line sets it to the manifest's own folder."`
}

// Mode says how a plugin lives.
type Mode string

// The modes.
const (
	Service Mode = "service" // kept running; the default
	Job     Mode = "job"     // launched per invocation; its exit is the result
)

// Lifetime says whether a plugin outlives the daemon.
type Lifetime string

// The lifetimes.
const (
	// Detached outlives a daemon that dies or leaves it; the next one on the same
	// data folder adopts it. The default for services.
	Detached Lifetime = "detached"
	// Bound ends with the daemon within a second, however that ends. Runs of a
	// job are always bound.
	Bound Lifetime = "bound"
)

// Update says how a new instance takes the place of one that runs.
type Update string

// The ways.
const (
	// Overlap launches the new instance beside the old, which goes on until the new
	// one answers, or for good when it does not. The default where the adapter can.
	Overlap Update = "overlap"
	// Replace stops the old instance first: never are there two. The default for
	// the others.
	Replace Update = "replace"
)

// Start says when a service is launched.
type Start string

// The starts.
const (
	Eager Start = "eager" // once it is applied and at each boot; the default
	Lazy  Start = "lazy"  // at its first call
)

// InstancesMax is the most that spec.instances may say: more processes of one plugin
// than any machine has use for.
const InstancesMax = 64

// Detached reports whether an instance of s is to outlive the daemon.
func (s Spec) Detached() bool { return s.Mode != Job && s.Lifetime != Bound }

// Spec is what a plugin runs and how it is kept. Zero values mean the default;
// core/manifest writes the defaults in.
type Spec struct {
	Mode Mode `json:"mode,omitempty" doc:"service (default): kept running. job: launched per invocation, its exit is the result." enum:"service,job"`
	// Adapter and Block are the one adapter key and what stands under it; on
	// the wire they are that key ("provider": {...}).
	Adapter   string              `json:"-"`
	Block     RawJSON             `json:"-"`
	Lifetime  Lifetime            `json:"lifetime,omitempty" doc:"detached (default for services): it outlives a daemon that dies, and the next one adopts it. bound: it ends with the daemon." enum:"detached,bound"`
	Env       map[string]EnvValue `json:"env,omitempty" doc:"The plugin's environment: a text, or {secret: name}. Nothing is inherited from the daemon."`
	Update    Update              `json:"update,omitempty" doc:"How a new instance takes the place of one that runs, after a change or by reload. overlap (default where the adapter can): it is launched beside the old, which goes on until the new one answers. replace: the old one is stopped first." enum:"overlap,replace"`
	Start     Start               `json:"start,omitempty" doc:"eager (default): it is launched once it is applied, and at each start of the daemon. lazy: at its first call." enum:"eager,lazy"`
	Instances int                 `json:"instances,omitempty" doc:"How many instances there are to be (default 1); calls go to the one that is ready and has the fewest." min:"1" max:"64"`
	Restart   Restart             `json:"restart,omitzero" doc:"When and how often a dead service is started again."`
	Probe     Probe               `json:"probe,omitzero" doc:"How a running service is asked for a sign of life."`
	Limits    Limits              `json:"limits,omitzero" doc:"What the plugin may use."`
	Timeouts  Timeouts            `json:"timeouts,omitzero" doc:"How long Patchbay waits."`
	Logs      Logs                `json:"logs,omitzero" doc:"How much of what the plugin printed is kept."`
	Digest    string              `json:"digest,omitempty" doc:"sha256:HEX of the executable, module or image; another one is refused."`
	Streams   []Stream            `json:"streams,omitempty" doc:"Sources and sinks joined to the bus."`
}

// EnvValue is a text or a reference to a secret.
type EnvValue struct {
	Value  string
	Secret string
}

type secretRef struct {
	Secret string `json:"secret"`
}

// MarshalJSON writes the text, or {"secret": name}.
func (v EnvValue) MarshalJSON() ([]byte, error) {
	if v.Secret != "" {
		return json.Marshal(secretRef{v.Secret})
	}
	return json.Marshal(v.Value)
}

// UnmarshalJSON reads a text, number or boolean as text, or {"secret": name}.
func (v *EnvValue) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '{' {
		var fields map[string]string
		if err := json.Unmarshal(data, &fields); err != nil || len(fields) != 1 || fields["secret"] == "" {
			return fmt.Errorf("want a text or {secret: name}")
		}
		*v = EnvValue{Secret: fields["secret"]}
		return nil
	}
	if len(data) > 0 && (data[0] == '[' || data[0] == 'n') {
		return fmt.Errorf("want a text or {secret: name}")
	}
	var text string
	if json.Unmarshal(data, &text) != nil {
		text = string(data)
	}
	*v = EnvValue{Value: text}
	return nil
}

// RestartPolicy says after which exits a service is started again.
type RestartPolicy string

// The restart policies.
const (
	RestartAlways    RestartPolicy = "always" // the default
	RestartOnFailure RestartPolicy = "on-failure"
	RestartNever     RestartPolicy = "never"
)

// Restart is when and how often a dead service is started again.
type Restart struct {
	Policy  RestartPolicy `json:"policy,omitempty" doc:"always (default), on-failure or never." enum:"always,on-failure,never"`
	Backoff BackoffBounds `json:"backoff,omitzero" doc:"The wait before each retry: random between zero and a ceiling that doubles from min to max."`
	Budget  Budget        `json:"budget,omitzero" doc:"How many failures are tolerated before the plugin is failed for good."`
	Exits   []ExitRule    `json:"exits,omitempty" doc:"What single exits mean, whatever the policy; the first that matches holds."`
}

// BackoffBounds is the wait before a retry: full jitter, doubling from Min to Max.
type BackoffBounds struct {
	Min Duration `json:"min,omitempty" doc:"First ceiling (default 250ms)."`
	Max Duration `json:"max,omitempty" doc:"Last ceiling (default 60s)."`
	// Reset is how long it must have run for its next failure to be the first again.
	Reset Duration `json:"reset,omitempty" doc:"The healthy spell after which the wait starts over at min (default: budget.window)."`
}

// Budget bounds failures within a window.
type Budget struct {
	Failures int      `json:"failures,omitempty" doc:"Failures within the window after which the plugin is failed (default 5; -1: never)." min:"-1" max:"1000000"`
	Window   Duration `json:"window,omitempty" doc:"The window (default 10m)."`
}

// Limits is what a plugin may use. An adapter whose plugins cannot have a limit
// refuses a manifest that sets it; one that this machine cannot keep is said in
// the status of the instance, by Limited.
type Limits struct {
	Memory Bytes   `json:"memory,omitempty" doc:"Memory of all its processes, such as 256MiB."`
	CPU    float64 `json:"cpu,omitempty" doc:"CPUs, such as 0.5." min:"0" max:"1024"`
	Pids   int     `json:"pids,omitempty" doc:"Processes and threads." min:"0" max:"4194304"`
	// OpenFiles: the least is what a program needs before it opens anything of its
	// own, the most is what Linux allows by default (fs.nr_open).
	OpenFiles int   `json:"openFiles,omitempty" doc:"Files and sockets that each of its processes may have open, such as 1024." min:"16" max:"1048576"`
	InFlight  int   `json:"inFlight,omitempty" doc:"Invocations at the same time (default 64); more are answered busy." min:"0" max:"65536"`
	Payload   Bytes `json:"payload,omitempty" doc:"Bytes of one argument and of one result (default 16MiB, at most 64MiB)."`
	LogRate   int   `json:"logRate,omitempty" doc:"Lines a second that are taken of what an instance prints, one second of it at once; a line counts once more for each KiB. The rest is dropped and counted, and the plugin is not slowed; of one that prints faster than it is read a tenth of that is taken, and what it prints is counted by its bytes (default 10000)." min:"0" max:"1000000"`
}

// Logs is how much of a plugin's log is kept, within what the bus keeps of all
// (seven days, 2 GiB).
type Logs struct {
	MaxAge  Duration `json:"maxAge,omitempty" doc:"Lines printed from now on are kept so long: 1s to 168h (default: as long as the bus keeps lines)."`
	MaxSize Bytes    `json:"maxSize,omitempty" doc:"The newest so many bytes of lines are kept, before compression: 1MiB to 2GiB (default: what the bus has room for)."`
}

// What spec.logs may say: messages live for whole seconds, size is kept in parts,
// and the bus keeps no more of all logs together.
const (
	LogsAgeMin  = time.Second
	LogsAgeMax  = 7 * 24 * time.Hour
	LogsSizeMin = 1 << 20
	LogsSizeMax = 2 << 30
)

// Timeouts is how long Patchbay waits.
type Timeouts struct {
	Start  Duration `json:"start,omitempty" doc:"From launch until it can be invoked (default 15s)."`
	Invoke Duration `json:"invoke,omitempty" doc:"For one invocation, unless the caller gives less (default 30s)."`
	Stop   Duration `json:"stop,omitempty" doc:"From the polite request to the kill (default 10s)."`
}

// Stream joins one source or sink of the plugin to the bus.
type Stream struct {
	Source    string  `json:"source,omitempty" doc:"Name of the plugin's source; its data is published."`
	Sink      string  `json:"sink,omitempty" doc:"Name of the plugin's sink; it takes what is subscribed to."`
	Config    RawJSON `json:"config,omitempty" doc:"The source's or sink's own configuration, an object."`
	Publish   string  `json:"publish,omitempty" doc:"With source: the data name to publish on, patchbay.v1.data.NAME."`
	Subscribe string  `json:"subscribe,omitempty" doc:"With sink: the data name or pattern (* and >) to take from."`
}

// Path resolves p against the manifest's source folder. It fails when p is
// relative and there is no such folder.
func (m Manifest) Path(p string) (string, error) {
	if filepath.IsAbs(p) {
		return filepath.Clean(p), nil
	}
	if m.Metadata.Source == "" {
		return "", fmt.Errorf("%q is relative and metadata.source is not set; give an absolute path", p)
	}
	return filepath.Join(m.Metadata.Source, p), nil
}

// WithDefaults returns m with every default of the spec written in, but for the
// adapter's block.
func (m Manifest) WithDefaults() Manifest {
	s := &m.Spec
	orDefault(&s.Mode, Service)
	orDefault(&s.Start, Eager)
	orDefault(&s.Instances, 1)
	orDefault(&s.Restart.Policy, RestartAlways)
	orDefault(&s.Restart.Backoff.Min, Duration(250*time.Millisecond))
	orDefault(&s.Restart.Backoff.Max, Duration(time.Minute))
	orDefault(&s.Restart.Budget.Failures, 5)
	orDefault(&s.Restart.Budget.Window, Duration(10*time.Minute))
	orDefault(&s.Restart.Backoff.Reset, s.Restart.Budget.Window)
	s.Probe = s.Probe.withDefaults()
	orDefault(&s.Limits.InFlight, 64)
	orDefault(&s.Limits.Payload, 16<<20)
	orDefault(&s.Timeouts.Start, Duration(15*time.Second))
	orDefault(&s.Timeouts.Invoke, Duration(30*time.Second))
	orDefault(&s.Timeouts.Stop, Duration(10*time.Second))
	return m
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// specFields is Spec without its methods, so that it marshals field by field.
type specFields Spec

// MarshalJSON writes the adapter's block under the adapter's name.
func (s Spec) MarshalJSON() ([]byte, error) {
	fields, err := json.Marshal(specFields(s))
	if err != nil || s.Adapter == "" {
		return fields, err
	}
	key, err := json.Marshal(s.Adapter)
	if err != nil {
		return nil, err
	}
	block := s.Block
	if len(block) == 0 {
		block = RawJSON("{}")
	}
	out := make([]byte, 0, len(fields)+len(key)+len(block)+2)
	out = append(append(append(append(out, '{'), key...), ':'), block...)
	if string(fields) != "{}" {
		out = append(out, ',')
	}
	return append(out, fields[1:]...), nil
}

// UnmarshalJSON reads what MarshalJSON wrote: the one unknown key whose value is
// an object is the adapter. It is for stored manifests and answers of the API;
// core/manifest reads what people write.
func (s *Spec) UnmarshalJSON(data []byte) error {
	if err := json.Unmarshal(data, (*specFields)(s)); err != nil {
		return err
	}
	var all map[string]RawJSON
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	for key, block := range all {
		switch key {
		case "mode", "lifetime", "update", "start", "instances", "env", "restart", "probe", "limits", "timeouts", "logs", "digest", "streams":
		default:
			s.Adapter, s.Block = key, block
		}
	}
	return nil
}
