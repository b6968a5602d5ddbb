package manifest

import (
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Limits of single fields, with where each number comes from.
const (
	labelBytesMax       = 63        // name part and value, as in Kubernetes
	labelPrefixBytesMax = 253       // a DNS name before the slash
	labelsMax           = 64        // all of them travel in every list
	annotationsBytesMax = 64 << 10  // kept in the store's every revision
	envBytesMax         = 128 << 10 // Linux: MAX_ARG_STRLEN for "NAME=value" and its end
	envMax              = 1000      // the whole environment must fit into execve's 2 MiB
	streamsMax          = 64        // each is a goroutine and a socket
	subjectBytesMax     = 200       // NATS advises less than 256 for a whole subject
)

var (
	labelPattern  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)
	envPattern    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	secretPattern = regexp.MustCompile(`^[a-z0-9._-]+(/[a-z0-9._-]+)*$`)
	digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	tokenPattern  = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
)

// common returns what is wrong with m whatever its adapter.
func common(m plugin.Manifest) plugin.Faults {
	var faults plugin.Faults
	if m.APIVersion != plugin.APIVersion {
		faults.Add("apiVersion", "is %q; write %s", abbreviate(m.APIVersion), plugin.APIVersion)
	}
	if m.Kind != plugin.Kind {
		faults.Add("kind", "is %q; write %s", abbreviate(m.Kind), plugin.Kind)
	}
	metadata(&faults, m.Metadata)
	environment(&faults, m.Spec.Env)
	bounds(&faults, m.Spec)
	probes(&faults, m.Spec.Probe)
	exits(&faults, m.Spec.Restart.Exits)
	for i, s := range m.Spec.Streams {
		stream(&faults, (&place{key: "spec", index: -1}).in("streams").at(i).String(), s)
	}
	if len(m.Spec.Streams) > streamsMax {
		faults.Add("spec.streams", "has %d streams, the most is %d; split the plugin", len(m.Spec.Streams), streamsMax)
	}
	if m.Spec.Instances > 1 && len(m.Spec.Streams) > 0 {
		faults.Add("spec.instances", "is more than 1 for a plugin with streams, each of which would be joined to the bus %d times; make it 1", m.Spec.Instances)
	}
	if m.Spec.Mode == plugin.Job {
		job(&faults, m.Spec)
	}
	return faults
}

func metadata(faults *plugin.Faults, m plugin.Metadata) {
	switch {
	case m.Name == "":
		faults.Add("metadata.name", "is missing; give 1 to %d of a-z, 0-9 and hyphen", plugin.NameMax)
	case !plugin.ValidName(m.Name):
		faults.Add("metadata.name", "%q is no name; write 1 to %d of a-z, 0-9 and hyphen, beginning and ending with a letter or digit",
			abbreviate(m.Name), plugin.NameMax)
	}
	root := (&place{key: "metadata", index: -1})
	for _, key := range sorted(m.Labels) {
		at := root.in("labels").in(key).String()
		labelKey(faults, at, key)
		if v := m.Labels[key]; v != "" && (len(v) > labelBytesMax || !labelPattern.MatchString(v)) {
			faults.Add(at, "%q is no label value; write at most %d letters, digits, dots, hyphens and underscores, or put it into annotations",
				abbreviate(v), labelBytesMax)
		}
	}
	if len(m.Labels) > labelsMax {
		faults.Add("metadata.labels", "has %d labels, the most is %d; put the others into annotations", len(m.Labels), labelsMax)
	}
	size := 0
	for _, key := range sorted(m.Annotations) {
		labelKey(faults, root.in("annotations").in(key).String(), key)
		size += len(key) + len(m.Annotations[key])
	}
	if size > annotationsBytesMax {
		faults.Add("metadata.annotations", "has %d bytes, the most is %d; keep it elsewhere and put a link here", size, annotationsBytesMax)
	}
	if m.Source != "" && !filepath.IsAbs(m.Source) {
		faults.Add("metadata.source", "%q is relative; give an absolute folder, or leave it to the command line", abbreviate(m.Source))
	}
}

