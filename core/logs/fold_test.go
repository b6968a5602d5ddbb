package logs

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	goPanic = "panic: boom [recovered]\n\tpanic: again\n[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x1]\n\n" +
		"goroutine 1 [running]:\nmain.(*T).run(0xc000, {0x1, 0x2})\n\t/src/main.go:4 +0x18\nmain.main()\n\t/src/main.go:9 +0x18\n" +
		"created by main.start in goroutine 7\n\t/src/main.go:2 +0x1\n\ngoroutine 5 [select]:\nmain.wait(...)\n\t/src/wait.go:4\nexit status 2"
	fatal   = "fatal error: all goroutines are asleep - deadlock!\n\ngoroutine 1 [chan receive]:\nmain.main()\n\t/x.go:3 +0x1\n\nrax    0x0\nrip    0x2a"
	python  = "Traceback (most recent call last):\n  File \"x.py\", line 1, in <module>\n    1 / 0\n    ~~^~~\nZeroDivisionError: division by zero"
	chained = python + "\n\n" + pythonDuring + "\n\n" + "Traceback (most recent call last):\n  File \"x.py\", line 3\napp.errors.Lost"
	java    = "Exception in thread \"main\" java.lang.IllegalStateException: no\n\tat app.Main.main(Main.java:7)\nCaused by: java.io.IOException: gone\n\t... 3 more"
	node    = "TypeError: x is not a function\n    at Object.<anonymous> (/a.js:3:7)\n    at node:internal/main:1:1"
)

func TestFold(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string // "level|message"
	}{
		{"panic", goPanic + "\nnext", []string{"error|" + goPanic, "|next"}},
		{"fatal error", fatal + "\n[INFO] next", []string{"error|" + fatal, "info|next"}},
		{"two panics", "panic: a\npanic: b\nnext", []string{"error|panic: a\npanic: b", "|next"}},
		{"not a panic's", "panic: a\nmain.main()\nnext", []string{"error|panic: a", "|main.main()", "|next"}},
		{"dump", "goroutine 7 [running]:\nmain.f(0x1)\n\t/x.go:1 +0x2\nnext", []string{"error|goroutine 7 [running]:\nmain.f(0x1)\n\t/x.go:1 +0x2", "|next"}},
		{"traceback", "before\n" + python + "\nnext", []string{"|before", "error|" + python, "|next"}},
		{"chained", chained + "\nnext", []string{"error|" + chained, "|next"}},
		{"two tracebacks", python + "\n" + python, []string{"error|" + python, "error|" + python}},
		{"torn traceback", "Traceback (most recent call last):\n  File \"x\"\nwhat else: is\n", []string{"error|Traceback (most recent call last):\n  File \"x\"", "|what else: is"}},
		{"java", java + "\nnext", []string{"error|" + java, "|next"}},
		{"node", node + "\nnext", []string{"error|" + node, "|next"}},
		{"an error's name alone", "TypeError: x\nnext", []string{"|TypeError: x", "|next"}},
		{"not an error's name", "NoErrors: x\nError:x\nIsError y", []string{"|NoErrors: x", "|Error:x", "|IsError y"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hub, bus := newFake()
			log := hub.Open("p", "p-1", t.TempDir(), 0)
			fmt.Fprint(log.Writer(plugin.Stderr), tt.text)
			log.Close()
			var got []string
			for _, l := range bus.lines() {
				got = append(got, l.Level+"|"+l.Message)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got\n%q\nwant\n%q", got, tt.want)
			}
			counted(t, bus.lines(), uint64(strings.Count(strings.TrimSuffix(tt.text, "\n"), "\n")+1))
		})
	}
}

func TestFold_waitsNoLongerThanItMust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, bus := newFake()
		log := hub.Open("p", "p-1", "", 0)
		w := log.Writer(plugin.Stderr)
		began := time.Now()
		fmt.Fprint(w, "panic: boom\n\ngoroutine 1 [running]:\n")
		<-time.After(foldWait / 2)
		fmt.Fprint(w, "main.main()\n")
		if tail := log.Tail(5); len(tail) != 1 || !strings.HasSuffix(tail[0].Message, "main.main()") {
			t.Errorf("tail while it is folded: got %v", tail)
		}
		for len(bus.lines()) == 0 {
			<-time.After(time.Millisecond)
		}
		if took := time.Since(began); took > 2*foldWait+batchAgeMax {
			t.Errorf("stored after %s", took)
		}
		fmt.Fprint(w, "\t/x.go:1\n") // too late to belong
		log.Close()
		counted(t, bus.lines(), 5)
		if lines := bus.lines(); len(lines) != 2 || lines[0].Lines != 4 || lines[1].Message != "\t/x.go:1" {
			t.Errorf("got %+v", lines)
		}
	})
}

