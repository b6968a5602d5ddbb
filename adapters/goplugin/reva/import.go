package reva

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// loads are the services of Reva that load plugins, with their keys in its configuration.
// Source: internal/grpc/services/userprovider and authprovider of cs3org/reva.
func loads() []load {
	return []load{
		{kind: UserProvider, driver: "driver", tables: "drivers"},
		{kind: AuthProvider, driver: "auth_manager", tables: "auth_managers"},
	}
}

type load struct {
	kind, driver, tables string
}

var (
	// builtinPattern is the name of a driver that is compiled into Reva.
	builtinPattern = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	// urlPattern is what Reva takes for a URL: a host with a dot and a path, the
	// scheme may be missing.
	urlPattern = regexp.MustCompile(`^(https?://)?[A-Za-z0-9][A-Za-z0-9-]*(\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}/[^\s]+$`)
	// relativePattern is what looks like the path of a file, and does not begin at the root.
	relativePattern = regexp.MustCompile(`^[^/:\s][^:\s]*\.(json|ya?ml|toml|db|pem|crt|key)$`)
	// tellingPattern is in the names of values that one would not show.
	tellingPattern = regexp.MustCompile(`(?i)secret|passw|token|bind_pass|private_key`)
)

// An Imported is a manifest as far as Reva's configuration tells one.
type Imported struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Metadata   plugin.Metadata `json:"metadata"`
	Spec       struct {
		GoPlugin importedSpec `json:"goplugin"`
	} `json:"spec"`
}

type importedSpec struct {
	Preset  string         `json:"preset"`
	Command []string       `json:"command,omitempty"`
	Source  *source        `json:"source,omitempty"`
	Plugin  string         `json:"plugin"`
	Config  map[string]any `json:"config"`
}

// source has the fields of goplugin.source that a driver's value can fill.
type source struct {
	Folder  string `json:"folder,omitempty"`
	URL     string `json:"url,omitempty"`
	Package string `json:"package,omitempty"`
}

// Import reads a configuration file of revad, TOML, and returns a manifest per service
// that loads a plugin: its path, its source folder or its URL, and the driver's table
// as config. The tables may be grpc.services, as Reva reads them, or grpc.service, as
// its documentation prints them. folder is where relative paths start; what is there
// on this machine decides whether a path is an executable or source. notes say what
// was left out, changed, or is to be filled in. Errors are [plugin.ErrInvalid] and name
// the line or the key.
func Import(text []byte, folder string) (manifests []Imported, notes []string, err error) {
	var file map[string]any
	if err := toml.Unmarshal(text, &file); err != nil {
		if at, ok := errors.AsType[*toml.DecodeError](err); ok {
			line, column := at.Position()
			return nil, nil, fmt.Errorf("%w: line %d, column %d: %s", plugin.ErrInvalid, line, column, strings.TrimPrefix(at.Error(), "toml: "))
		}
		return nil, nil, fmt.Errorf("%w: %w", plugin.ErrInvalid, err)
	}
	r := reader{folder: folder}
	for _, l := range loads() {
		r.read(file, l)
	}
	if err := errors.Join(r.faults...); err != nil {
		return nil, nil, err
	}
	if len(r.manifests) == 0 {
		return nil, nil, fmt.Errorf("%w: no service loads a plugin: neither grpc.services.userprovider.driver nor "+
			"grpc.services.authprovider.auth_manager is a path or a URL%s", plugin.ErrInvalid, because(r.notes))
	}
	return r.manifests, r.notes, nil
}

func because(notes []string) string {
	if len(notes) == 0 {
		return ""
	}
	return " (" + strings.Join(notes, "; ") + ")"
}

// A reader gathers what the services say.
type reader struct {
	folder    string
	manifests []Imported
	notes     []string
	faults    []error
}

func (r *reader) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

func (r *reader) fault(format string, args ...any) {
	r.faults = append(r.faults, fmt.Errorf("%w: "+format, append([]any{plugin.ErrInvalid}, args...)...))
}

// table is one below parent, nil without; another kind of value is a fault.
func (r *reader) table(parent map[string]any, at, key string) map[string]any {
	value, ok := parent[key]
	if !ok {
		return nil
	}
	t, ok := value.(map[string]any)
	if !ok {
		r.fault("%s is %s; it has to be a table", strings.TrimPrefix(at+"."+key, "."), kindOf(value))
	}
	return t
}

