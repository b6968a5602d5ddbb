package api

import (
	"fmt"
	"strings"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// selectorTermsMax bounds a label selector: each term is looked at for each
// plugin of a page, and nobody writes more by hand.
const selectorTermsMax = 32

// Selector chooses plugins by their labels. The zero Selector chooses all.
type Selector []term

type term struct {
	key, value string
	test       test
}

type test int

const (
	equals test = iota
	differs
	exists
	absent
)

// ParseSelector reads terms joined by commas, all of which must hold: k=v
// (or k==v), k!=v (true when k is absent, too), k, !k.
func ParseSelector(text string) (Selector, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	parts := strings.Split(text, ",")
	if len(parts) > selectorTermsMax {
		return nil, fmt.Errorf("%w: labelSelector has %d terms, the most is %d", plugin.ErrInvalid, len(parts), selectorTermsMax)
	}
	selector := make(Selector, len(parts))
	for i, part := range parts {
		t := parseTerm(strings.TrimSpace(part))
		if t.key == "" || strings.ContainsAny(t.key, "=! \t") || strings.ContainsAny(t.value, "=! \t") {
			return nil, fmt.Errorf("%w: labelSelector: %q is no term; write key=value, key!=value, key or !key", plugin.ErrInvalid, part)
		}
		selector[i] = t
	}
	return selector, nil
}

func parseTerm(text string) term {
	if key, ok := strings.CutPrefix(text, "!"); ok {
		return term{key: strings.TrimSpace(key), test: absent}
	}
	key, value, found := strings.Cut(text, "=")
	if !found {
		return term{key: text, test: exists}
	}
	t := term{key: strings.TrimSpace(key), value: strings.TrimSpace(strings.TrimPrefix(value, "=")), test: equals}
	if k, ok := strings.CutSuffix(t.key, "!"); ok {
		t.key, t.test = strings.TrimSpace(k), differs
	}
	return t
}

// Match reports whether all terms hold for labels.
func (s Selector) Match(labels map[string]string) bool {
	for _, t := range s {
		if !t.match(labels) {
			return false
		}
	}
	return true
}

func (t term) match(labels map[string]string) bool {
	value, ok := labels[t.key]
	switch t.test {
	case equals:
		return ok && value == t.value
	case differs:
		return !ok || value != t.value
	case exists:
		return ok
	default:
		return !ok
	}
}

// String writes the selector so that ParseSelector reads the same.
func (s Selector) String() string {
	parts := make([]string, len(s))
	for i, t := range s {
		switch t.test {
		case equals:
			parts[i] = t.key + "=" + t.value
		case differs:
			parts[i] = t.key + "!=" + t.value
		case exists:
			parts[i] = t.key
		default:
			parts[i] = "!" + t.key
		}
	}
	return strings.Join(parts, ",")
}
