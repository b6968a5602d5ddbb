package describe_test

import (
	"fmt"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/describe"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// A description that is built in is written as in a manifest, and what a manifest
// says beside it wins.
func Example() {
	builtIn := describe.Description{
		Methods: map[string]describe.Method{
			"GetUser": {
				Args: "GetUserArg", Reply: "GetUserReply", ErrorField: "Err", Required: []string{"UID"}, Idempotent: true,
				Defaults: map[string]plugin.RawJSON{"Ctx": plugin.RawJSON("{}")},
			},
		},
		Types: describe.Types{
			"Ctx":          {},
			"UserId":       {Fields: map[string]string{"Idp": "string", "OpaqueId": "string", "Type": "int32"}},
			"User":         {Fields: map[string]string{"Id": "*UserId", "Username": "string"}},
			"GetUserArg":   {Fields: map[string]string{"Ctx": "*Ctx", "UID": "*UserId"}},
			"GetUserReply": {Fields: map[string]string{"User": "*User", "Err": "error"}},
		},
	}
	manifest := describe.Description{Methods: map[string]describe.Method{"user": {Method: "GetUser", Summary: "Finds a user."}}}

	var faults plugin.Faults
	compiled := describe.Compile(builtIn.Under(manifest), "spec.goplugin.describe", &faults)
	o := compiled.Operations["user"]
	sent, err := o.Argument([]byte(`{"UID": {"OpaqueId": "einstein"}}`))
	fmt.Println(faults.Err(), o.Remote, o.Summary)
	fmt.Println(string(sent), err)
	_, err = o.Argument([]byte(`{}`))
	fmt.Println(err)
	// Output:
	// <nil> Plugin.GetUser Finds a user.
	// {"UID": {"OpaqueId": "einstein"},"Ctx":{}} <nil>
	// argument.UID: is required, and is missing or null
}