func labelKey(faults *plugin.Faults, path, key string) {
	name := key
	if prefix, rest, ok := strings.Cut(key, "/"); ok {
		name = rest
		if len(prefix) > labelPrefixBytesMax || !labelPattern.MatchString(prefix) {
			faults.Add(path, "the part before the slash is no domain name, such as example.org")
		}
	}
	if len(name) > labelBytesMax || !labelPattern.MatchString(name) {
		faults.Add(path, "is no key; write at most %d letters, digits, dots, hyphens and underscores, such as team or example.org/team", labelBytesMax)
	}
}

func environment(faults *plugin.Faults, env map[string]plugin.EnvValue) {
	root := (&place{key: "spec", index: -1}).in("env")
	for _, name := range sorted(env) {
		v := env[name]
		at := root.in(name).String()
		switch {
		case !envPattern.MatchString(name):
			faults.Add(at, "is no name of a variable; write letters, digits and underscores, not beginning with a digit")
		case v.Secret != "" && !validSecret(v.Secret):
			faults.Add(at, "secret %q is no name of a secret; write a-z, 0-9, dot, hyphen and underscore, with slashes between parts, such as vendor/key",
				abbreviate(v.Secret))
		case strings.IndexByte(v.Value, 0) >= 0:
			faults.Add(at, "holds a NUL, which no environment can; encode it")
		case len(name)+len(v.Value)+2 > envBytesMax:
			faults.Add(at, "has %d bytes, the most is %d; put it into a file", len(v.Value), envBytesMax)
		}
	}
	if len(env) > envMax {
		faults.Add("spec.env", "has %d variables, the most is %d; put them into a file", len(env), envMax)
	}
}

func validSecret(name string) bool {
	if !secretPattern.MatchString(name) {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if strings.Trim(part, ".") == "" { // "." and ".." would leave the folder of secrets
			return false
		}
	}
	return true
}

func bounds(faults *plugin.Faults, s plugin.Spec) {
	full := plugin.Manifest{Spec: s}.WithDefaults().Spec
	if b := full.Restart.Backoff; b.Min > b.Max {
		faults.Add("spec.restart.backoff", "min %s is more than max %s; swap them, or raise max", b.Min.Std(), b.Max.Std())
	}
	if s.Restart.Budget.Failures < -1 {
		faults.Add("spec.restart.budget.failures", "%d is too small; write -1 for never, or 1 and more", s.Restart.Budget.Failures)
	}
	if s.Limits.Payload > plugin.PayloadBytesMax {
		faults.Add("spec.limits.payload", "%d bytes is too large; the most is 64MiB", int64(s.Limits.Payload))
	}
	if age := s.Logs.MaxAge.Std(); age != 0 && (age < plugin.LogsAgeMin || age > plugin.LogsAgeMax) {
		faults.Add("spec.logs.maxAge", "%s is out of range; write 1s to 168h", age)
	}
	if size := s.Logs.MaxSize; size != 0 && (size < plugin.LogsSizeMin || size > plugin.LogsSizeMax) {
		faults.Add("spec.logs.maxSize", "%d bytes is out of range; write 1MiB to 2GiB", int64(size))
	}
	if s.Digest != "" && !digestPattern.MatchString(s.Digest) {
		faults.Add("spec.digest", "%q is no digest; write sha256: and 64 hex digits in lower case", abbreviate(s.Digest))
	}
}

