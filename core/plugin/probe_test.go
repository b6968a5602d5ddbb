package plugin_test

import (
	"testing"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestExitRule_matches(t *testing.T) {
	rule := plugin.ExitRule{Codes: []int{0, 75}, Signals: []string{"SIGTERM"}}
	for _, tt := range []struct {
		exit plugin.Exit
		want bool
	}{
		{plugin.Exit{Code: 0}, true}, {plugin.Exit{Code: 75}, true}, {plugin.Exit{Code: 1}, false},
		{plugin.Exit{Code: -1, Signal: "SIGTERM"}, true}, {plugin.Exit{Code: -1, Signal: "SIGKILL"}, false},
		{plugin.Exit{Code: -1}, false},
		{plugin.Exit{Code: 75, OOM: true}, false},
	} {
		if got := rule.Matches(tt.exit); got != tt.want {
			t.Errorf("%+v: got %t, want %t", tt.exit, got, tt.want)
		}
	}
}

func FuzzParseStatuses(f *testing.F) {
	for _, seed := range []string{"200-399", "200, 204,304", "", "-", "99", "200-", "600"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		set, err := plugin.ParseStatuses(text)
		if err == nil && (len(set) == 0 || set.Has(99) || set.Has(600)) {
			t.Errorf("%q: got %v, want statuses from 100 to 599", text, set)
		}
	})
}

func TestStatuses(t *testing.T) {
	set, err := plugin.ParseStatuses("200-299, 304")
	if err != nil {
		t.Fatal(err)
	}
	for status, want := range map[int]bool{199: false, 200: true, 299: true, 300: false, 304: true} {
		if set.Has(status) != want {
			t.Errorf("%d: got %t, want %t", status, !want, want)
		}
	}
}
