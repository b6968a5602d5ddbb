package plugin

import (
	"encoding/json"
	"time"
)

// Event is a fact with a time, a CloudEvents 1.0 event. As JSON it has the
// structured form; on the bus it travels in binary mode, attributes as headers.
type Event struct {
	ID string
	// Source is "/patchbay/NODE/plugins/NAME".
	Source string
	// Type is one of the constants below, or what the plugin chose.
	Type    string
	Subject string
	Time    time.Time
	// Plugin is whom it is about; an extension attribute.
	Plugin string
	// ContentType of Data; application/json when empty.
	ContentType string
	Data        RawJSON
	// Sequence is the place in the bus's history, 0 when not kept there.
	Sequence uint64
}

// The types of the core's own events. A version ends each: the data's shape
// changes only with it, but for fields that are added. [EventTypes] tells the rest.
const (
	EventState       = "dev.patchbay.plugin.state.v1"
	EventStop        = "dev.patchbay.plugin.stop.v1"
	EventReload      = "dev.patchbay.plugin.reload.v1"
	EventApplied     = "dev.patchbay.plugin.applied.v1"
	EventDeleted     = "dev.patchbay.plugin.deleted.v1"
	EventInvocations = "dev.patchbay.plugin.invocations.v1"
	EventDropped     = "dev.patchbay.bus.dropped.v1"
)

// EventType is one row of the catalogue of the core's own events.
type EventType struct {
	Type string
	// Since is the version of Patchbay that told it first.
	Since   string
	Summary string
	// Data is a zero value of the type of the event's data.
	Data any
}

// EventTypes is the catalogue: every event of the core has a row, and its data has
// the shape of the row's type.
func EventTypes() []EventType {
	return []EventType{
		{EventState, "0.1.0", "A plugin's instance came into another state.", StateChange{}},
		{EventStop, "0.1.0", "An instance was stopped: the steps of it, each timed.", Stop{}},
		{EventReload, "0.1.0", "A new instance was launched beside the old one: it took its place and the old one is gone, or it did not and is gone.", Reload{}},
		{EventApplied, "0.1.0", "A manifest was applied, or what is wanted of the plugin has changed.", Change{}},
		{EventDeleted, "0.1.0", "A plugin was deleted.", Change{}},
		{EventInvocations, "0.1.0", "Invocations that have finished, packed: at most one event per plugin in 50 ms.", []InvocationRecord{}},
		{EventDropped, "0.1.0", "Events before this one were lost, because the bus was down for too long.", Dropped{}},
	}
}

// StateChange is the data of EventState.
type StateChange struct {
	From   State  `json:"from" doc:"The state before; empty for a plugin that is new."`
	To     State  `json:"to"`
	Cause  string `json:"cause" doc:"What led from one to the other, in one word."`
	Status Status `json:"status" doc:"The status from now on."`
}

// Change is the data of EventApplied and EventDeleted.
type Change struct {
	Revision   uint64  `json:"revision" doc:"The store's revision of the manifest: its ETag."`
	Generation int64   `json:"generation" doc:"Counts changes of the spec, from 1."`
	Desired    Desired `json:"desired" enum:"running,stopped"`
	Pinned     bool    `json:"pinned,omitempty" doc:"Its spec must not change."`
}

// InvocationRecord is one finished invocation.
type InvocationRecord struct {
	ID        string    `json:"id"`
	Plugin    string    `json:"plugin"`
	Operation string    `json:"operation"`
	Caller    string    `json:"caller,omitempty" doc:"Who asked: rest, bus, or plugin:NAME."`
	Time      time.Time `json:"time" doc:"When it began."`
	// DurationMicros is from dispatch to answer.
	DurationMicros int64 `json:"durationMicros" doc:"From dispatch to answer."`
	// Outcome is ok, refused, or the error class's word.
	Outcome string `json:"outcome" enum:"ok,refused,invalid,denied,not-found,conflict,busy,unavailable,deadline"`
}

// Dropped is the data of EventDropped.
type Dropped struct {
	Dropped uint64 `json:"dropped" doc:"How many were lost."`
}

type eventJSON struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"`
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Subject         string    `json:"subject,omitempty"`
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype,omitempty"`
	Plugin          string    `json:"plugin,omitempty"`
	Sequence        uint64    `json:"sequence,omitempty"`
	Data            RawJSON   `json:"data,omitempty"`
}

// MarshalJSON writes the structured form of CloudEvents.
func (e Event) MarshalJSON() ([]byte, error) {
	return json.Marshal(eventJSON{
		SpecVersion: "1.0", ID: e.ID, Source: e.Source, Type: e.Type, Subject: e.Subject, Time: e.Time,
		DataContentType: e.ContentType, Plugin: e.Plugin, Sequence: e.Sequence, Data: e.Data,
	})
}

// UnmarshalJSON reads the structured form of CloudEvents.
func (e *Event) UnmarshalJSON(data []byte) error {
	var j eventJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	*e = Event{
		ID: j.ID, Source: j.Source, Type: j.Type, Subject: j.Subject, Time: j.Time,
		ContentType: j.DataContentType, Plugin: j.Plugin, Sequence: j.Sequence, Data: j.Data,
	}
	return nil
}
