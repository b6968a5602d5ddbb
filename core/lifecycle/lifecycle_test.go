package lifecycle_test

import (
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-dev/patchbay/core/lifecycle"
)

// drawn reads the picture in the package comment: state, then every cause and
// where it leads.
func drawn(t *testing.T) map[string]string {
	t.Helper()
	source, err := os.ReadFile("lifecycle.go")
	if err != nil {
		t.Fatal(err)
	}
	picture := map[string]string{}
	row := regexp.MustCompile(`(?m)^//\t(\w+) +(--.*)$`)
	arrow := regexp.MustCompile(`--([a-z-]+)--> (\w+)`)
	for _, r := range row.FindAllStringSubmatch(string(source), -1) {
		for _, a := range arrow.FindAllStringSubmatch(r[2], -1) {
			picture[r[1]+" "+a[1]] = a[2]
		}
	}
	return picture
}

func TestNext_isWhatThePictureShows(t *testing.T) {
	table := map[string]string{}
	for _, from := range lifecycle.States() {
		for _, cause := range lifecycle.Causes() {
			to, ok := lifecycle.Next(from, cause)
			if ok {
				table[string(from)+" "+string(cause)] = string(to)
			} else if to != from {
				t.Errorf("%s %s: no such step, yet the state became %s", from, cause, to)
			}
		}
	}
	if diff := cmp.Diff(drawn(t), table); diff != "" {
		t.Errorf("table (-picture +code):\n%s", diff)
	}
}

func TestEveryStateCanBeStopped(t *testing.T) {
	for _, from := range lifecycle.States() {
		state := from
		for _, cause := range []lifecycle.Cause{lifecycle.Halt, lifecycle.Gone} {
			state, _ = lifecycle.Next(state, cause)
		}
		if state != "stopped" {
			t.Errorf("from %s: halt and gone lead to %s, want stopped", from, state)
		}
	}
}
