package cli

import (
	"strings"
	"testing"
)

func TestGC_listsAndRemoves(t *testing.T) {
	d := newDaemon(t)
	for _, tt := range []struct{ args, asked, said string }{
		{"gc --dry-run", "GET /v1/strays", "1 would be removed\n"},
		{"gc", "DELETE /v1/strays", "1 removed\n"},
	} {
		d.asked = nil
		code, out, errs := patchbay(t, "", strings.Fields(tt.args)...)
		if code != 0 || errs != tt.said || len(d.asked) != 1 || d.asked[0] != tt.asked {
			t.Errorf("%s: got %d, asked %v, said %q, want %s and %q", tt.args, code, d.asked, errs, tt.asked, tt.said)
		}
		if want := "process   4711   p-1        /bin/p \n"; !strings.Contains(out, want) || strings.Contains(out, "\x1b") {
			t.Errorf("%s: got %q, want it to have %q and no escape", tt.args, out, want)
		}
	}
	if code, out, _ := patchbay(t, "", "gc", "--dry-run", "-o", "json"); code != 0 || !strings.Contains(out, `"name": "4711"`) {
		t.Errorf("json: got %d, %s", code, out)
	}
}
