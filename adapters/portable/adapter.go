package portable

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/manifest"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// The languages of the two SDKs.
const (
	languageGo     = "go"
	languagePython = "python"
)

// nameMax bounds the names of plugins and symbols. The longest socket path is
// "/tmp/patchbay_SYMBOL_NUMBER_0_ack.ipc", and the kernel takes 107 bytes.
const nameMax = 64

// tmp is where the SDKs have their sockets.
const tmp = "/tmp"

var namePattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]*$`)

// Spec is the manifest block: what stands in an eKuiper plugin's JSON, and which
// interpreter runs it.
type Spec struct {
	Language   string   `json:"language" required:"true" enum:"go,python" doc:"The SDK's language: go or python."`
	Executable string   `json:"executable" required:"true" doc:"The program, or the Python script; relative to the manifest's folder."`
	Python     string   `json:"python,omitempty" doc:"With python: the interpreter, or the folder of a virtual environment (default: python3 of the daemon's PATH)."`
	Name       string   `json:"name,omitempty" doc:"The name compiled into the plugin (default: metadata.name)."`
	Functions  []string `json:"functions,omitempty" doc:"Functions that the plugin has; each is an operation."`
	Sources    []string `json:"sources,omitempty" doc:"Sources that the plugin has; spec.streams joins them to the bus."`
	Sinks      []string `json:"sinks,omitempty" doc:"Sinks that the plugin has; spec.streams joins them to the bus."`
}

// Options are the daemon's settings for all portable plugins.
type Options struct {
	// Python is the interpreter for manifests that name none; empty means the
	// python3 found on the daemon's PATH.
	Python string
	// Node names the daemon; processes bear it as a part of their mark.
	Node string
}

// Adapter launches portable plugins.
type Adapter struct{ options Options }

var (
	_ plugin.Adapter   = (*Adapter)(nil)
	_ plugin.Specifier = (*Adapter)(nil)
	_ plugin.Adopter   = (*Adapter)(nil)
	_ plugin.Sweeper   = (*Adapter)(nil)
)

// New returns the adapter.
func New(o Options) *Adapter { return &Adapter{options: o} }

// Name is the manifest key.
func (a *Adapter) Name() string { return "portable" }

// Spec returns a zero manifest block.
func (a *Adapter) Spec() any { return new(Spec) }

// Check reports every fault of m.
func (a *Adapter) Check(m plugin.Manifest) error {
	var spec Spec
	if err := manifest.Decode(m, &spec); err != nil {
		return err
	}
	var faults plugin.Faults
	a.checkProgram(&faults, m, spec)
	checkSymbols(&faults, m, spec)
	checkStreams(&faults, m, spec)
	checkUnsupported(&faults, m)
	proc.CheckProbes(&faults, m)
	return faults.Err()
}

func (a *Adapter) checkProgram(faults *plugin.Faults, m plugin.Manifest, spec Spec) {
	if spec.Language == languageGo && spec.Python != "" {
		faults.Add("spec.portable.python", "only goes with language: python; leave it out")
	}
	program, err := m.Path(spec.Executable)
	if err == nil {
		err = visible(program)
	}
	if err == nil && spec.Language == languageGo {
		err = proc.LookExecutable(program)
	}
	if err == nil && spec.Language == languagePython {
		err = lookFile(program)
	}
	if err != nil {
		faults.Add("spec.portable.executable", "%s", err)
	}
	if spec.Language == languagePython {
		if _, err := a.interpreter(m, spec); err != nil {
			faults.Add("spec.portable.python", "%s", err)
		}
	}
}

// visible says whether a program can be seen through the private /tmp: proc
// shows the program's folder when that is below /tmp, but covers /tmp itself.
func visible(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil // it does not exist, which is told better elsewhere
	}
	hidden := strings.HasPrefix(real, tmp+"/") && filepath.Dir(real) != filepath.Dir(path)
	if hidden || filepath.Dir(path) == tmp {
		return fmt.Errorf("%s is %s, and /tmp is private to the plugin; put it into a folder elsewhere", path, real)
	}
	return nil
}

func lookFile(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%s does not exist", path)
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	}
	return nil
}

// interpreter finds the Python that runs the plugin.
func (a *Adapter) interpreter(m plugin.Manifest, spec Spec) (string, error) {
	python := spec.Python
	if python == "" {
		python = a.options.Python
	}
	if python == "" {
		python = "python3"
	}
	if !strings.Contains(python, "/") {
		return lookPath(python)
	}
	path, err := m.Path(python)
	if err != nil {
		return "", err
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, "bin", "python")
	}
	if strings.HasPrefix(path, tmp+"/") {
		return "", fmt.Errorf("%s lies below /tmp, which is private to the plugin; put it elsewhere", path)
	}
	return path, proc.LookExecutable(path)
}

func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is not on the daemon's PATH; install it, or give the interpreter's path", name)
	}
	return filepath.Abs(path)
}

func checkSymbols(faults *plugin.Faults, m plugin.Manifest, spec Spec) {
	if name := spec.name(m); !validName(name) {
		faults.Add("spec.portable.name", "%q is not usable as a plugin name; want 1 to %d of A-Z, a-z, 0-9, _ and -", name, nameMax)
	}
	if len(spec.Functions)+len(spec.Sources)+len(spec.Sinks) == 0 {
		faults.Add("spec.portable", "declares no function, source or sink; name at least one that the plugin has")
	}
	for _, kind := range []struct {
		key   string
		names []string
	}{{"functions", spec.Functions}, {"sources", spec.Sources}, {"sinks", spec.Sinks}} {
		seen := map[string]bool{}
		for n, name := range kind.names {
			path := fmt.Sprintf("spec.portable.%s[%d]", kind.key, n)
			if !validName(name) {
				faults.Add(path, "%q is not a name; want 1 to %d of A-Z, a-z, 0-9, _ and -", name, nameMax)
			}
			if seen[name] {
				faults.Add(path, "%q stands here twice", name)
			}
			seen[name] = true
		}
	}
}

func validName(s string) bool { return len(s) <= nameMax && namePattern.MatchString(s) }

func (s Spec) name(m plugin.Manifest) string {
	if s.Name != "" {
		return s.Name
	}
	return m.Metadata.Name
}

func checkStreams(faults *plugin.Faults, m plugin.Manifest, spec Spec) {
	for n, s := range m.Spec.Streams {
		path := fmt.Sprintf("spec.streams[%d]", n)
		if s.Source != "" && !contains(spec.Sources, s.Source) {
			faults.Add(path+".source", "%q is not declared; add it to spec.portable.sources", s.Source)
		}
		if s.Sink != "" && !contains(spec.Sinks, s.Sink) {
			faults.Add(path+".sink", "%q is not declared; add it to spec.portable.sinks", s.Sink)
		}
		if _, _, err := symbolConfig(s.Config); err != nil {
			faults.Add(path+".config", "%s", err)
		}
	}
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

func checkUnsupported(faults *plugin.Faults, m plugin.Manifest) {
	if m.Spec.Mode == plugin.Job {
		faults.Add("spec.mode", "job is not possible for portable plugins, which serve until they are stopped; leave it out")
	}
	proc.CheckLimits(faults, m.Spec.Limits)
}

// argument is what upstream gives every plugin. The Go SDK insists on exactly one
// argument, in JSON.
const argument = `{"sendTimeout":1000}`

// command is how l's process is started, but for its files.
func (a *Adapter) command(l plugin.Launch, spec Spec) (proc.Spec, error) {
	program, err := l.Manifest.Path(spec.Executable)
	if err != nil {
		return proc.Spec{}, err
	}
	s := proc.Spec{Dir: filepath.Dir(program), Env: environ(l), PrivateTmp: l.Dir, Limits: l.Manifest.Spec.Limits}
	if spec.Language == languageGo {
		s.Path, s.Args, s.Digest = program, []string{argument}, l.Manifest.Spec.Digest
		return s, nil
	}
	if s.Path, err = a.interpreter(l.Manifest, spec); err != nil {
		return proc.Spec{}, err
	}
	s.Args = []string{"-u", program, argument}
	return s, checkDigest(program, l.Manifest.Spec.Digest)
}

// environ has the instance's folder under the name that it has for the plugin.
func environ(l plugin.Launch) []string {
	env := map[string]string{"HOME": tmp, "TMPDIR": tmp}
	for name, value := range l.Env {
		env[name] = value
	}
	l.Env = env
	return proc.Environ(l)
}

func checkDigest(path, want string) error {
	if want == "" {
		return nil
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); !strings.EqualFold(got, want) {
		return fmt.Errorf("digest: %s has %s, not %s", path, got, want)
	}
	return nil
}

// Launch starts the process, waits for its handshake and starts every function.
func (a *Adapter) Launch(ctx context.Context, l plugin.Launch) (plugin.Instance, error) {
	var spec Spec
	if err := manifest.Decode(l.Manifest, &spec); err != nil {
		return nil, err
	}
	command, err := a.command(l, spec)
	if err != nil {
		return nil, fmt.Errorf("launch: %w: %w", plugin.ErrInvalid, err)
	}
	i, err := launch(ctx, l, spec, command)
	if errors.Is(err, plugin.ErrDeadline) {
		err = fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	}
	if err != nil {
		return nil, fmt.Errorf("launch: %w", err)
	}
	return i, nil
}
