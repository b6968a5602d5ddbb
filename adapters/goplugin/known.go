package goplugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/debuginfo"
	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/describe"
	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/gobwire"
	"github.com/patchbay-dev/patchbay/adapters/goplugin/reva"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// An object is what a net/rpc plugin is asked for by its name, and what it offers
// then.
type object struct {
	plugin    string
	dialect   string
	described describe.Compiled
}

// isKnown reports that the preset describes the object of that name; "" stands for
// each of its names.
func (c *compiled) isKnown(name string) bool {
	return c.preset.reva && (name == "" || slices.Contains(reva.Kinds(), name))
}

// know compiles what the preset knows, for each cookie that the plugin may accept,
// with the manifest's description laid over it.
func (c *compiled) know(faults *plugin.Faults) {
	c.objects = map[string][]object{}
	var found plugin.Faults
	for _, cookie := range c.Handshake.Values {
		dialect := c.Dialect
		if dialect == "" {
			dialect = reva.DialectOf(cookie)
		}
		for _, name := range reva.Kinds() {
			if c.Plugin != "" && c.Plugin != name {
				continue
			}
			known, _ := reva.Describe(name, dialect)
			one := object{plugin: name, dialect: dialect, described: describe.Compile(known.Under(c.Describe), describePath, &found)}
			c.objects[cookie] = append(c.objects[cookie], one)
		}
	}
	slices.SortFunc(found, func(a, b plugin.Fault) int { return strings.Compare(a.String(), b.String()) })
	*faults = append(*faults, slices.Compact(found)...) // one for each object otherwise
}

// chooseDialect takes the dialect from the debugging information: all else is known.
func (p *process) chooseDialect(found debuginfo.Found) error {
	p.Dialect = cmp.Or(p.Dialect, reva.DialectIn(found))
	if p.Dialect == "" {
		return errors.New("no type of the binary has the method Configure, as all plugins of Reva have; write spec.goplugin.dialect")
	}
	return nil
}

// choices are the objects that a plugin may have, in the order in which it is asked.
func (p *process) choices() []object {
	if known := p.objects[cmp.Or(p.cookie, p.Handshake.Values[0])]; len(known) > 0 {
		return known
	}
	return []object{{p.Plugin, "", p.described}}
}

// choose makes one of them that which is spoken to.
func (p *process) choose(o object) {
	p.Plugin, p.Dialect, p.described = o.plugin, o.dialect, o.described
}

// dispenseAny dispenses the first of the choices that the plugin has. Control's own
// calls are the same in every description.
func (n *netrpc) dispenseAny(ctx context.Context, s *session) error {
	var err error
	for _, one := range n.choices() {
		n.choose(one)
		err = s.ready(ctx)
		if no := (*plugin.Refusal)(nil); !errors.As(err, &no) {
			return err
		}
	}
	return err
}

// checkConfig makes what is sent to the plugin of what the manifest has for it.
func (c *compiled) checkConfig(faults *plugin.Faults) {
	const path = "spec.goplugin.config"
	switch {
	case c.Dialect != "" && !c.preset.reva:
		faults.Add("spec.goplugin.dialect", "is for preset reva; leave it out")
	case c.Configure == "" && len(c.Config) > 0:
		faults.Add("spec.goplugin.configure", "is missing; name the operation that takes config")
	}
	c.setup = c.Config
	if c.preset.reva {
		if len(c.Config) == 0 {
			c.Config = plugin.RawJSON("{}")
		}
		if c.Config[0] != '{' {
			faults.Add(path, "is no object; write the driver's table, as {users: /etc/users.json}")
			return
		}
		c.setup = fmt.Appendf(nil, `{%q: %s}`, reva.ConfigField, c.Config)
	}
	if described := c.sample(); c.Configure != "" && described != nil {
		checkArgument(described, c.Configure, c.setup, faults)
	}
}

// sample is a description to check arguments by; nil when there is none before the
// launch.
func (c *compiled) sample() *describe.Compiled {
	for _, cookie := range c.Handshake.Values {
		for i := range c.objects[cookie] {
			return &c.objects[cookie][i].described
		}
	}
	if len(c.described.Operations) > 0 {
		return &c.described
	}
	return nil
}

func checkArgument(by *describe.Compiled, operation string, argument []byte, faults *plugin.Faults) {
	o := by.Operations[operation]
	if o == nil {
		faults.Add("spec.goplugin.configure", "%q is not described under describe.methods", operation)
		return
	}
	argument, err := o.Argument(argument)
	if err == nil {
		_, err = gobwire.NewWriter(by.Table).Request(nil, "", 0, o.Args, o.Needs, argument)
	}
	if fault := (*gobwire.Fault)(nil); errors.As(err, &fault) {
		faults.Add("spec.goplugin.config"+strings.TrimPrefix(fault.Path, "."+reva.ConfigField), "%s", fault.Detail)
	}
}

// configureBy calls the operation that takes the configuration.
func (p *process) configureBy(ctx context.Context, to link) error {
	if p.Configure == "" {
		return nil
	}
	err := to.invoke(ctx, plugin.Invocation{Operation: p.Configure, Data: p.setup}, func([]byte) error { return nil })
	if no := (*plugin.Refusal)(nil); errors.As(err, &no) {
		return fmt.Errorf("configure: %w: the plugin does not take spec.goplugin.config: %s", plugin.ErrUnavailable, no)
	}
	if err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	return nil
}
