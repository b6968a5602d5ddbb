package reva

import (
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/describe"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// The kinds of plugins, which are the names to dispense.
const (
	UserProvider = "userprovider"
	AuthProvider = "authprovider"
)

// The dialects.
const (
	A = "A"
	B = "B"
	C = "C"
)

// The cookies' values.
const (
	cookieReleased = "hello"
	cookieProposed = "reva"
)

const (
	// Configure is the method that is called before all others, and ConfigField the
	// field of its argument that holds the driver's configuration: flat values.
	Configure   = "Configure"
	ConfigField = "Ml"
)

// Cookies are the values to try, the likeliest first. A dialect of "" is unknown.
func Cookies(dialect string) []string {
	if dialect == C {
		return []string{cookieProposed, cookieReleased}
	}
	return []string{cookieReleased, cookieProposed}
}

// DialectOf is the dialect of a plugin that accepted a cookie: B also where it is A.
func DialectOf(cookie string) string {
	if cookie == cookieProposed {
		return C
	}
	return B
}

// DialectIn is the dialect of what the debugging information of a plugin describes, by
// Go type; "" when none is a plugin of Reva.
func DialectIn(found map[string]describe.Description) (dialect string) {
	for _, d := range found {
		if _, ok := d.Methods[Configure]; ok {
			dialect = max(dialect, dialectOf(d)) // one binary speaks one dialect, of which not all methods show all
		}
	}
	return dialect
}

func dialectOf(d describe.Description) string {
	dialect := A
	for _, m := range d.Methods {
		fields := d.Types[strings.TrimPrefix(m.Args, "*")].Fields
		ctx, hasContext := fields["Ctx"]
		if hasContext && !strings.HasPrefix(ctx, "map:") {
			return C
		}
		if _, skips := fields["SkipFetchingGroups"]; skips {
			dialect = B
		}
	}
	return dialect
}

// Kinds lists the kinds of plugins.
func Kinds() []string { return []string{UserProvider, AuthProvider} }

// Describe describes a kind of plugin in a dialect; false when there is no such kind.
func Describe(kind, dialect string) (describe.Description, bool) {
	t := describe.Types{
		"ConfigureArg":   fields(ConfigField, "map:string,any"),
		"ConfigureReply": fields("Err", "error"),
		"UserId":         fields("Idp", "string", "OpaqueId", "string", "Type", "int32", "TenantId", "string"),
		"User": fields("Id", "*UserId", "Username", "string", "Mail", "string", "MailVerified", "bool", "DisplayName", "string",
			"Groups", "[]string", "Opaque", "*Opaque", "UidNumber", "int64", "GidNumber", "int64"),
		"Opaque":      fields("Map", "map:string,*OpaqueEntry"),
		"OpaqueEntry": fields("Decoder", "string", "Value", "bytes"),
	}
	var methods map[string]describe.Method
	switch kind {
	case UserProvider:
		methods = users(t)
	case AuthProvider:
		methods = auth(t)
	default:
		return describe.Description{}, false
	}
	speak(dialect, methods, t)
	methods[Configure] = describe.Method{Summary: "Take the driver's configuration.", Args: "ConfigureArg", Reply: "ConfigureReply", ErrorField: "Err"}
	return describe.Description{Methods: methods, Types: t}, true
}

// users are the methods of a user provider. One whose UID or User is nil would kill
// the plugin.
func users(t describe.Types) map[string]describe.Method {
	t["GetUserArg"] = fields("UID", "*UserId")
	t["GetUserReply"] = fields("User", "*User", "Err", "error")
	t["GetUserByClaimArg"] = fields("Claim", "string", "Value", "string")
	t["GetUserByClaimReply"] = fields("User", "*User", "Err", "error")
	t["GetUserGroupsArg"] = fields("User", "*UserId")
	t["GetUserGroupsReply"] = fields("Group", "[]string", "Err", "error")
	t["FindUsersArg"] = fields("Query", "string")
	t["FindUsersReply"] = fields("User", "[]*User", "Err", "error")
	return map[string]describe.Method{
		"GetUser": {
			Summary: "The user with an id; User is null when there is none.",
			Args:    "GetUserArg", Reply: "GetUserReply", ErrorField: "Err", Required: []string{"UID"}, Idempotent: true,
		},
		"GetUserByClaim": {
			Summary: "The user whose mail, username or uid has a value.",
			Args:    "GetUserByClaimArg", Reply: "GetUserByClaimReply", ErrorField: "Err", Required: []string{"Claim", "Value"}, Idempotent: true,
		},
		"GetUserGroups": {
			Summary: "The groups of the user with an id.",
			Args:    "GetUserGroupsArg", Reply: "GetUserGroupsReply", ErrorField: "Err", Required: []string{"User"}, Idempotent: true,
		},
		"FindUsers": {
			Summary: "The users in whose name, mail or id a text is, in the plugin's own order.",
			Args:    "FindUsersArg", Reply: "FindUsersReply", ErrorField: "Err", Required: []string{"Query"}, Idempotent: true,
		},
	}
}

// auth are the methods of an authentication provider, whose error has another name.
// Some take a secret without an id, and some an id without a secret. A failure may be
// counted against the id: no call is made twice.
func auth(t describe.Types) map[string]describe.Method {
	t["AuthenticateArgs"] = fields("ClientID", "string", "ClientSecret", "string")
	t["AuthenticateReply"] = fields("User", "*User", "Auth", "map:string,*Scope", "Error", "error")
	t["Scope"] = fields("Resource", "*OpaqueEntry", "Role", "int32")
	return map[string]describe.Method{
		"Authenticate": {
			Summary: "The user whom an id and a secret prove, and what may be done in that name.",
			Args:    "AuthenticateArgs", Reply: "AuthenticateReply", ErrorField: "Error",
		},
	}
}

// speak gives each argument the context of the dialect, and what else it has.
func speak(dialect string, methods map[string]describe.Method, t describe.Types) {
	context := "map:any,any"
	if dialect == C {
		context = "*Ctx"
		t["Ctx"] = fields("User", "*User", "Token", "string")
	}
	skipping := []string{"GetUser", "GetUserByClaim", "FindUsers"}
	for name, m := range methods {
		t[m.Args].Fields["Ctx"] = context
		if dialect == C { // without it the plugin dies
			m.Defaults = map[string]plugin.RawJSON{"Ctx": plugin.RawJSON("{}")}
		}
		if dialect == B && slices.Contains(skipping, name) {
			t[m.Args].Fields["SkipFetchingGroups"] = "bool"
		}
		methods[name] = m
	}
}

// Errors is what Reva's error types mean in HTTP. Those that the plugin makes
// otherwise say nothing but that it failed.
func Errors() map[string]int {
	return map[string]int{
		"errtypes.NotFound":            404,
		"errtypes.InternalError":       500,
		"errtypes.PermissionDenied":    403,
		"errtypes.AlreadyExists":       409,
		"errtypes.UserRequired":        401,
		"errtypes.InvalidCredentials":  401,
		"errtypes.NotSupported":        501,
		"errtypes.BadRequest":          400,
		"errtypes.ChecksumMismatch":    422,
		"errtypes.InsufficientStorage": 507,
		// 206 in Reva, which is no error of HTTP.
		"errtypes.PartialContent": 422,
		"*":                       502,
	}
}

// fields are those of a struct.
func fields(pairs ...string) describe.Shape {
	s := describe.Shape{Fields: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		s.Fields[pairs[i]] = pairs[i+1]
	}
	return s
}
