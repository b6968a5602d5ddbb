package goplugin_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/adapters/goplugin"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// A shifter starts the plugin whose descriptors are what the test says.
type shifter struct {
	t       *testing.T
	adapter *goplugin.Adapter
	spec    goplugin.Spec
	env     map[string]string
	output  *conformance.Output
}

func newShifter(t *testing.T) *shifter {
	s := &shifter{
		t: t, adapter: goplugin.New(goplugin.Options{}), spec: goplugin.Spec{Command: []string{built(t, "shifty")}, Handshake: cookie()},
		env: map[string]string{"SHIFTY": filepath.Join(t.TempDir(), "field")},
	}
	t.Cleanup(s.adapter.Close)
	return s
}

// start starts it with a name for its field, and returns that which the daemon knows.
func (s *shifter) start(field string) (i plugin.Instance, known string) {
	s.t.Helper()
	if err := os.WriteFile(s.env["SHIFTY"], []byte(field), 0o600); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	l := conformance.NewLaunch(s.t, manifest(s.t, s.spec))
	l.Env, s.output = s.env, l.Output.(*conformance.Output)
	i, err := s.adapter.Launch(ctx, l)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = i.Stop(ctx)
	})
	operations, err := i.(plugin.Describer).Describe(ctx)
	if err != nil || len(operations) != 1 {
		s.t.Fatalf("got %v, %v", operations, err)
	}
	var schema struct {
		Properties map[string]json.RawMessage `json:"properties"`
	}
	if err := json.Unmarshal(operations[0].Input, &schema); err != nil {
		s.t.Fatal(err)
	}
	for name := range schema.Properties {
		known = name
	}
	return i, known
}

// works makes a call by the field's name, and stops the instance.
func (s *shifter) works(i plugin.Instance, field string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	text := plugin.RawJSON(`{"` + field + `":"x"}`)
	got, err := i.Invoke(ctx, plugin.Invocation{Operation: "Echo", Data: text})
	if err != nil || string(got.Data) != string(text) {
		s.t.Errorf("got %s, %v", got.Data, err)
	}
	if err := i.Stop(ctx); err != nil {
		s.t.Error(err)
	}
}

// TestEarlier_steady: what an earlier start from the same file told is known at once, and
// holds when it is compared.
func TestEarlier_steady(t *testing.T) {
	s := newShifter(t)
	for range 3 {
		i, known := s.start("one")
		if known != "one" {
			t.Errorf("got %q", known)
		}
		s.works(i, "one")
		if said := s.output.Text(plugin.PluginLog); said != "" {
			t.Errorf("it said %q", said)
		}
	}
}

// TestEarlier_unsteady: a plugin that makes its descriptors up is found out, and never
// believed again.
func TestEarlier_unsteady(t *testing.T) {
	s := newShifter(t)
	first, known := s.start("one")
	if known != "one" {
		t.Fatalf("got %q", known)
	}
	i, known := s.start("two") // beside the first, so that nobody has forgotten what that told
	if known != "one" {
		t.Fatalf("it was asked again, and told %q: the test shows nothing", known)
	}
	if exit := i.Wait(); exit.Signal != "killed" && exit.Signal != "SIGKILL" {
		t.Errorf("it ended by %s", exit)
	}
	if said := s.output.Text(plugin.PluginLog); !strings.Contains(said, "its descriptors are not those of its last start") {
		t.Errorf("it said %q", said)
	}
	s.works(first, "one")
	for _, field := range []string{"two", "three"} {
		i, known = s.start(field)
		if known != field {
			t.Errorf("got %q, want %q", known, field)
		}
		s.works(i, field)
	}
}

// TestEarlier_otherOrigin: a start that differs is asked for everything.
func TestEarlier_otherOrigin(t *testing.T) {
	another := func(t *testing.T, s *shifter) {
		t.Helper()
		i, known := s.start("two")
		if known != "two" {
			t.Errorf("got %q, want two", known)
		}
		s.works(i, "two")
	}
	begin := func(t *testing.T) *shifter {
		t.Helper()
		s := newShifter(t)
		i, _ := s.start("one")
		s.works(i, "one")
		return s
	}
	t.Run("environment", func(t *testing.T) {
		s := begin(t)
		s.env["MORE"] = "1"
		another(t, s)
	})
	t.Run("manifest", func(t *testing.T) {
		s := begin(t)
		s.spec.Transport = "grpc"
		another(t, s)
	})
	t.Run("file", func(t *testing.T) {
		s := begin(t)
		s.spec.Command = []string{filepath.Join(t.TempDir(), "copy")}
		content, err := os.ReadFile(built(t, "shifty"))
		if err == nil {
			err = os.WriteFile(s.spec.Command[0], content, 0o700)
		}
		if err != nil {
			t.Fatal(err)
		}
		i, known := s.start("one")
		if known != "one" {
			t.Errorf("got %q", known)
		}
		s.works(i, "one")
		// The same path, the same size, another file.
		if err := errors.Join(os.Remove(s.spec.Command[0]), os.WriteFile(s.spec.Command[0], content, 0o700)); err != nil {
			t.Fatal(err)
		}
		another(t, s)
	})
	t.Run("arguments", func(t *testing.T) { // as of an interpreter: what it reads is not seen
		s := newShifter(t)
		s.spec.Command = append(s.spec.Command, "an argument")
		i, _ := s.start("one")
		s.works(i, "one")
		another(t, s)
	})
	t.Run("script", func(t *testing.T) {
		s := newShifter(t)
		script := filepath.Join(t.TempDir(), "script")
		if err := os.WriteFile(script, []byte("#!/bin/sh\nexec "+s.spec.Command[0]+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		s.spec.Command = []string{script}
		i, _ := s.start("one")
		s.works(i, "one")
		another(t, s)
	})
}
