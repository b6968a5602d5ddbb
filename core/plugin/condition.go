package plugin

import "time"

// ConditionType is one question about a plugin.
type ConditionType string

// The conditions.
const (
	ConditionStarted        ConditionType = "Started"        // its start has been completed
	ConditionReady          ConditionType = "Ready"          // it answers well
	ConditionLive           ConditionType = "Live"           // its process is there and not hung, as far as is asked
	ConditionLimitsEnforced ConditionType = "LimitsEnforced" // each limit that is set is kept
)

// ConditionTypes lists every condition, in the order in which they are shown.
func ConditionTypes() []ConditionType {
	return []ConditionType{ConditionStarted, ConditionReady, ConditionLive, ConditionLimitsEnforced}
}

// ConditionStatus is the answer.
type ConditionStatus string

// The answers.
const (
	ConditionTrue    ConditionStatus = "True"
	ConditionFalse   ConditionStatus = "False"
	ConditionUnknown ConditionStatus = "Unknown"
)

// Condition is one question about a plugin and its answer.
type Condition struct {
	Type   ConditionType   `json:"type" enum:"Started,Ready,Live,LimitsEnforced"`
	Status ConditionStatus `json:"status" enum:"True,False,Unknown"`
	// Reason is one CamelCase word, Message a sentence for people.
	Reason             string    `json:"reason"`
	Message            string    `json:"message,omitempty"`
	LastTransitionTime time.Time `json:"lastTransitionTime"`
	// ObservedGeneration is the manifest's generation that the answer is of.
	ObservedGeneration int64 `json:"observedGeneration"`
}

// Condition returns the condition of a type; ok is false when it is not known yet.
func (s Status) Condition(t ConditionType) (c Condition, ok bool) {
	for _, c := range s.Conditions {
		if c.Type == t {
			return c, true
		}
	}
	return Condition{}, false
}

// Stop is how one stop went.
type Stop struct {
	Instance string    `json:"instance,omitempty"`
	At       time.Time `json:"at"` // when it began
	// DurationMillis is from there until nothing was left.
	DurationMillis int64      `json:"durationMillis"`
	Steps          []StopStep `json:"steps"`
}

// StopStep is one step of a stop.
type StopStep struct {
	// Name is intake, drain, streams, then ask, term, kill or, of an instance that
	// does not tell, stop, and clean. A job has runs in their place.
	Name           string `json:"name"`
	DurationMillis int64  `json:"durationMillis"`
	// Outcome is done, ended (the instance did), late (the step's time was over),
	// or what went wrong.
	Outcome string `json:"outcome"`
}
