package goplugin_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/goplugin"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// users writes the file that the tiny Reva plugins read.
func users(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users.json")
	text := `[
		{"id": {"idp": "cern", "opaque_id": "id-e", "type": 1}, "username": "einstein", "mail": "e@cern.ch", "display_name": "Albert Einstein", "groups": ["violin", "physics"], "secret": "relativity", "uid": 123},
		{"id": {"idp": "cern", "opaque_id": "id-m"}, "username": "marie", "mail": "m@cern.ch", "display_name": "Marie Curie", "secret": "radioactivity"}]`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// revaSpec is a tiny Reva plugin as a user declares it.
func revaSpec(t *testing.T, dialect, kind string) goplugin.Spec {
	t.Helper()
	return goplugin.Spec{
		Command: []string{built(t, dialect)}, Preset: "reva", Plugin: kind,
		Config: fmt.Appendf(nil, `{"users": %q, "greet": "hello", "limit": 5, "deep": false, "ratio": 0.5, "names": ["a"]}`, users(t)),
	}
}

// einstein is what all plugins answer of him, written in full.
const einstein = `{"Id":{"Idp":"cern","OpaqueId":"id-e","Type":1,"TenantId":""},"Username":"einstein","Mail":"e@cern.ch","MailVerified":false,
	"DisplayName":"Albert Einstein","Groups":["violin","physics"],"Opaque":{"Map":{"uid":{"Decoder":"plain","Value":"MTIz"}}},"UidNumber":123,"GidNumber":0}`

// TestReva: each method of each kind in each dialect, with a manifest that has the
// command, the kind and the configuration; after each that fails the next one works.
func TestReva(t *testing.T) {
	for _, dialect := range []string{"a", "b", "c"} {
		t.Run(dialect, func(t *testing.T) {
			i, _ := started(t, revaSpec(t, dialect, "userprovider"))
			answers := func(operation, data, want string) {
				t.Helper()
				got, err := invoke(t, i, operation, data)
				if err != nil {
					t.Fatalf("%s %s: %v", operation, data, err)
				}
				sameJSON(t, got, want)
			}
			answers("GetUser", `{"UID": {"OpaqueId": "id-e"}}`, `{"User": `+einstein+`}`)
			answers("GetUser", `{"UID": {"OpaqueId": "id-x"}}`, `{"User": null}`)
			for _, claim := range []string{`"mail", "Value": "e@cern.ch"`, `"username", "Value": "einstein"`, `"uid", "Value": "123"`} {
				answers("GetUserByClaim", `{"Claim": `+claim+`}`, `{"User": `+einstein+`}`)
			}
			answers("GetUserGroups", `{"User": {"OpaqueId": "id-e"}}`, `{"Group": ["violin", "physics"]}`)
			answers("GetUserGroups", `{"User": {"OpaqueId": "id-m"}}`, `{"Group": []}`)
			answers("FindUsers", `{"Query": "ein"}`, `{"User": [`+einstein+`]}`)
			answers("FindUsers", `{"Query": "nobody"}`, `{"User": []}`)
			answers("Configure", `{"Ml": {"users": "`+users(t)+`"}}`, `{}`)
			refuses(t, i, "GetUserByClaim", `{"Claim": "mail", "Value": "x"}`, "errtypes.NotFound", 404)
			answers("GetUserGroups", `{"User": {"OpaqueId": "id-e"}}`, `{"Group": ["violin", "physics"]}`)
			refuses(t, i, "Configure", `{"Ml": {"users": "/nonexistent"}}`, "fs.PathError", 502)
			answers("FindUsers", `{"Query": "ein"}`, `{"User": [`+einstein+`]}`)
			facts(t, i, "userprovider", map[string]string{"a": "B", "b": "B", "c": "C"}[dialect])

			i, _ = started(t, revaSpec(t, dialect, "authprovider"))
			proof := `{"User": ` + einstein + `, "Auth": {"user": {"Resource": {"Decoder": "json", "Value": "e30="}, "Role": 1}}}`
			answers("Authenticate", `{"ClientID": "einstein", "ClientSecret": "relativity"}`, proof)
			refuses(t, i, "Authenticate", `{"ClientID": "einstein", "ClientSecret": ""}`, "errtypes.InvalidCredentials", 401)
			answers("Authenticate", `{"ClientID": "einstein", "ClientSecret": "relativity"}`, proof)
			answers("Configure", `{"Ml": {"users": "`+users(t)+`"}}`, `{}`)
		})
	}
}

func facts(t *testing.T, i plugin.Instance, kind, dialect string) {
	t.Helper()
	got := i.(plugin.Inspector).Inspect()
	if got["plugin"] != kind || got["dialect"] != dialect {
		t.Errorf("status: got %v, want the plugin %s in dialect %s", got, kind, dialect)
	}
}

// refuses makes a call that the plugin answers with an error of a Go type.
func refuses(t *testing.T, i plugin.Instance, operation, data, class string, status int) {
	t.Helper()
	_, err := invoke(t, i, operation, data)
	var no *plugin.Refusal
	if !errors.As(err, &no) || strings.TrimPrefix(no.Code, "*") != class || no.Status != status {
		t.Errorf("%s %s: got %#v, want a refusal %s with status %d", operation, data, err, class, status)
	}
}

// TestReva_errors: each of Reva's error types has its HTTP status, and others that of
// a plugin that fails.
func TestReva_errors(t *testing.T) {
	i, _ := started(t, revaSpec(t, "b", "userprovider"))
	for class, status := range map[string]int{
		"NotFound": 404, "InternalError": 500, "PermissionDenied": 403, "AlreadyExists": 409, "UserRequired": 401, "InvalidCredentials": 401,
		"NotSupported": 501, "PartialContent": 422, "BadRequest": 400, "ChecksumMismatch": 422, "InsufficientStorage": 507,
	} {
		refuses(t, i, "GetUserByClaim", `{"Claim": "errtypes", "Value": "`+class+`"}`, "errtypes."+class, status)
	}
	refuses(t, i, "GetUserByClaim", `{"Claim": "errtypes", "Value": "other"}`, "errors.errorString", 502)

	spec := revaSpec(t, "b", "userprovider")
	spec.Errors = map[string]int{"errtypes.NotFound": 410}
	i, _ = started(t, spec)
	refuses(t, i, "GetUserByClaim", `{"Claim": "errtypes", "Value": "NotFound"}`, "errtypes.NotFound", 410)
	refuses(t, i, "GetUserByClaim", `{"Claim": "errtypes", "Value": "BadRequest"}`, "errtypes.BadRequest", 400)
}

// TestReva_neverKilledByACall: what would kill the plugin does not reach it.
func TestReva_neverKilledByACall(t *testing.T) {
	for _, dialect := range []string{"a", "b", "c"} {
		i, _ := started(t, revaSpec(t, dialect, "userprovider"))
		for operation, want := range map[string]string{
			"GetUser": "argument.UID: is required", "GetUserGroups": "argument.User: is required",
			"FindUsers": "argument.Query: is required", "GetUserByClaim": "argument.Claim: is required",
		} {
			for _, data := range []string{`{}`, ``, `{"UID": null, "User": null}`, `{"Ctx": null}`} {
				if strings.Contains(data, "UID") && !strings.HasPrefix(operation, "GetUserG") {
					continue
				}
				if _, err := invoke(t, i, operation, data); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), want) && !strings.Contains(err.Error(), "UID: is not a field") {
					t.Errorf("%s: %s %s: got %v, want %s", dialect, operation, data, err, want)
				}
			}
		}
		if _, err := invoke(t, i, "FindUsers", `{"Query": "ein", "Ctx": null}`); err != nil {
			t.Errorf("%s: without a context: %v", dialect, err)
		}
	}
}

