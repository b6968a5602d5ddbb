package container_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// run launches a job, waits for its exit and returns what it printed.
func run(t *testing.T, m plugin.Manifest, input string) (plugin.Exit, *conformance.Output) {
	t.Helper()
	l := conformance.NewLaunch(t, m)
	l.Input = []byte(input)
	i, err := newAdapter(t).Launch(within(t), l)
	if err != nil {
		t.Fatalf("launch: %v", err)
	}
	exit := i.Wait()
	nothingOf(t, l.ID)
	return exit, l.Output.(*conformance.Output)
}

func TestJob_inputAndOutput(t *testing.T) {
	for _, tt := range []struct{ name, args, input, want string }{
		{"answers its input", `["job", "sum"]`, `{"numbers": [1, 2, 3.5]}`, `{"sum":6.5}`},
		{"no input", `["job", "upper"]`, "", ""},
		{"ends before it reads", `["job", "exit", "0"]`, strings.Repeat("x", 1<<20), "to stdout\n"},
		{"a megabyte", `["job", "upper"]`, strings.Repeat("a line\n", 150_000), strings.Repeat("A LINE\n", 150_000)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			exit, out := run(t, manifestOf(plugin.Job, jobBlock(tt.args)), tt.input)
			if !exit.Success() {
				t.Errorf("exit: got %+v, want success", exit)
			}
			if got := out.Text(plugin.Stdout); got != tt.want {
				t.Errorf("stdout: got %d bytes %.80q, want %d bytes %.80q", len(got), got, len(tt.want), tt.want)
			}
		})
	}
}

func TestJob_exitCodeAndBothStreams(t *testing.T) {
	exit, out := run(t, manifestOf(plugin.Job, jobBlock(`["job", "exit", "42"]`)), "")
	if exit.Code != 42 || exit.Signal != "" || exit.OOM || exit.At.IsZero() {
		t.Errorf("exit: got %+v, want code 42", exit)
	}
	if got := out.Text(plugin.Stdout); got != "to stdout\n" {
		t.Errorf("stdout: got %q", got)
	}
	if got := out.Text(plugin.Stderr); got != "to stderr\n" {
		t.Errorf("stderr: got %q", got)
	}
}

func TestJob_outOfMemory(t *testing.T) {
	m := manifestOf(plugin.Job, jobBlock(`["job", "memory", "200"]`))
	m.Spec.Limits.Memory = 32 << 20
	exit, out := run(t, m, "")
	if !exit.OOM || exit.Success() {
		t.Errorf("exit: got %+v (%s), want out of memory", exit, out.All())
	}
}

func TestJob_environmentIsTheLaunchs(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:9")
	l := conformance.NewLaunch(t, manifestOf(plugin.Job, jobBlock(`["job", "env"]`)))
	l.Env = map[string]string{"A": "1", "EMPTY": "", "LINES": "a=b c"}
	i, err := newAdapter(t).Launch(within(t), l)
	if err != nil {
		t.Fatal(err)
	}
	i.Wait()
	var got []string
	for line := range strings.Lines(l.Output.(*conformance.Output).Text(plugin.Stdout)) {
		if name, _, _ := strings.Cut(line, "="); name != "HOSTNAME" { // the engine's own
			got = append(got, strings.TrimSpace(line))
		}
	}
	want := "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin A=1 EMPTY= LINES=a=b c HOME=/"
	if text := strings.Join(got, " "); text != want {
		t.Errorf("environment: got %q, want %q", text, want)
	}
}

func TestJob_stopped(t *testing.T) {
	m := manifestOf(plugin.Job, `{"image": "`+tag+`", "pull": "never"}`) // the server, as a job that does not end
	l := conformance.NewLaunch(t, m)
	i, err := newAdapter(t).Launch(within(t), l)
	if err != nil {
		t.Fatal(err)
	}
	conformance.Eventually(t, 10*time.Second, func() error { // it handles signals once it has said so
		if !strings.Contains(l.Output.(*conformance.Output).All(), "listening") {
			return errors.New("the job is not up")
		}
		return nil
	})
	if _, err := i.Invoke(within(t), plugin.Invocation{Operation: "echo"}); !errors.Is(err, plugin.ErrNotFound) {
		t.Errorf("invoke: got %v, want plugin.ErrNotFound", err)
	}
	if err := i.Stop(within(t)); err != nil {
		t.Errorf("stop: %v", err)
	}
	if exit := i.Wait(); !exit.Success() {
		t.Errorf("exit: got %+v, want that it ended by itself on SIGTERM", exit)
	}
	nothingOf(t, l.ID)
}
