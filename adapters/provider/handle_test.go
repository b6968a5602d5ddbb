package provider

import (
	"encoding/json"
	"testing"
)

// FuzzHandle: whatever stands in the file, we get what define could have said, or
// an error.
func FuzzHandle(f *testing.F) {
	f.Add([]byte(`{"process":{"pid":7,"boot":"b","start":1,"executable":"e","mark":"n/provider/i"},"token":"t","definition":{"Name":"ok","PluginVersion":4}}`))
	f.Add([]byte(`{"process":{"pid":-1},"definition":null}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, d, err := parseHandle(data)
		if err != nil {
			return
		}
		if d.prefix() == "" || !providerName.MatchString(d.Name) || !json.Valid(h.Definition) {
			t.Errorf("handle %q: got %+v", data, d)
		}
	})
}

// A definition is the same after it was kept in a handle.
func TestHandle_keepsTheDefinition(t *testing.T) {
	const defined = `{"Name":"ok","Version":"v1","PluginVersion":2,"HasPublish":true,"AvailableActions":[{"Command":"c","Model":"m","RequiredParams":["a"]}],
		"OptionalParams":["a"],"StoreObjects":{"cows":{}},"Content":"sections: {params: {a: {Secure: true, Schema: {default: 1}}}}"}`
	d, err := parseDefinition([]byte(defined))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	again, err := parseDefinition(text)
	if err != nil || again.prefix() != d.prefix() || string(again.params["a"].Default) != "1" || !again.params["a"].Secure ||
		len(again.AvailableActions) != 1 || again.AvailableActions[0].RequiredParams[0] != "a" || again.StoreObjects["cows"] == nil {
		t.Errorf("got %+v, %v, want %+v", again, err, d)
	}
}