// TestReva_context: who asks is told as the dialect has it.
func TestReva_context(t *testing.T) {
	for _, tt := range []struct{ dialect, context, want string }{
		{"a", `{"token": "t", "n": 5, "list": ["x"]}`, "t"},
		{"b", `{"token": "t"}`, "t"},
		{"b", `{}`, ""},
		{"c", `{"Token": "t"}`, "t"},
		{"c", `{"User": {"Username": "marie", "Id": {"OpaqueId": "id-m"}}, "Token": "t"}`, "marie t"},
		{"c", `{}`, ""},
	} {
		i, _ := started(t, revaSpec(t, tt.dialect, "userprovider"))
		got, err := invoke(t, i, "GetUserByClaim", `{"Claim": "whoami", "Value": "", "Ctx": `+tt.context+`}`)
		if want := fmt.Sprintf(`"Username":%q`, tt.want); err != nil || !strings.Contains(got, want) || !strings.Contains(got, `"DisplayName":"hello"`) {
			t.Errorf("%s with %s: got %s, %v; want %s", tt.dialect, tt.context, got, err, want)
		}
	}
}

// TestReva_dialect: by the cookie, by the manifest, by debugging information; and
// groups are left out only by who knows how.
func TestReva_dialect(t *testing.T) {
	skip := `{"UID": {"OpaqueId": "id-e"}, "SkipFetchingGroups": true}`
	for _, tt := range []struct{ file, dialect, from, want, groups string }{
		{"a", "", "", "B", `"Groups":["violin"`},
		{"a", "A", "", "A", "SkipFetchingGroups: is not a field"},
		{"b", "", "", "B", `"Groups":[]`},
		{"b", "B", "", "B", `"Groups":[]`},
		{"c", "", "", "C", "SkipFetchingGroups: is not a field"},
		{"c", "C", "", "C", "SkipFetchingGroups: is not a field"},
		{"a", "", "dwarf", "A", "SkipFetchingGroups: is not a field"},
		{"b", "", "dwarf", "B", `"Groups":[]`},
		{"c", "", "dwarf", "C", "SkipFetchingGroups: is not a field"},
		{"a", "B", "dwarf", "B", `"Groups":["violin"`},
	} {
		spec := revaSpec(t, tt.file, "userprovider")
		spec.Dialect, spec.Describe.From = tt.dialect, tt.from
		i, _ := started(t, spec)
		facts(t, i, "userprovider", tt.want)
		got, err := invoke(t, i, "GetUser", skip)
		if text := got + fmt.Sprint(err); !strings.Contains(text, tt.groups) {
			t.Errorf("%+v: got %s, %v", tt, got, err)
		}
	}
}

