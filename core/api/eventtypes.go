package api

import (
	"encoding/json"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// eventSchemaBase begins the name of every event's schema.
const eventSchemaBase = "https://patchbay.dev/schema/v1/events/"

func (a *API) eventTypes(c echo.Context) error {
	list := wire.EventTypeList{Items: []wire.EventType{}}
	for _, t := range plugin.EventTypes() {
		schema, err := eventDataSchema(t)
		if err != nil {
			return err
		}
		list.Items = append(list.Items, wire.EventType{Type: t.Type, Since: t.Since, Summary: t.Summary, Schema: schema})
	}
	return a.json(c, http.StatusOK, list)
}

// eventDataSchema is the JSON Schema (2020-12) of one event's data.
func eventDataSchema(t plugin.EventType) ([]byte, error) {
	s := &schemas{named: object{}, base: "#/$defs/"}
	root := s.of(t.Data)
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["$id"] = eventSchemaBase + t.Type + ".schema.json"
	root["title"], root["description"] = t.Type, t.Summary
	root["$defs"] = s.named
	return json.Marshal(root)
}
