package provider

import (
	"encoding/json"
	"fmt"
	"regexp"

	"go.yaml.in/yaml/v3"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// A definition is what we read of a provider's answer to define.
type definition struct {
	Name             string
	Version          string
	PluginVersion    int
	HasPublish       bool
	AvailableActions []action
	RequiredParams   []string
	OptionalParams   []string
	StoreObjects     map[string]plugin.RawJSON
	Content          string

	params map[string]param // of Content, by name
}

// An action is one command that a provider offers on one kind of object.
type action struct {
	Model          string // "" is the command set "system"
	Command        string
	RequiredParams []string
	OptionalParams []string
}

// A param is a declaration in a provider's content.
type param struct {
	Secure bool
	Schema plugin.RawJSON // JSON Schema, draft 4; nil when none
	// Default is of the schema; nil when there is none.
	Default plugin.RawJSON
}

// content is what we read of a provider's bundle: the parameters' declarations.
type content struct {
	Sections struct {
		Params map[string]struct {
			Name   string `yaml:"Name"`
			Secure bool   `yaml:"Secure"`
			Schema any    `yaml:"Schema"`
		} `yaml:"params"`
	} `yaml:"sections"`
}

// providerName is stricter than the protocol where it must be: the name becomes
// a folder's.
var providerName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9 ._-]{0,127}$`)

// prefix is the path of the provider's own server; "" for a protocol version
// that we do not know.
func (d *definition) prefix() string {
	switch d.PluginVersion {
	case 2:
		return "/api-plugin/v3"
	case 4:
		return "/api-plugin/v4"
	}
	return ""
}

// parseDefinition reads what define printed on stdout.
func parseDefinition(data []byte) (*definition, error) {
	var d definition
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, fmt.Errorf("%w: not a provider: its stdout is not one JSON object: %w", plugin.ErrInvalid, err)
	}
	if !providerName.MatchString(d.Name) {
		return nil, fmt.Errorf("%w: not a provider: its Name is %.100q", plugin.ErrInvalid, d.Name)
	}
	if d.prefix() == "" {
		return nil, fmt.Errorf("%w: its PluginVersion is %d; 2 and 4 are known", plugin.ErrInvalid, d.PluginVersion)
	}
	for _, a := range d.AvailableActions {
		if a.Command == "" {
			return nil, fmt.Errorf("%w: it declares an action without a Command", plugin.ErrInvalid)
		}
	}
	if err := d.readContent(); err != nil {
		return nil, fmt.Errorf("%w: its Content: %w", plugin.ErrInvalid, err)
	}
	return &d, nil
}

func (d *definition) readContent() error {
	var c content
	if err := yaml.Unmarshal([]byte(d.Content), &c); err != nil {
		return err
	}
	d.params = make(map[string]param, len(c.Sections.Params))
	for key, declared := range c.Sections.Params {
		if declared.Name != "" {
			key = declared.Name
		}
		p := param{Secure: declared.Secure}
		if declared.Schema != nil {
			// What YAML can say and JSON cannot is no schema.
			p.Schema, _ = json.Marshal(declared.Schema)
		}
		if fields, ok := declared.Schema.(map[string]any); ok && fields["default"] != nil {
			p.Default, _ = json.Marshal(fields["default"])
		}
		d.params[key] = p
	}
	return nil
}

// config expands the instance's parameters: given, else declared by default;
// beside them the instance's name. Every required one must be there.
func (d *definition) config(name string, given map[string]plugin.RawJSON) ([]byte, error) {
	all := make(map[string]plugin.RawJSON, len(given)+1)
	for key, value := range given {
		all[key] = value
	}
	if missing := d.complete(all, d.RequiredParams, d.OptionalParams); len(missing) > 0 {
		return nil, fmt.Errorf("spec.provider.params: %w: the provider needs %s", plugin.ErrInvalid, quoted(missing))
	}
	text, err := json.Marshal(name)
	if err != nil {
		return nil, fmt.Errorf("spec.provider.name: %w: %w", plugin.ErrInvalid, err)
	}
	all[nameKey] = text
	body, err := json.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("spec.provider.params: %w: %w", plugin.ErrInvalid, err)
	}
	return body, nil
}

// complete adds the declared defaults of the named parameters to all, and
// returns the required ones that have none.
func (d *definition) complete(all map[string]plugin.RawJSON, required, optional []string) (missing []string) {
	for _, name := range optional {
		d.fill(all, name)
	}
	for _, name := range required {
		if !d.fill(all, name) {
			missing = append(missing, name)
		}
	}
	return missing
}

// fill reports whether all has the parameter, if need be by its default.
func (d *definition) fill(all map[string]plugin.RawJSON, name string) bool {
	if _, ok := all[name]; ok {
		return true
	}
	value := d.params[name].Default
	if value != nil {
		all[name] = value
	}
	return value != nil
}