// TestReva_kind: a manifest need not say which of the two it is.
func TestReva_kind(t *testing.T) {
	for _, kind := range []string{"userprovider", "authprovider"} {
		spec := revaSpec(t, "b", "")
		spec.Command = append(spec.Command, kind) // it has that one only
		i, _ := started(t, spec)
		facts(t, i, kind, "B")
		ops, err := i.(plugin.Describer).Describe(t.Context())
		if has := slices.ContainsFunc(ops, func(o plugin.Operation) bool { return o.Name == "Authenticate" }); err != nil || has != (kind == "authprovider") {
			t.Errorf("%s: got %v, %v", kind, ops, err)
		}
	}
	spec := revaSpec(t, "b", "userprovider")
	spec.Command = append(spec.Command, "authprovider")
	if _, _, err := launch(t, spec, 20*time.Second); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "unknown plugin type: userprovider; check spec.goplugin.plugin") {
		t.Errorf("the other kind: got %v", err)
	}
}

// TestReva_panics: the plugin is gone, its words say why, and a new one is configured
// as the first was.
func TestReva_panics(t *testing.T) {
	spec := revaSpec(t, "b", "userprovider")
	i, out := started(t, spec)
	if _, err := invoke(t, i, "GetUserGroups", `{"User": {"OpaqueId": "id-x"}}`); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("got %v, want plugin.ErrUnavailable", err)
	}
	if exit := i.Wait(); exit.Code != 2 || !strings.Contains(out.Text(plugin.Stderr), "nil pointer dereference") {
		t.Errorf("got %v and\n%s", exit, out.Text(plugin.Stderr))
	}
	again, _ := started(t, spec)
	if got, err := invoke(t, again, "FindUsers", `{"Query": "ein"}`); err != nil || !strings.Contains(got, "einstein") {
		t.Errorf("after a new start: got %s, %v", got, err)
	}
}

