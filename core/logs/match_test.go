package logs_test

import (
	"fmt"
	"regexp"
	"testing"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestMatch_seesEarlierAndLaterLines(t *testing.T) {
	hub, _ := newHub(t)
	l := hub.Open("p", "p-1", t.TempDir(), 0)
	defer l.Close()
	pattern := regexp.MustCompile(`listening on \d+`)
	seen, stop := l.Match(pattern)
	defer stop()
	out := l.Writer(plugin.Stdout)
	fmt.Fprintln(out, "starting")
	if seen() {
		t.Error("seen before it was printed")
	}
	fmt.Fprintln(out, `{"level":"info","msg":"listening on 80"}`)
	if !seen() {
		t.Error("not seen: a line that came")
	}
	for range 3000 { // more than Tail has
		fmt.Fprintln(out, "noise")
	}
	if !seen() {
		t.Error("what was seen is forgotten")
	}
	fmt.Fprintln(out, "listening on 81")
	if seen, stop := l.Match(pattern); !seen() {
		t.Error("not seen: a line from before")
	} else {
		stop()
	}
}

func TestMatch_stopped(t *testing.T) {
	hub, _ := newHub(t)
	l := hub.Open("p", "p-1", t.TempDir(), 0)
	defer l.Close()
	seen, stop := l.Match(regexp.MustCompile(`x`))
	stop()
	fmt.Fprintln(l.Writer(plugin.Stderr), "x")
	if seen() {
		t.Error("seen after stop")
	}
}
