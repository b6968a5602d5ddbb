package provider

import (
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/manifest"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Spec is the manifest block under spec.provider.
type Spec struct {
	Command       []string                  `json:"command" required:"true" doc:"The provider's executable (relative to the manifest's folder) and arguments to put before define, unpack and listen."`
	Name          string                    `json:"name,omitempty" doc:"Name of the plugin instance that the provider is told (default metadata.name)."`
	Params        map[string]plugin.RawJSON `json:"params,omitempty" doc:"Parameters of the instance. Defaults come from the provider's own definition."`
	ParamsFromEnv map[string]string         `json:"paramsFromEnv,omitempty" doc:"Parameters whose text is that of a variable of spec.env, where {secret: name} may stand; never logged."`
}

// nameKey is the one key of a config that is no parameter: the instance's name.
const nameKey = "Name"

// Options is what the adapter is told of the daemon.
type Options struct {
	// Node names the daemon; processes bear it as a part of their mark.
	Node string
}

// Adapter launches providers.
type Adapter struct{ options Options }

var (
	_ plugin.Adapter   = (*Adapter)(nil)
	_ plugin.Specifier = (*Adapter)(nil)
	_ plugin.Adopter   = (*Adapter)(nil)
	_ plugin.Sweeper   = (*Adapter)(nil)
)

// New returns the adapter. It has no state of its own.
func New(o Options) *Adapter { return &Adapter{options: o} }

// Name is "provider".
func (*Adapter) Name() string { return "provider" }

// Spec returns a new Spec.
func (*Adapter) Spec() any { return new(Spec) }

// Check executes nothing: whether the program is a provider shows at launch.
func (*Adapter) Check(m plugin.Manifest) error {
	var faults plugin.Faults
	var s Spec
	if err := manifest.Decode(m, &s); err != nil {
		var decoded plugin.Faults
		if !errors.As(err, &decoded) {
			return err
		}
		faults = decoded
	}
	checkCommand(&faults, m, s)
	checkParams(&faults, m, s)
	checkUnenforced(&faults, m.Spec)
	proc.CheckProbes(&faults, m)
	return faults.Err()
}

func checkCommand(faults *plugin.Faults, m plugin.Manifest, s Spec) {
	const at = "spec.provider.command"
	if len(s.Command) == 0 || s.Command[0] == "" {
		if !mentions(*faults, at) {
			faults.Add(at, "is missing; give the provider's path and arguments")
		}
		return
	}
	path, err := m.Path(s.Command[0])
	if err == nil {
		err = proc.LookExecutable(path)
	}
	if err != nil {
		faults.Add(at+"[0]", "%s", err)
	}
	for i, arg := range s.Command {
		if strings.ContainsRune(arg, 0) {
			faults.Add(fmt.Sprintf("%s[%d]", at, i), "holds a zero byte")
		}
	}
}

// mentions reports whether a fault of path or something above it is there.
func mentions(faults plugin.Faults, path string) bool {
	for _, f := range faults {
		if strings.HasPrefix(f.Path, path) || strings.HasPrefix(path, f.Path) {
			return true
		}
	}
	return false
}

func checkParams(faults *plugin.Faults, m plugin.Manifest, s Spec) {
	if _, ok := s.Params[nameKey]; ok {
		faults.Add("spec.provider.params.Name", "is the instance's name, not a parameter; give it as spec.provider.name")
	}
	names := make([]string, 0, len(s.ParamsFromEnv))
	for name := range s.ParamsFromEnv {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		at := "spec.provider.paramsFromEnv." + name
		if _, ok := s.Params[name]; ok || name == nameKey {
			faults.Add(at, "is given twice; leave one out")
		}
		if _, ok := m.Spec.Env[s.ParamsFromEnv[name]]; !ok {
			faults.Add(at, "spec.env has no variable %q", s.ParamsFromEnv[name])
		}
	}
}

// checkUnenforced refuses what a provider cannot have.
func checkUnenforced(faults *plugin.Faults, s plugin.Spec) {
	if s.Mode == plugin.Job {
		faults.Add("spec.mode", "a provider is a service; leave it out")
	}
	proc.CheckLimits(faults, s.Limits)
	if len(s.Streams) != 0 {
		faults.Add("spec.streams", "a provider has no sources and sinks; leave it out")
	}
}

// settings is the decoded block of one launch.
type settings struct {
	Spec
	path   string                    // the executable, absolute
	name   string                    // the instance's name
	params map[string]plugin.RawJSON // both kinds of parameters
	hidden []string                  // names of parameters that came from the environment
}

func decode(l plugin.Launch) (s settings, err error) {
	if err := manifest.Decode(l.Manifest, &s.Spec); err != nil {
		return s, err
	}
	if len(s.Command) == 0 {
		return s, fmt.Errorf("spec.provider.command: %w: is missing", plugin.ErrInvalid)
	}
	if s.path, err = l.Manifest.Path(s.Command[0]); err != nil {
		return s, fmt.Errorf("spec.provider.command: %w: %w", plugin.ErrInvalid, err)
	}
	if s.name = s.Name; s.name == "" {
		s.name = l.Manifest.Metadata.Name
	}
	s.params = make(map[string]plugin.RawJSON, len(s.Params)+len(s.ParamsFromEnv))
	for name, value := range s.Params {
		s.params[name] = value
	}
	for name, variable := range s.ParamsFromEnv {
		text, ok := l.Env[variable]
		if !ok {
			return s, fmt.Errorf("spec.provider.paramsFromEnv.%s: %w: no variable %q", name, plugin.ErrInvalid, variable)
		}
		if s.params[name], err = json.Marshal(text); err != nil {
			return s, fmt.Errorf("spec.provider.paramsFromEnv.%s: %w: %w", name, plugin.ErrInvalid, err)
		}
		s.hidden = append(s.hidden, name)
	}
	return s, nil
}
