package reva

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestImport(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "json"), nil, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "src"), 0o700); err != nil {
		t.Fatal(err)
	}
	const head = `{"apiVersion":"patchbay/v1","kind":"Plugin","metadata":{"name":"reva-userprovider"},"spec":{"goplugin":{"preset":"reva",`
	for name, tt := range map[string]struct {
		text  string
		want  string   // JSON
		notes []string // a part of each
	}{
		"Reva's spelling, a binary": {
			`[grpc.services.userprovider]
			driver = "DIR/json"
			[grpc.services.userprovider.drivers.json]
			users = "/etc/users.demo.json"
			limit = 5
			ratio = 0.5
			strict = true
			claims = ["mail", "uid"]`,
			`[` + head + `"command":["DIR/json"],"plugin":"userprovider","config":{"claims":["mail","uid"],"limit":5,"ratio":0.5,"strict":true,"users":"/etc/users.demo.json"}}}}]`, nil,
		},
		"the documentation's spelling, a folder, relative": {
			`[grpc.service.userprovider]
			driver = "./src"
			[grpc.service.userprovider.drivers.src]
			user = "u.json"`,
			`[` + head + `"source":{"folder":"DIR/src"},"plugin":"userprovider","config":{"user":"u.json"}}}}]`,
			[]string{"grpc.service.userprovider: Reva itself reads grpc.services.userprovider", `drivers.src.user = "u.json" is relative`},
		},
		"the documentation's URL": {
			`[grpc.service.userprovider]
			driver = "https://github.com/jimil749/json"
			[grpc.service.userprovider.drivers.json]
			user = "user.demo.json"`,
			`[` + head + `"source":{"url":"https://github.com/jimil749/json"},"plugin":"userprovider","config":{"users":"user.demo.json"}}}}]`,
			[]string{"Reva itself reads", "add the commit", "drivers.json.user: the plugin reads users", `drivers.json.users = "user.demo.json" is relative`},
		},
		"a URL without scheme, below a repository": {
			"[grpc.services.userprovider]\ndriver = 'github.com/a/b.git/plugins/json'",
			`[` + head + `"source":{"url":"https://github.com/a/b","package":"plugins/json"},"plugin":"userprovider","config":{}}}}]`,
			[]string{"--allow-source github.com/a"},
		},
		"another host": {
			"[grpc.services.userprovider]\ndriver = 'http://x.example/json.tar.gz?a=b'",
			`[` + head + `"source":{"url":"https://x.example/json.tar.gz"},"plugin":"userprovider","config":{}}}}]`,
			[]string{"add source.digest", "http is not downloaded", "dropped"},
		},
		"both kinds, one built in": {
			`[grpc.services.userprovider]
			driver = "ldap"
			[grpc.services.authprovider]
			auth_manager = "/not/there/oidc"
			[grpc.services.authprovider.auth_managers.oidc]
			client_secret = "x"
			[grpc.services.authprovider.auth_managers.other]
			x = 1`,
			`[{"apiVersion":"patchbay/v1","kind":"Plugin","metadata":{"name":"reva-authprovider"},"spec":{"goplugin":{"preset":"reva","command":["/not/there/oidc"],"plugin":"authprovider","config":{"client_secret":"x"}}}}]`,
			[]string{"is not on this machine", "auth_managers.oidc.client_secret may be secret", "auth_managers.other is not of this driver", `"ldap" is built into Reva`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, notes, err := Import([]byte(strings.ReplaceAll(tt.text, "DIR", dir)), dir)
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.ReplaceAll(tt.want, "DIR", dir), string(text)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if len(notes) != len(tt.notes) {
				t.Errorf("got notes %q, want %q", notes, tt.notes)
			}
			for _, want := range tt.notes {
				if !strings.Contains(strings.Join(notes, "\n"), want) {
					t.Errorf("%q is not in %q", want, notes)
				}
			}
		})
	}
}

func TestImport_refuses(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"no TOML":      {"[grpc\n", "line 1, column 6: "},
		"nothing":      {"", "no service loads a plugin"},
		"built in":     {"[grpc.services.userprovider]\ndriver='json'", `"json" is built into Reva`},
		"no table":     {"grpc = 1", "grpc is 1; it has to be a table"},
		"no text":      {"[grpc.services.userprovider]\ndriver=1", "grpc.services.userprovider.driver is 1; it has to be"},
		"both":         {"[grpc.services.userprovider]\ndriver='/a/b'\n[grpc.service.userprovider]\ndriver='/a/b'", "is there as grpc.service.userprovider, too"},
		"nested":       {"[grpc.services.userprovider]\ndriver='/a/b'\n[grpc.services.userprovider.drivers.b.c]\nd=1", "drivers.b.c is a table; a plugin can be given"},
		"mixed list":   {"[grpc.services.userprovider]\ndriver='/a/b'\n[grpc.services.userprovider.drivers.b]\nd=[1]", "drivers.b.d is a list of other values than texts"},
		"date":         {"[grpc.services.userprovider]\ndriver='/a/b'\n[grpc.services.userprovider.drivers.b]\nd=2026-01-01", "drivers.b.d is a date or time"},
		"not a number": {"[grpc.services.userprovider]\ndriver='/a/b'\n[grpc.services.userprovider.drivers.b]\nd=nan", "drivers.b.d is NaN"},
		"driver table": {"[grpc.services.userprovider]\ndriver='/a/b'\ndrivers=1", "grpc.services.userprovider.drivers is 1"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Import([]byte(tt.text), "/")
			if !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func FuzzImport(f *testing.F) {
	f.Add("[grpc.service.userprovider]\ndriver = 'https://github.com/a/b'\n[grpc.service.userprovider.drivers.b]\nuser = 'u'")
	f.Add("[grpc.services.authprovider]\nauth_manager = '/a/b'\n[grpc.services.authprovider.auth_managers.b]\na = [1, 'x', {b = 1979-05-27}]")
	f.Fuzz(func(t *testing.T, text string) {
		manifests, _, err := Import([]byte(text), "/")
		if err != nil {
			return
		}
		if _, err := json.Marshal(manifests); err != nil {
			t.Fatal(err)
		}
		for _, m := range manifests {
			if g := m.Spec.GoPlugin; (len(g.Command) == 0) == (g.Source == nil) {
				t.Errorf("%q: %+v", text, g)
			}
		}
	})
}
