package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const describedManifest = `
apiVersion: patchbay/v1
kind: Plugin
metadata: {name: shapes}
spec:
  goplugin:
    command: [%s]
    handshake: {key: PATCHBAY_TINY, value: 3f2c, versions: [1]}
    transport: netrpc
    plugin: shapes
    describe:
      methods: {Find: {args: "*FindArgs", reply: FindReply, errorField: Err, required: [Query], defaults: {Ctx: {}}}}
      types:
        FindArgs: {fields: {Ctx: "*Ctx", Query: string, ID: "*UserID"}}
        Ctx: {fields: {Token: string}}
        UserID: {fields: {Idp: string, OpaqueID: string, Type: int32}}
        Entry: {fields: {Decoder: string, Value: bytes}}
        User:
          fields: {ID: "*UserID", Name: string, Mail: string, Verified: bool, Groups: "[]string", Opaque: "map:string,*Entry", Uid: int64, Gid: int64}
        FindReply: {fields: {Users: "[]*User", Err: error}}
  restart: {backoff: {min: 1ms, max: 10ms}, budget: {failures: -1}}
`

// What a host that knows the plugin has compiled in; the shape of Reva's FindUsers.
type (
	findContext struct{ Token string }
	findUserID  struct {
		Idp, OpaqueID string
		Type          int32
	}
	findArgs struct {
		Ctx   *findContext
		Query string
		ID    *findUserID
	}
	findEntry struct {
		Decoder string
		Value   []byte
	}
	findUser struct {
		ID         *findUserID
		Name, Mail string
		Verified   bool
		Groups     []string
		Opaque     map[string]*findEntry
		Uid, Gid   int64
	}
	findReply struct {
		Users []*findUser
		Err   error
	}
)

// goPluginDescribed compares with a host that needs no JSON; the second row is for
// one that has JSON to read and to write, as a REST API has.
func goPluginDescribed(ctx context.Context, h *harness) ([]row, error) {
	command := h.plugin("goplugin-shapes")
	dispensed, pid, end, err := bareDispensed(h.dir, command, "shapes", netRPCStub{})
	if err != nil {
		return nil, err
	}
	defer end()
	stub := dispensed.(netRPCStub)
	in := findArgs{Ctx: &findContext{}, Query: "sailing-boats"}
	find := func(in findArgs) (out findReply, err error) {
		if err = stub.client.Call("Plugin.Find", &in, &out); err == nil && (len(out.Users) != 4 || out.Users[3].Groups[2] != in.Query) {
			err = fmt.Errorf("find answered %+v", out)
		}
		return out, err
	}
	compiled := calls(callers, []int{self, pid}, func(context.Context, int) error {
		_, err := find(in)
		return err
	})
	argument, _ := json.Marshal(map[string]string{"Query": in.Query}) // a text
	throughJSON := calls(callers, []int{self, pid}, func(context.Context, int) error {
		in := findArgs{Ctx: &findContext{}}
		if err := json.Unmarshal(argument, &in); err != nil {
			return err
		}
		out, err := find(in)
		if err == nil {
			_, err = json.Marshal(out)
		}
		return err
	})
	call := plugin.Invocation{Plugin: "shapes", Operation: "Find", Data: argument}
	var rows []row
	for _, one := range []struct {
		name string
		bare side
	}{{"described invoke cpu", compiled}, {"described invoke cpu, JSON on both sides", throughJSON}} {
		c, err := h.dispatched(ctx, fmt.Sprintf(describedManifest, command), call, one.bare)
		if err != nil {
			return rows, err
		}
		rows = append(rows, c.row(one.name, "us/call", cpuMicros, atMost(2)))
	}
	return rows, nil
}
