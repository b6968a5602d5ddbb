package api

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/patchbay-dev/patchbay/core/api/wire"
)

// openAPIVersion is the version of the API, not of the program.
const openAPIVersion = "1.0.0"

// object is a JSON object; json.Marshal sorts its keys, so the document is the
// same each time.
type object = map[string]any

// document makes the OpenAPI 3.1 document of a table of routes.
func document(routes []Route) ([]byte, error) {
	s := &schemas{named: object{}, base: "#/components/schemas/"}
	problem := s.of(wire.Problem{})
	paths := object{}
	for _, r := range routes {
		item, ok := paths[r.Path].(object)
		if !ok {
			item = object{}
			paths[r.Path] = item
		}
		item[strings.ToLower(r.Method)] = s.operation(r, problem)
	}
	doc := object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Patchbay", "version": openAPIVersion, "summary": "Run, supervise, call and observe plugins.",
			"license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
		},
		"servers": []object{{"url": "http://127.0.0.1:7420", "description": "The daemon of this machine."}},
		"tags":    tags(routes),
		"paths":   paths,
		"components": object{
			"schemas": s.named,
			"securitySchemes": object{"bearer": object{
				"type": "http", "scheme": "bearer", "description": "The token in " + wire.APITokenFile + " of the daemon's data folder.",
			}},
		},
	}
	text, err := json.MarshalIndent(doc, "", "  ")
	return append(text, '\n'), err
}

// tagOf groups routes: what follows the version in the path.
func tagOf(r Route) string {
	parts := strings.Split(strings.Trim(r.Path, "/"), "/")
	switch {
	case parts[0] != "v1":
		return "daemon"
	case len(parts) > 3:
		return parts[3]
	default:
		return parts[1]
	}
}

func tags(routes []Route) []object {
	seen := map[string]bool{}
	for _, r := range routes {
		seen[tagOf(r)] = true
	}
	var all []object
	for _, name := range slices.Sorted(maps.Keys(seen)) {
		all = append(all, object{"name": name})
	}
	return all
}

func (s *schemas) operation(r Route, problem object) object {
	op := object{
		"operationId": strings.ToLower(r.ID[:1]) + r.ID[1:],
		"summary":     r.Summary,
		"tags":        []string{tagOf(r)},
		"responses":   s.responses(r, problem),
		"security":    []object{},
	}
	if r.Scope != Open {
		op["security"] = []object{{"bearer": []string{string(r.Scope)}}}
	}
	if all := parameters(r); len(all) > 0 {
		op["parameters"] = all
	}
	if r.Input != nil {
		op["requestBody"] = object{"required": r.Input.Of != nil, "content": s.content(*r.Input)}
	}
	return op
}

func parameters(r Route) []object {
	var all []object
	for part := range strings.SplitSeq(r.Path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			all = append(all, object{
				"name": strings.TrimSuffix(name, "}"), "in": "path", "required": true, "schema": object{"type": "string"},
			})
		}
	}
	for _, p := range r.Query {
		in, kind := p.In, p.Type
		if in == "" {
			in = "query"
		}
		if kind == "" {
			kind = "string"
		}
		all = append(all, object{"name": p.Name, "in": in, "description": p.Doc, "schema": object{"type": kind}})
	}
	return all
}

func (s *schemas) responses(r Route, problem object) object {
	done := object{"description": "Done."}
	if len(r.Output.Media) > 0 {
		done["content"] = s.content(r.Output)
	}
	all := object{
		strconv.Itoa(r.Status): done,
		"default": object{
			"description": "A problem: its type and code say of which class.",
			"content":     object{wire.ProblemType: object{"schema": problem}},
		},
	}
	switch r.ID {
	case "Put":
		all["201"] = object{"description": "It is new.", "content": s.content(r.Output)}
	case "Ready":
		all["503"] = object{"description": "It is not ready.", "content": s.content(r.Output)}
	case "Invoke":
		all["422"] = object{
			"description": "The plugin refused: its own code, message and details.",
			"content":     object{wire.ProblemType: object{"schema": problem}},
		}
	}
	return all
}

// content describes a body in each of its media types. A manifest file as it is
// stands beside the JSON that carries several.
func (s *schemas) content(b Body) object {
	all := object{}
	for _, media := range b.Media {
		schema := object{}
		switch {
		case media == wire.YAMLType:
			schema = s.of(manifestDoc{})
		case b.Of != nil:
			schema = s.of(b.Of)
		case media == "text/plain":
			schema = object{"type": "string"}
		}
		all[media] = object{"schema": schema}
	}
	return all
}
