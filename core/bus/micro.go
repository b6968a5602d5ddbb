package bus

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// The micro protocol (ADR-32): what `nats micro ls`, `info` and `stats` ask.
const (
	pingType  = "io.nats.micro.v1.ping_response"
	infoType  = "io.nats.micro.v1.info_response"
	statsType = "io.nats.micro.v1.stats_response"
)

type microIdentity struct {
	Name     string            `json:"name"`
	ID       string            `json:"id"`
	Version  string            `json:"version"`
	Metadata map[string]string `json:"metadata"`
}

type microPing struct {
	microIdentity
	Type string `json:"type"`
}

type microInfo struct {
	microIdentity
	Type        string          `json:"type"`
	Description string          `json:"description"`
	Endpoints   []microEndpoint `json:"endpoints"`
}

type microEndpoint struct {
	Name       string            `json:"name"`
	Subject    string            `json:"subject"`
	QueueGroup string            `json:"queue_group"`
	Metadata   map[string]string `json:"metadata"`
}

type microStats struct {
	microIdentity
	Type      string               `json:"type"`
	Started   time.Time            `json:"started"`
	Endpoints []microEndpointStats `json:"endpoints"`
}

type microEndpointStats struct {
	Name                  string        `json:"name"`
	Subject               string        `json:"subject"`
	QueueGroup            string        `json:"queue_group"`
	NumRequests           int           `json:"num_requests"`
	NumErrors             int           `json:"num_errors"`
	LastError             string        `json:"last_error"`
	ProcessingTime        time.Duration `json:"processing_time"`
	AverageProcessingTime time.Duration `json:"average_processing_time"`
}

// discover answers $SRV.<verb>, $SRV.<verb>.<name> and $SRV.<verb>.<name>.<id>:
// one answer per plugin that is meant.
func (d *door) discover(m *nats.Msg) {
	parts := strings.Split(m.Subject, ".")
	var answer func(ServiceInfo) any
	switch {
	case m.Reply == "" || len(parts) > 4:
		return
	case parts[1] == "PING":
		answer = func(s ServiceInfo) any { return microPing{identity(s), pingType} }
	case parts[1] == "INFO":
		answer = func(s ServiceInfo) any { return infoOf(s) }
	case parts[1] == "STATS":
		answer = func(s ServiceInfo) any { return d.statsOf(s) }
	default:
		return // another service's verb
	}
	if len(parts) == 2 {
		d.answerAll(m, d.services.Plugins(), answer)
		return
	}
	select { // one plugin: it may be asked what it offers, and may hang
	case d.places <- struct{}{}:
	default:
		return // too busy to be found
	}
	go func() { // ends with the plugin's answer; Serve waits
		defer func() { <-d.places }()
		d.answerAll(m, d.meant(parts[2:]), answer)
	}()
}

func (d *door) answerAll(m *nats.Msg, all []ServiceInfo, answer func(ServiceInfo) any) {
	for _, s := range all {
		text, err := json.Marshal(answer(s))
		if err == nil {
			err = m.Respond(text)
		}
		if err != nil {
			d.bus.o.Log.Debug("an answer was lost", "subject", m.Subject, "why", err)
			return
		}
	}
}

func (d *door) meant(who []string) []ServiceInfo {
	s, ok := d.services.Plugin(who[0])
	if !ok || len(who) == 2 && identity(s).ID != who[1] {
		return nil
	}
	return []ServiceInfo{s}
}

func identity(s ServiceInfo) microIdentity {
	id := microIdentity{Name: s.Name, ID: s.ID, Version: s.Version, Metadata: s.Metadata}
	if id.ID == "" {
		id.ID = s.Name
	}
	if id.Version == "" {
		id.Version = "0.0.0"
	}
	if id.Metadata == nil {
		id.Metadata = map[string]string{}
	}
	return id
}

// endpoints are the operations; when they are not known, one that stands for all.
func endpoints(s ServiceInfo) []microEndpoint {
	if len(s.Operations) == 0 {
		return []microEndpoint{{Name: "invoke", Subject: invokePrefix + token(s.Name) + ".*", QueueGroup: queueGroup, Metadata: map[string]string{}}}
	}
	all := make([]microEndpoint, 0, len(s.Operations))
	for _, o := range s.Operations {
		all = append(all, microEndpoint{
			Name: endpointName(o.Name), Subject: invokeSubject(s.Name, o.Name), QueueGroup: queueGroup, Metadata: endpointMetadata(o),
		})
	}
	return all
}

func endpointMetadata(o plugin.Operation) map[string]string {
	m := map[string]string{"operation": o.Name}
	if o.Summary != "" {
		m["summary"] = o.Summary
	}
	switch { // the value of Patchbay-Stream
	case o.Streams && o.TakesStream:
		m["stream"] = streamBoth
	case o.Streams:
		m["stream"] = streamAnswer
	case o.TakesStream:
		m["stream"] = streamArgument
	}
	if len(o.Input) > 0 {
		m["input_schema"] = string(o.Input)
	}
	if len(o.Output) > 0 {
		m["output_schema"] = string(o.Output)
	}
	return m
}

// endpointName keeps to what the protocol allows in names.
func endpointName(operation string) string {
	if operation == "" {
		return none
	}
	name := []byte(operation)
	for i, c := range name {
		if !plainByte(c) {
			name[i] = '_'
		}
	}
	return string(name)
}

func infoOf(s ServiceInfo) microInfo {
	return microInfo{identity(s), infoType, s.Description, endpoints(s)}
}

// statsOf counts what came by the bus: these endpoints are its own.
func (d *door) statsOf(s ServiceInfo) microStats {
	stats := microStats{microIdentity: identity(s), Type: statsType, Started: s.Started.UTC()}
	for i, e := range endpoints(s) {
		operation := ""
		if len(s.Operations) > 0 {
			operation = s.Operations[i].Name
		}
		one := d.bus.served.of(s.Name, operation)
		row := microEndpointStats{
			Name: e.Name, Subject: e.Subject, QueueGroup: e.QueueGroup, NumRequests: one.requests,
			NumErrors: one.errors, LastError: one.last, ProcessingTime: one.took,
		}
		if one.requests > 0 {
			row.AverageProcessingTime = one.took / time.Duration(one.requests)
		}
		stats.Endpoints = append(stats.Endpoints, row)
	}
	return stats
}
