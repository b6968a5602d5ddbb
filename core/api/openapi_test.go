package api

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestOpenAPI_isCurrent(t *testing.T) {
	got, err := document(Routes())
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("openapi.json", got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("openapi.json is not what the routes say; run go test ./core/api -update")
	}
}

func TestOpenAPI_referencesResolve(t *testing.T) {
	var doc struct {
		Components struct {
			Schemas map[string]any `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(openAPIDocument, &doc); err != nil {
		t.Fatal(err)
	}
	for _, part := range bytes.Split(openAPIDocument, []byte(`"#/components/schemas/`))[1:] {
		name, _, _ := bytes.Cut(part, []byte(`"`))
		if doc.Components.Schemas[string(name)] == nil {
			t.Errorf("schema %s is referred to and missing", name)
		}
	}
}

func TestRoutes_areWhole(t *testing.T) {
	ids, places := map[string]bool{}, map[string]bool{}
	for _, r := range Routes() {
		if ids[r.ID] || places[r.Method+r.Path] {
			t.Errorf("%s: twice", r.ID)
		}
		ids[r.ID], places[r.Method+r.Path] = true, true
		if r.Summary == "" || r.Scope == "" || r.Status == 0 || r.handler == nil {
			t.Errorf("%s: got %+v, want summary, scope, status and handler", r.ID, r)
		}
	}
}
