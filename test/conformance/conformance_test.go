package conformance_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/test/conformance"
)

// breaksName is the variable that tells a copy of this test which rule its fake
// adapter breaks.
const breaksName = "CONFORMANCE_FAKE_BREAKS"

func TestMain(m *testing.M) {
	if socket := os.Getenv(fakeSocket); socket != "" {
		fakePlugin(socket)
		return
	}
	os.Exit(m.Run())
}

// TestFake runs the suite on the fake: without a fault, or in a copy of this
// process with the fault that is asked for.
func TestFake(t *testing.T) { conformance.Run(t, fixture(os.Getenv(breaksName))) }

// TestRun_findsEachFault: a check that cannot fail is a defect. Every row breaks
// one rule, and the check that is for it must say so.
func TestRun_findsEachFault(t *testing.T) {
	for _, tt := range []struct{ breaks, check string }{
		{"unknown field", "check_refuses/unknown_field"},
		{"crossed", "many_at_once"},
		{"refusal", "refuse"},
		{"unknown operation", "unknown_operation"},
		{"describe", "describe"},
		{"logs", "logs_arrive"},
		{"environment", "environment"},
		{"pipe", "shares_no_pipe"},
		{"deadline", "deadline_of_an_invocation"},
		{"deadline", "invocation_cancelled"},
		{"stop twice", "stop_twice"},
		{"stop returns early", "stop_at_once"},
		{"stop waits", "stop_frozen"},
		{"waiters", "waiters_agree"},
		{"ended", "waiters_agree"},
		{"late notice", "kill_is_noticed"},
		{"signal", "kill_is_noticed"},
		{"digest", "wrong_digest"},
		{"cancelled launch", "launch_cancelled"},
		{"cancelled launch", "launch_deadline"},
		{"leave ends it", "adopted"},
		{"adopt the dead", "died_meanwhile"},
		{"adopt by any handle", "strange_handles"},
		{"goroutines", "nothing_grows"},
		{"files", "nothing_grows"},
	} {
		t.Run(tt.breaks+" by "+tt.check, func(t *testing.T) {
			t.Parallel()
			out := runBroken(t, tt.breaks, tt.check)
			if want := "--- FAIL: TestFake/" + tt.check + " "; !strings.Contains(out, want) {
				t.Errorf("adapter that breaks %q: got\n%s\nwant %q", tt.breaks, out, want)
			}
		})
	}
}

// runBroken runs one check on the broken fake in a process of its own.
func runBroken(t *testing.T, breaks, check string) string {
	t.Helper()
	top, sub, _ := strings.Cut(check, "/")
	run := "^TestFake$/^" + top + "$"
	if sub != "" {
		run += "/^" + sub + "$"
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", run, "-test.timeout=60s")
	cmd.Env = append(os.Environ(), breaksName+"="+breaks)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Errorf("adapter that breaks %q passes %s", breaks, check)
	}
	return string(out)
}