func stream(faults *plugin.Faults, at string, s plugin.Stream) {
	if c := strings.TrimSpace(string(s.Config)); c != "" && c[0] != '{' {
		faults.Add(at+".config", "want an object")
	}
	switch {
	case s.Source != "" && s.Sink != "":
		faults.Add(at, "has both source and sink; make two streams of it")
	case s.Source != "":
		if s.Subscribe != "" {
			faults.Add(at+".subscribe", "belongs to a sink; a source has publish")
		}
		dataName(faults, at, "publish", s.Publish)
	case s.Sink != "":
		if s.Publish != "" {
			faults.Add(at+".publish", "belongs to a source; a sink has subscribe")
		}
		dataName(faults, at, "subscribe", s.Subscribe)
	default:
		faults.Add(at, "has neither source nor sink; name one of the plugin's")
	}
}

// dataName checks what stands behind patchbay.v1.data. on the bus.
func dataName(faults *plugin.Faults, at, key, name string) {
	at += "." + key
	if name == "" {
		faults.Add(at, "is missing; give a data name such as sensors.random")
		return
	}
	if len(name) > subjectBytesMax {
		faults.Add(at, "has %d bytes, the most is %d; shorten it", len(name), subjectBytesMax)
	}
	tokens := strings.Split(name, ".")
	for i, token := range tokens {
		wildcard := token == "*" || token == ">" && i == len(tokens)-1
		switch {
		case wildcard && key == "publish":
			faults.Add(at, "%q has a wildcard; a source publishes on one name", abbreviate(name))
			return
		case !wildcard && !tokenPattern.MatchString(token):
			faults.Add(at, "%q is no data name; write letters, digits, - and _ with dots between, such as sensors.random%s", abbreviate(name),
				map[string]string{"subscribe": "; * stands for one part, > at the end for the rest"}[key])
			return
		}
	}
}

// job refuses what is for services: a job is launched per invocation.
func job(faults *plugin.Faults, s plugin.Spec) {
	// Defaults are written in when a manifest is stored, those of then.
	defaults, full := plugin.Manifest{}.WithDefaults().Spec, plugin.Manifest{Spec: s}.WithDefaults().Spec
	if !reflect.DeepEqual(full.Restart, defaults.Restart) {
		faults.Add("spec.restart", "is for services; a job runs once per invocation; leave it out")
	}
	if full.Probe != defaults.Probe {
		faults.Add("spec.probe", "is for services; a job ends by itself; leave it out")
	}
	if s.Start == plugin.Lazy {
		faults.Add("spec.start", "is for services; every run of a job starts at its call; leave it out")
	}
	if s.Instances > 1 {
		faults.Add("spec.instances", "is for services; every call of a job has an instance of its own; leave it out")
	}
	if len(s.Streams) > 0 {
		faults.Add("spec.streams", "is for services; leave it out, or write mode: service")
	}
}

// tags checks the enum, min and max tags of values that did not come through the
// decoder. Zero values mean the default.
func tags(faults *plugin.Faults, p *place, v reflect.Value) {
	for _, m := range members(v.Type()) {
		f, at := v.FieldByIndex(m.index), p.in(m.name)
		switch {
		case f.IsZero() || m.typ.Implements(textType) || reflect.PointerTo(m.typ).Implements(textType):
		case f.Kind() == reflect.Struct:
			tags(faults, at, f)
		case f.Kind() == reflect.Pointer && f.Elem().Kind() == reflect.Struct:
			tags(faults, at, f.Elem())
		case f.Kind() == reflect.String:
			if words, ok := m.tag.Lookup("enum"); ok && !oneOf(words, f.String()) {
				faults.Add(at.String(), "%q is unknown; want one of %s", abbreviate(f.String()), strings.ReplaceAll(words, ",", ", "))
			}
		case f.CanInt():
			if detail := outOfBounds(float64(f.Int()), m.tag); detail != "" {
				faults.Add(at.String(), "%d %s", f.Int(), detail)
			}
		case f.CanFloat():
			if detail := outOfBounds(f.Float(), m.tag); detail != "" {
				faults.Add(at.String(), "%g %s", f.Float(), detail)
			}
		}
	}
}

func sorted[V any](m map[string]V) []string {
	if len(m) == 0 {
		return nil
	}
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