func TestFold_isBounded(t *testing.T) {
	hub, bus := newFake()
	log := hub.Open("p", "p-1", t.TempDir(), 0)
	file, err := log.File(plugin.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	const dump = 40_000
	fmt.Fprint(file, "goroutine 1 [running]:\n", strings.Repeat("main.f()\n\t/src/main.go:4 +0x18\n", dump/2), "next\n")
	file.Close()
	log.Close()
	lines := bus.lines()
	counted(t, lines, dump+2)
	for i, l := range lines {
		if len(l.Message) > plugin.LogLineBytesMax || l.Truncated != (i < len(lines)-2) {
			t.Fatalf("piece %d of %d: %d bytes, cut %t", i+1, len(lines), len(l.Message), l.Truncated)
		}
		if i < len(lines)-1 && l.Level != "error" {
			t.Errorf("piece %d: level %q", i+1, l.Level)
		}
	}
}

// TestFold_isReadAgainAsAWhole has a daemon be killed while a stack trace is
// being printed.
func TestFold_isReadAgainAsAWhole(t *testing.T) {
	bus := &fakeBus{}
	dir := t.TempDir()
	daemon := &mortal{fakeBus: bus}
	log := New(Options{Publish: daemon.publish, Last: bus.last}).Open("p", "p-1", dir, 0)
	file, err := log.File(plugin.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	head, rest, _ := strings.Cut(goPanic, "main.main()")
	fmt.Fprint(file, "before\n", head)
	await(t, bus, 1) // the line before; the fold waits
	daemon.kill(0)
	fmt.Fprint(file, "main.main()", rest, "\nnext\n")
	next := New(Options{Publish: bus.publish, Last: bus.last}).Resume("p", "p-1", dir, 0)
	await(t, bus, 3)
	next.Close()
	log.Leave()
	lines := bus.lines()
	counted(t, lines, uint64(strings.Count(goPanic, "\n")+3))
	if len(lines) != 3 || lines[1].Message != goPanic {
		t.Errorf("got %d lines: %v", len(lines), lines)
	}
}

func TestFold_whatIsDroppedWithinIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := &fakeBus{}
		log := New(Options{Publish: bus.publish, Settings: func(string) Settings { return Settings{LineRate: 4} }}).Open("p", "p-1", "", 0)
		w := log.Writer(plugin.Stderr)
		fmt.Fprint(w, goPanic, "\n")
		<-time.After(time.Second)
		fmt.Fprint(w, "one\ntwo\n")
		log.Close()
		counted(t, bus.lines(), uint64(strings.Count(goPanic, "\n")+3))
	})
}

// FuzzFold: whatever is printed in whatever pieces, each line is counted once.
func FuzzFold(f *testing.F) {
	for _, seed := range []string{goPanic, fatal, chained, java, node, "panic: \n\n\n\npanic: x", "a\nTypeError\n at x\n"} {
		f.Add([]byte(seed), 7)
	}
	f.Fuzz(func(t *testing.T, data []byte, step int) {
		if step < 1 {
			step = 1
		}
		hub, bus := newFake()
		log := hub.Open("p", "p-1", "", 0)
		w := log.Writer(plugin.Stdout)
		for rest := data; len(rest) > 0; {
			n := min(step, len(rest))
			_, _ = w.Write(rest[:n])
			rest = rest[n:]
		}
		log.Close()
		var want uint64
		count := cutter{}
		count.write(data, func([]byte, bool) { want++ })
		count.finish(func([]byte, bool) { want++ })
		counted(t, bus.lines(), want)
		for _, l := range bus.lines() {
			if len(l.Message) > 3*plugin.LogLineBytesMax { // U+FFFD is three bytes for one
				t.Errorf("a line of %d bytes", len(l.Message))
			}
			if l.Lines > 0 && uint64(strings.Count(l.Message, "\n")+1) != l.Lines {
				t.Errorf("%d lines folded into %q", l.Lines, l.Message)
			}
		}
	})
}
