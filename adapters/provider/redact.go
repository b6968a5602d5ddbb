package provider

import (
	"encoding/json"
	"sort"
	"strings"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// redacted stands where a secret stood.
	redacted = "[redacted]"
	// secretBytesMin is the shortest text that is taken for a secret: shorter
	// ones occur everywhere, and a log full of holes hides no more.
	secretBytesMin = 4
)

// A redactor removes known secrets from texts. A nil one removes nothing.
type redactor struct{ replacer *strings.Replacer }

func (r redactor) text(s string) string {
	if r.replacer == nil {
		return s
	}
	return r.replacer.Replace(s)
}

// value removes them from every text of a decoded JSON value.
func (r redactor) value(v any) any {
	switch v := v.(type) {
	case string:
		return r.text(v)
	case []any:
		for i := range v {
			v[i] = r.value(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = r.value(v[key])
		}
	}
	return v
}

// newRedactor knows the secrets of spec.env, the values of secure parameters and
// of those that came from the environment, and the provider's token.
func newRedactor(l plugin.Launch, s settings, d *definition, token string) redactor {
	secrets := map[string]bool{token: true}
	for name, value := range l.Manifest.Spec.Env {
		if value.Secret != "" {
			secrets[l.Env[name]] = true
		}
	}
	for _, name := range s.hidden {
		leaves(s.params[name], secrets)
	}
	for name, declared := range d.params {
		if value, ok := s.params[name]; ok && declared.Secure {
			leaves(value, secrets)
		}
	}
	var pairs []string
	for secret := range secrets {
		if len(secret) >= secretBytesMin {
			pairs = append(pairs, secret)
		}
	}
	if len(pairs) == 0 {
		return redactor{}
	}
	// The longest first: one may be the beginning of another.
	sort.Slice(pairs, func(i, j int) bool { return len(pairs[i]) > len(pairs[j]) })
	oldnew := make([]string, 0, 2*len(pairs))
	for _, secret := range pairs {
		oldnew = append(oldnew, secret, redacted)
	}
	return redactor{strings.NewReplacer(oldnew...)}
}

// leaves gathers every text and number of a JSON value.
func leaves(data []byte, into map[string]bool) {
	var value any
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.UseNumber()
	if d.Decode(&value) != nil {
		return
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			into[v] = true
		case json.Number:
			into[v.String()] = true
		case []any:
			for _, one := range v {
				walk(one)
			}
		case map[string]any:
			for _, one := range v {
				walk(one)
			}
		}
	}
	walk(value)
}
