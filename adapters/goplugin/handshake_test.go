package goplugin

import (
	"encoding/base64"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/plugins/goplugin/tiny"
)

func TestParseHandshake(t *testing.T) {
	cert := strings.Repeat("A", 60)
	der, err := base64.RawStdEncoding.DecodeString(cert)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, line string
		want       greeting
		found      bool
		fault      string
	}{
		{"four fields", "1|2|unix|/tmp/p", greeting{2, "unix", "/tmp/p", "netrpc", nil}, true, ""},
		{"five fields", "1|2|unix|/tmp/p|grpc", greeting{2, "unix", "/tmp/p", "grpc", nil}, true, ""},
		{"six fields, no certificate", "1|2|tcp|127.0.0.1:1|grpc|", greeting{2, "tcp", "127.0.0.1:1", "grpc", nil}, true, ""},
		{"six fields", "1|2|unix|/p|netrpc|" + cert, greeting{2, "unix", "/p", "netrpc", der}, true, ""},
		{"padded certificate", "1|2|unix|/p|netrpc|" + cert + "==", greeting{2, "unix", "/p", "netrpc", der}, true, ""},
		{"seven fields", "1|2|unix|/p|grpc||true", greeting{2, "unix", "/p", "grpc", nil}, true, ""},
		{"carriage return", "1|2|unix|/p|grpc|\r", greeting{2, "unix", "/p", "grpc", nil}, true, ""},
		{"junk for a certificate", "1|2|unix|/p|grpc|" + strings.Repeat("*", 60), greeting{2, "unix", "/p", "grpc", []byte{}}, true, ""},
		{"legacy placeholder", "1|2|unix|/p|grpc|junk", greeting{2, "unix", "/p", "grpc", nil}, true, ""},
		{"empty", "", greeting{}, false, ""},
		{"noise", "starting...", greeting{}, false, ""},
		{"noise with bars", "a|b|c|d|e", greeting{}, false, ""},
		{"three fields", "1|2|unix", greeting{}, false, ""},
		{"core version", "2|1|unix|/p", greeting{}, true, "core version 2"},
		{"network", "1|1|udp|/p", greeting{}, true, `"udp" is not a network`},
		{"address", "1|1|unix||grpc", greeting{}, true, "the address is empty"},
		{"protocol", "1|1|unix|/p|http", greeting{}, true, `"http" is not a protocol`},
		{"eight fields", "1|1|unix|/p|grpc||true|x", greeting{}, true, "8 fields"},
	} {
		g, found, err := parseHandshake([]byte(tt.line))
		switch {
		case found != tt.found, (err != nil) != (tt.fault != ""):
			t.Errorf("%s: got found %v, error %v", tt.name, found, err)
		case err != nil && !strings.Contains(err.Error(), tt.fault):
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.fault)
		case err == nil && found && (g.version != tt.want.version || g.network != tt.want.network || g.address != tt.want.address ||
			g.protocol != tt.want.protocol || string(g.certificate) != string(tt.want.certificate)):
			t.Errorf("%s: got %+v, want %+v", tt.name, g, tt.want)
		}
	}
}

func FuzzHandshake(f *testing.F) {
	f.Add([]byte("1|2|unix|/tmp/p|grpc|" + strings.Repeat("A", 60) + "|true\r"))
	f.Add([]byte("1|1|tcp|127.0.0.1:10000|netrpc|"))
	f.Fuzz(func(t *testing.T, line []byte) {
		g, found, err := parseHandshake(line)
		if !found && err != nil {
			t.Errorf("noise has an error: %v", err)
		}
		if found && err == nil && (g.address == "" || g.network != "unix" && g.network != "tcp") {
			t.Errorf("got %+v", g)
		}
		if g.network == "tcp" && err == nil {
			_ = onLoopback(g.address)
		}
		if g.certificate != nil {
			id, err := newIdentity()
			if err != nil {
				t.Fatal(err)
			}
			_, _ = id.config(g.certificate)
		}
	})
}

// FuzzCatalog: whatever descriptors a plugin serves, listing them and reading JSON
// by them ends, without a panic.
func FuzzCatalog(f *testing.F) {
	file := protodesc.ToFileDescriptorProto(grpc_health_v1.File_grpc_health_v1_health_proto)
	raw, err := proto.Marshal(file)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, "grpc.health.v1.Health", `{"service":"x"}`)
	f.Fuzz(func(t *testing.T, raw []byte, service, argument string) {
		file := &descriptorpb.FileDescriptorProto{}
		if proto.Unmarshal(raw, file) != nil {
			return
		}
		c, err := newCatalog(map[string]*descriptorpb.FileDescriptorProto{file.GetName(): file}, []string{service})
		if err != nil {
			return
		}
		tr := newTranscoder(c.types)
		for _, op := range c.operations() {
			m := c.methods[op.Name]
			if wire, err := tr.wire(m, []byte(argument)); err == nil {
				_, _ = tr.json(m, wire)
			}
		}
	})
}

// FuzzDescriptorSet: whatever the file holds, reading it ends without a panic.
func FuzzDescriptorSet(f *testing.F) {
	raw, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(grpc_health_v1.File_grpc_health_v1_health_proto),
		protodesc.ToFileDescriptorProto(tiny.File_tiny_proto),
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if c, err := catalogOf(raw); err == nil {
			_ = c.operations()
		}
	})
}

// FuzzHandle: a handle is read from a file, which may hold anything.
func FuzzHandle(f *testing.F) {
	l := plugin.Launch{ID: "p-1", Node: "n", Dir: "/run/p-1", Manifest: plugin.Manifest{Spec: plugin.Spec{Adapter: name}}}
	own, err := newIdentity()
	if err != nil {
		f.Fatal(err)
	}
	g := greeting{1, "unix", "/run/p-1/plugin1", transportNetRPC, own.certificate.Certificate[0]}
	good, err := writeHandle(proc.Handle{Pid: 7, Boot: "b", Start: 1, Mark: proc.Mark(l) + "/1"}, g, "c", own)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(good))
	f.Add([]byte(`{"process":{"mark":"n/goplugin/p-1"},"greeting":{"network":"tcp","address":"[::1]:1","protocol":"grpc"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		h, err := readHandle(text, l)
		if err != nil {
			return
		}
		p := &process{launch: l, compiled: compiled{Spec: Spec{Handshake: Handshake{Versions: []int{1}}, Transport: transportAuto}}}
		if h.Identity != nil {
			p.TLS = tlsAuto
		}
		g, err := p.recall(h)
		if err != nil {
			return
		}
		if g.network == "unix" && !filepath.IsAbs(g.address) || g.network == "tcp" && onLoopback(g.address) != nil {
			t.Errorf("%s: would dial %s %q", text, g.network, g.address)
		}
		if p.own != nil {
			_, _ = p.own.config(g.certificate)
		}
	})
}
