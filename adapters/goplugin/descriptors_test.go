package goplugin_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/patchbay-dev/patchbay/adapters/goplugin"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
	"github.com/patchbay-dev/patchbay/test/plugins/goplugin/tiny"
)

// described writes a descriptor set of the tiny plugin, as change leaves it.
func described(t *testing.T, change func(*descriptorpb.FileDescriptorSet)) string {
	t.Helper()
	set := &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{protodesc.ToFileDescriptorProto(tiny.File_tiny_proto)}}
	if change != nil {
		change(set)
	}
	raw, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "tiny.pb")
	if err := os.WriteFile(name, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// muteSpec is the tiny plugin without reflection.
func muteSpec(t *testing.T, set string) goplugin.Spec {
	return goplugin.Spec{Command: []string{built(t, "grpc"), "mute"}, Handshake: cookie(), DescriptorSet: set}
}

func TestDescriptorSet_insteadOfReflection(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := goplugin.New(goplugin.Options{}).Launch(ctx, conformance.NewLaunch(t, manifest(t, muteSpec(t, ""))))
	if !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(fmt.Sprint(err), "spec.goplugin.descriptorSet") {
		t.Fatalf("neither: got %v", err)
	}
	i, _ := started(t, muteSpec(t, described(t, nil)))
	for operation, argument := range map[string]string{"Echo": `{"text":"a"}`, "Count": `{"n":2}`, "Sum": `[{"n":1},{"n":2}]`, "Chat": `[{"text":"a"}]`} {
		var got []string
		err := i.(plugin.StreamInvoker).InvokeStream(ctx, plugin.Invocation{Operation: operation, Data: []byte(argument)}, func(part []byte) error {
			got = append(got, string(part))
			return nil
		})
		want := map[string]string{"Echo": `{"text":"a"}`, "Count": `{"n":1} {"n":2}`, "Sum": `{"n":3}`, "Chat": `{"text":"a"}`}[operation]
		if text := strings.Join(got, " "); err != nil || text != want {
			t.Errorf("%s: got %s, %v; want %s", operation, text, err, want)
		}
	}
}

// TestReflection_old: plugins with grpc before 1.57 have v1alpha only.
func TestReflection_old(t *testing.T) {
	i := startedGRPC(t, "old")
	if got, err := invoke(t, i, "Echo", `{"text":"a"}`); err != nil || got != `{"text":"a"}` {
		t.Errorf("got %s, %v", got, err)
	}
}

// TestDescriptorSet_adopted: the plugin is described as at its start, whatever became
// of the file.
func TestDescriptorSet_adopted(t *testing.T) {
	set := described(t, nil)
	p := leave(t, muteSpec(t, set))
	if err := os.WriteFile(set, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	i, err := p.adopt(t, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := invoke(t, i, "Echo", `{"text":"a"}`); err != nil || got != `{"text":"a"}` {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestDescriptorSet_faults(t *testing.T) {
	text := filepath.Join(t.TempDir(), "a.proto")
	if err := os.WriteFile(text, []byte("syntax = \"proto3\";"), 0o600); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	huge := filepath.Join(t.TempDir(), "huge")
	if err := os.WriteFile(huge, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(huge, 33<<20); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, set, want string }{
		{"relative", "tiny.pb", "metadata.source is missing"},
		{"not there", "/nowhere/tiny.pb", "no such file"},
		{"source text", text, "it is no FileDescriptorSet"},
		{"a pipe", pipe, "is no file"},
		{"too large", huge, "more than 33554432 bytes"},
		{"a file twice", described(t, func(s *descriptorpb.FileDescriptorSet) { s.File = append(s.File, s.File[0]) }), "twice"},
		{"no service", described(t, func(s *descriptorpb.FileDescriptorSet) { s.File[0].Service = nil }), "it has no service"},
		{"an import is missing", described(t, func(s *descriptorpb.FileDescriptorSet) {
			s.File[0].Dependency = append(s.File[0].Dependency, "acme/other.proto")
		}), "imports acme/other.proto, which is not in it"},
		{"too many messages", described(t, func(s *descriptorpb.FileDescriptorSet) {
			for n := range 10_001 {
				s.File[0].MessageType = append(s.File[0].MessageType, &descriptorpb.DescriptorProto{Name: proto.String(fmt.Sprintf("M%d", n))})
			}
		}), "at most 10000"},
	} {
		err := goplugin.New(goplugin.Options{}).Check(manifest(t, muteSpec(t, tt.set)))
		if !strings.Contains(fmt.Sprint(err), "spec.goplugin.descriptorSet: ") || !strings.Contains(fmt.Sprint(err), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	rpc := netrpcSpec(built(t, "netrpc"))
	rpc.DescriptorSet = described(t, nil)
	if err := goplugin.New(goplugin.Options{}).Check(manifest(t, rpc)); !strings.Contains(fmt.Sprint(err), "descriptorSet: ") {
		t.Errorf("net/rpc: got %v", err)
	}
}
