package api

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestSelector(t *testing.T) {
	labels := map[string]string{"team": "edge", "tier": "", "a/b": "1"}
	for _, tt := range []struct {
		text string
		want bool
	}{
		{"", true}, {"team=edge", true}, {"team==edge", true}, {"team=core", false}, {"team!=core", true}, {"team!=edge", false},
		{"team", true}, {"!team", false}, {"other", false}, {"!other", true}, {"other!=x", true}, {"tier=", true}, {"tier!=", false},
		{" team = edge , !other ", true}, {"team=edge,team=core", false}, {"a/b=1", true},
	} {
		s, err := ParseSelector(tt.text)
		if err != nil {
			t.Errorf("%q: %v", tt.text, err)
			continue
		}
		if got := s.Match(labels); got != tt.want {
			t.Errorf("%q: got %v, want %v", tt.text, got, tt.want)
		}
	}
}

func TestSelector_refused(t *testing.T) {
	for _, text := range []string{",", "=x", "!", "a=b=c", "!a=b", "a b", "a,,b", "!!a"} {
		if s, err := ParseSelector(text); !errors.Is(err, plugin.ErrInvalid) {
			t.Errorf("%q: got %v %v, want it refused", text, s, err)
		}
	}
}

func FuzzParseSelector(f *testing.F) {
	for _, seed := range []string{"", "a=b", "a==b,c!=d,e,!f", "!", "a=", " a = b ", "=,!=,=="} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSelector(text)
		if err != nil {
			return
		}
		again, err := ParseSelector(s.String())
		if err != nil {
			t.Fatalf("%q became %q: %v", text, s, err)
		}
		if diff := cmp.Diff(s, again, cmp.AllowUnexported(term{})); diff != "" {
			t.Fatalf("%q became %q: %s", text, s, diff)
		}
	})
}
