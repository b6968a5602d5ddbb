package container

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/distribution/reference"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/manifest"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// envBytesMax is what Linux takes as one NAME=value with its zero byte
	// (MAX_ARG_STRLEN). Beyond it the engine reports a start, and the container
	// exits with "argument list too long".
	envBytesMax = 128<<10 - 1
	// memoryMin is the least that the engine accepts.
	memoryMin = 6 << 20
	// operationMark stands in a path for the operation's name.
	operationMark = "{operation}"
)

var (
	operationPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	networkPattern   = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)
	capPattern       = regexp.MustCompile(`^[A-Z][A-Z_]*$`)
)

// Check reports every fault of m's container block and of the parts of the spec
// that containers treat in their own way. It asks no engine.
func (a *Adapter) Check(m plugin.Manifest) error {
	_, err := check(m)
	return err
}

// check returns the block with its defaults written in, or every fault.
func check(m plugin.Manifest) (Spec, error) {
	var s Spec
	if err := manifest.Decode(m, &s); err != nil {
		return s, err
	}
	s = s.withDefaults()
	var f plugin.Faults
	checkImage(&f, s)
	checkBox(&f, s)
	if m.Spec.Mode == plugin.Job {
		checkJob(&f, s)
	} else {
		checkService(&f, s)
		checkProbes(&f, s, m.Spec.Probe)
	}
	if n := m.Spec.Limits.Memory; n != 0 && n < memoryMin {
		f.Add("spec.limits.memory", "is less than the engine's least; give 6MiB or more")
	}
	if len(m.Spec.Streams) > 0 {
		f.Add("spec.streams", "not supported for container: it has no sources and sinks; leave it out")
	}
	for name, v := range m.Spec.Env {
		if why := envFault(name, v.Value); why != "" {
			f.Add("spec.env."+name, "%s", why)
		}
	}
	return s, f.Err()
}

func checkImage(f *plugin.Faults, s Spec) {
	switch ref, err := reference.ParseAnyReference(s.Image); {
	case s.Image == "":
		f.Add("spec.container.image", "is empty; give the image to run")
	case err != nil:
		f.Add("spec.container.image", "%q is no image name: %v", s.Image, err)
	case s.Pull == pullAlways && isID(ref):
		f.Add("spec.container.pull", "an image id cannot be pulled; give the image's name, or leave pull out")
	}
}

// isID reports whether ref is the id of a local image rather than a name.
func isID(ref reference.Reference) bool {
	_, named := ref.(reference.Named)
	return !named
}

// checkBox is what holds the container: user, network, signals, mounts.
func checkBox(f *plugin.Faults, s Spec) {
	if !networkPattern.MatchString(s.Network) {
		f.Add("spec.container.network", "%q is no network; give bridge, none, host or the name of a network", s.Network)
	}
	if s.WorkDir != "" && !path.IsAbs(s.WorkDir) {
		f.Add("spec.container.workDir", "%q is not absolute; begin it with /", s.WorkDir)
	}
	if strings.ContainsAny(s.User, " \t\n\x00") {
		f.Add("spec.container.user", "%q is no user; give a name, a uid, or uid:gid", s.User)
	}
	if s.StopSignal != "" && unix.SignalNum(s.StopSignal) == 0 {
		f.Add("spec.container.stopSignal", "%q is no signal; give a name such as SIGTERM or SIGINT", s.StopSignal)
	}
	for n, dir := range s.Tmpfs {
		if !path.IsAbs(dir) || strings.ContainsAny(dir, ":\x00") {
			f.Add(fmt.Sprintf("spec.container.tmpfs[%d]", n), "%q is not an absolute folder; give one such as /tmp", dir)
		}
	}
	for n, name := range s.CapDrop {
		if !capPattern.MatchString(name) {
			f.Add(fmt.Sprintf("spec.container.capDrop[%d]", n), "%q is no capability; give ALL, or a name such as NET_RAW", name)
		}
	}
}

func checkJob(f *plugin.Faults, s Spec) {
	for field, set := range map[string]bool{
		"port": s.Port != 0, "health": s.Health != "", "operations": len(s.Operations) > 0,
		"invoke": s.Invoke != Spec{}.withDefaults().Invoke,
	} {
		if set {
			f.Add("spec.container."+field, "is for a service; leave it out of a job")
		}
	}
}

func checkService(f *plugin.Faults, s Spec) {
	if s.Port == 0 {
		f.Add("spec.container.port", "is missing; give the port in the container that serves HTTP, or set spec.mode: job")
	}
	if s.Network == networkNone || s.Network == networkHost {
		f.Add("spec.container.network", "%s cannot publish a service's port; use bridge or the name of a network", s.Network)
	}
	checkPath(f, "spec.container.health", s.Health)
	checkPath(f, "spec.container.invoke.path", s.Invoke.Path)
	if !strings.Contains(s.Invoke.Path, operationMark) {
		f.Add("spec.container.invoke.path", "%q lacks %s, so that every operation would be the same", s.Invoke.Path, operationMark)
	}
	seen := map[string]bool{}
	for n, op := range s.Operations {
		at := fmt.Sprintf("spec.container.operations[%d]", n)
		checkPath(f, at+".path", op.Path)
		switch {
		case !operationPattern.MatchString(op.Name):
			f.Add(at+".name", "%q is no operation name; use letters, digits, dot, hyphen and underscore", op.Name)
		case seen[op.Name]:
			f.Add(at+".name", "%q is there twice", op.Name)
		}
		seen[op.Name] = true
	}
}

func checkPath(f *plugin.Faults, at, p string) {
	if p != "" && (p[0] != '/' || strings.ContainsAny(p, " #\x00\r\n")) {
		f.Add(at, "%q is no path; begin it with / and escape what is special", p)
	}
}

// envFault says what is wrong with one variable, without its value: it may be a
// secret.
func envFault(name, value string) string {
	switch {
	case name == "" || strings.ContainsAny(name, "=\x00"):
		return "is no name of a variable"
	case strings.ContainsRune(value, 0):
		return "has a zero byte in it, which no environment can hold"
	case len(name)+1+len(value) > envBytesMax:
		return fmt.Sprintf("is larger than %d bytes, which Linux does not pass to a process; put it in the input or in a file", envBytesMax)
	}
	return ""
}