// TestReva_adopted: the next daemon knows the dialect, and does not configure again.
func TestReva_adopted(t *testing.T) {
	for _, dialect := range []string{"b", "c"} {
		spec := revaSpec(t, dialect, "")
		path := users(t)
		spec.Config = fmt.Appendf(nil, `{"users": %q}`, path)
		p := leave(t, spec)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		i, err := p.adopt(t, 20*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := invoke(t, i, "FindUsers", `{"Query": "ein"}`); err != nil || !strings.Contains(got, "einstein") {
			t.Errorf("%s: got %s, %v", dialect, got, err)
		}
		facts(t, i, "userprovider", strings.ToUpper(dialect))
	}
}

// TestReva_config: what the plugin does not take is told, and it does not run.
func TestReva_config(t *testing.T) {
	spec := revaSpec(t, "b", "userprovider")
	spec.Config = plugin.RawJSON(`{"users": "/nonexistent/users.json"}`)
	_, _, err := launch(t, spec, 20*time.Second)
	if !errors.Is(err, plugin.ErrUnavailable) || !strings.Contains(err.Error(), "does not take spec.goplugin.config") || !strings.Contains(err.Error(), "fs.PathError") {
		t.Errorf("got %v", err)
	}
	for config, want := range map[string]string{
		`[]`:                          "spec.goplugin.config: is no object",
		`{"ldap": {"port": 636}}`:     "spec.goplugin.config.ldap: is an object",
		`{"ports": [1, 2]}`:           "spec.goplugin.config.ports: holds a number",
		`{"all": [{"a": "b"}]}`:       "spec.goplugin.config.all: holds an object",
		`{"n": 99999999999999999999}`: "spec.goplugin.config.n",
	} {
		spec.Config = plugin.RawJSON(config)
		err := goplugin.New(goplugin.Options{}).Check(manifest(t, spec))
		if !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %s", config, err, want)
		}
	}
}

// TestReva_faults: what stands in the block beside the preset.
func TestReva_faults(t *testing.T) {
	for want, change := range map[string]func(*goplugin.Spec){
		`spec.goplugin.plugin: "storage" is not known of Reva; write userprovider or authprovider`: func(s *goplugin.Spec) { s.Plugin = "storage" },
		`spec.goplugin.dialect: "D" is unknown`:                                                    func(s *goplugin.Spec) { s.Dialect = "D" },
		`spec.goplugin.dialect: is for preset reva`:                                                func(s *goplugin.Spec) { s.Preset, s.Dialect, s.Config = "example-kv", "A", nil },
		`spec.goplugin.configure: is missing`:                                                      func(s *goplugin.Spec) { s.Preset, s.Plugin = "example-kv", "" },
		`spec.goplugin.configure: "Set" is not described`:                                          func(s *goplugin.Spec) { s.Configure = "Set" },
		`spec.goplugin.describe.methods.GetUser.args`:                                              func(s *goplugin.Spec) { s.Describe.Methods = map[string]goplugin.Method{"GetUser": {Args: "Nothing"}} },
		`spec.goplugin.describe.from: dwarf cannot be read`:                                        func(s *goplugin.Spec) { s.Describe.From, s.Command = "dwarf", []string{"/bin/sh"} },
	} {
		spec := revaSpec(t, "b", "userprovider")
		change(&spec)
		if err := goplugin.New(goplugin.Options{}).Check(manifest(t, spec)); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