func (r *reader) read(file map[string]any, l load) {
	grpc := r.table(file, "", "grpc")
	services := r.table(r.table(grpc, "grpc", "services"), "grpc.services", l.kind)
	service := r.table(r.table(grpc, "grpc", "service"), "grpc.service", l.kind)
	at := "grpc.services." + l.kind
	switch {
	case service != nil && services != nil:
		r.fault("%s is there as grpc.service.%s, too; leave one of them", at, l.kind)
		return
	case service != nil:
		r.note("grpc.service.%s: Reva itself reads %s, and ignores this spelling of its documentation", l.kind, at)
		at, services = "grpc.service."+l.kind, service
	case services == nil:
		return
	}
	value, ok := services[l.driver]
	if !ok {
		r.note("%s has no %s: Reva takes a built-in one", at, l.driver)
		return
	}
	driver, ok := value.(string)
	if !ok || driver == "" || strings.ContainsRune(driver, 0) {
		r.fault("%s.%s is %s; it has to be a path, a URL or a built-in name", at, l.driver, kindOf(value))
		return
	}
	if builtinPattern.MatchString(driver) {
		r.note("%s.%s = %q is built into Reva and no plugin; left out", at, l.driver, driver)
		return
	}
	m := Imported{APIVersion: plugin.APIVersion, Kind: plugin.Kind, Metadata: plugin.Metadata{Name: "reva-" + l.kind}}
	m.Spec.GoPlugin = importedSpec{Preset: "reva", Plugin: l.kind}
	r.load(&m.Spec.GoPlugin, at+"."+l.driver, driver)
	m.Spec.GoPlugin.Config = r.config(services, at, l, driver)
	r.manifests = append(r.manifests, m)
}

// load says from where the plugin comes.
func (r *reader) load(spec *importedSpec, at, driver string) {
	path := driver
	if !filepath.IsAbs(driver) {
		path = filepath.Join(r.folder, driver)
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		spec.Source = &source{Folder: path}
	case err == nil:
		spec.Command = []string{path}
	case urlPattern.MatchString(driver):
		spec.Source = r.fromURL(at, driver)
	default:
		spec.Command = []string{path}
		r.note("%s: %s is not on this machine; it is taken for an executable. If it is a folder with source, write source: {folder: %s} in place of command", at, path, path)
	}
}

func (r *reader) fromURL(at, driver string) *source {
	text, plain := strings.CutPrefix(driver, "http://")
	if plain {
		r.note("%s: http is not downloaded; it became https", at)
	}
	u, err := url.Parse("https://" + strings.TrimPrefix(text, "https://"))
	if err != nil {
		r.fault("%s: %q is not a URL", at, driver)
		return nil
	}
	s := &source{URL: "https://" + u.Host + u.Path}
	if u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		r.note("%s: what is beside host and path was dropped from the URL", at)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	if parts := strings.SplitN(strings.Trim(u.Path, "/"), "/", 3); strings.EqualFold(u.Host, "github.com") && len(parts) >= 2 {
		s.URL = "https://github.com/" + parts[0] + "/" + strings.TrimSuffix(parts[1], ".git")
		if len(parts) == 3 {
			s.Package = parts[2]
		}
		r.note("%s: add the commit to build, source.commit, all 40 digits; and allow it: patchbay serve --allow-source github.com/%s", at, parts[0])
		return s
	}
	r.note("%s: add source.digest, sha256: and what sha256sum prints of the archive or executable; and allow it: patchbay serve --allow-source %s", at, u.Host)
	return s
}

// config is the driver's table, which has the name of the last element of its path.
func (r *reader) config(service map[string]any, at string, l load, driver string) map[string]any {
	base := lastElement(driver)
	at += "." + l.tables
	all := r.table(service, strings.TrimSuffix(at, "."+l.tables), l.tables)
	for other := range all {
		if other != base {
			r.note("%s.%s is not of this driver, whose table is called %s; left out", at, other, base)
		}
	}
	config := maps.Clone(r.table(all, at, base))
	if config == nil {
		config = map[string]any{} // Reva calls Configure without a table, too
	}
	at += "." + base
	if _, ok := config["users"]; l.kind == UserProvider && base == "json" && !ok && config["user"] != nil {
		config["users"] = config["user"]
		delete(config, "user")
		r.note("%s.user: the plugin reads users, not the user of Reva's documentation; renamed", at)
	}
	for _, key := range slices.Sorted(maps.Keys(config)) {
		if !flat(config[key]) {
			r.fault("%s.%s is %s; a plugin can be given texts, numbers, true or false, and lists of texts", at, key, kindOf(config[key]))
		}
		if text, _ := config[key].(string); relativePattern.MatchString(text) {
			r.note("%s.%s = %q is relative to the working folder of revad; write the whole path, a plugin runs in a folder of its own here", at, key, text)
		}
		if tellingPattern.MatchString(key) {
			r.note("%s.%s may be secret: config is readable by whoever may read the manifest", at, key)
		}
	}
	slices.Sort(r.notes)
	return config
}

func lastElement(driver string) string {
	driver, _, _ = strings.Cut(driver, "?")
	driver = strings.TrimSuffix(strings.TrimRight(driver, "/"), ".git")
	return cmp.Or(driver[strings.LastIndexByte(driver, '/')+1:], driver)
}

// flat reports what net/rpc carries in Reva's map of any values.
func flat(value any) bool {
	switch v := value.(type) {
	case string, bool, int64:
		return true
	case float64:
		return !math.IsNaN(v) && !math.IsInf(v, 0) // JSON has neither
	case []any:
		return !slices.ContainsFunc(v, func(e any) bool { _, ok := e.(string); return !ok })
	}
	return false
}

func kindOf(value any) string {
	switch v := value.(type) {
	case string:
		return fmt.Sprintf("%q", v)
	case map[string]any:
		return "a table"
	case []any:
		return "a list of other values than texts"
	case bool, int64, float64:
		return fmt.Sprint(v)
	}
	return "a date or time"
}
