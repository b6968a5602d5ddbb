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
// changes only with it.
const (
	EventState       = "dev.patchbay.plugin.state.v1"       // data: StateChange
	EventApplied     = "dev.patchbay.plugin.applied.v1"     // data: Change
	EventDeleted     = "dev.patchbay.plugin.deleted.v1"     // data: Change
	EventInvocations = "dev.patchbay.plugin.invocations.v1" // data: []InvocationRecord, packed
	EventStop        = "dev.patchbay.plugin.stop.v1"        // data: Stop, of an instance that is gone
)

// StateChange is the data of EventState.
type StateChange struct {
	From   State  `json:"from"`
	To     State  `json:"to"`
	Cause  string `json:"cause"`
	Status Status `json:"status"`
}

// Change is the data of EventApplied and EventDeleted.
type Change struct {
	Revision   uint64  `json:"revision"`
	Generation int64   `json:"generation"`
	Desired    Desired `json:"desired"`
}

// InvocationRecord is one finished invocation.
type InvocationRecord struct {
	ID        string    `json:"id"`
	Plugin    string    `json:"plugin"`
	Operation string    `json:"operation"`
	Caller    string    `json:"caller,omitempty"`
	Time      time.Time `json:"time"`
	// DurationMicros is from dispatch to answer.
	DurationMicros int64 `json:"durationMicros"`
	// Outcome is ok, refused, or the error class's word.
	Outcome string `json:"outcome"`
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
