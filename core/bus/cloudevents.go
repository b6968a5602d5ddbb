package bus

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// The headers of an event: CloudEvents 1.0, NATS binding, binary mode.
const (
	ceSpec        = "ce-specversion"
	ceID          = "ce-id"
	ceSource      = "ce-source"
	ceType        = "ce-type"
	ceSubject     = "ce-subject"
	ceTime        = "ce-time"
	cePlugin      = "ce-plugin"
	ceContentType = "content-type"
)

const jsonType = "application/json"

// fill gives an event what whoever made it left out.
func (b *Bus) fill(e plugin.Event) plugin.Event {
	if e.ID == "" {
		e.ID = nuid.Next()
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Time = e.Time.UTC()
	if e.Source == "" {
		e.Source = "/patchbay/" + b.o.Node
		if e.Plugin != "" {
			e.Source += "/plugins/" + e.Plugin
		}
	}
	return e
}

// complete is fill, and makes the data something that both forms of the event can
// carry.
func (b *Bus) complete(e plugin.Event) plugin.Event {
	e = b.fill(e)
	if n := len(e.Data); n > plugin.EventDataBytesMax {
		b.o.Log.Warn("event without its data: too large", "plugin", e.Plugin, "type", e.Type, "bytes", n)
		e.Data = fmt.Appendf(nil, `{"omitted":"%d bytes of data; at most %d are carried"}`, n, plugin.EventDataBytesMax)
		e.ContentType = jsonType
	}
	if len(e.Data) > 0 && !json.Valid(e.Data) {
		e.Data, _ = json.Marshal(string(e.Data)) // a string always marshals
	}
	return e
}

// message is the event in binary mode.
func message(e *plugin.Event) *nats.Msg {
	h := make(nats.Header, 12)
	set := func(key, value string) {
		if value != "" {
			h[key] = []string{escape(value)}
		}
	}
	set(ceSpec, "1.0")
	set(ceID, e.ID)
	set(ceSource, e.Source)
	set(ceType, e.Type)
	set(ceSubject, e.Subject)
	set(ceTime, e.Time.Format(time.RFC3339Nano))
	set(cePlugin, e.Plugin)
	h[nats.MsgIdHdr] = []string{messageID(e)}
	h[ceContentType] = []string{jsonType}
	if e.ContentType != "" {
		h[ceContentType] = []string{escape(e.ContentType)}
	}
	return &nats.Msg{Subject: eventSubject(e.Plugin, e.Type), Header: h, Data: e.Data}
}

// messageID names a stored event. Source and id together are unique; the source
// goes by the node.
func messageID(e *plugin.Event) string { return escape(e.Source + "#" + e.ID) }

// readMessage is the event of a stored message.
func readMessage(h nats.Header, data []byte, sequence uint64) plugin.Event {
	get := func(key string) string { return unescape(h.Get(key)) }
	e := plugin.Event{
		ID: get(ceID), Source: get(ceSource), Type: get(ceType), Subject: get(ceSubject), Plugin: get(cePlugin),
		ContentType: get(ceContentType), Data: data, Sequence: sequence,
	}
	e.Time, _ = time.Parse(time.RFC3339Nano, get(ceTime)) // a stranger's event may have none
	if e.ContentType == jsonType {
		e.ContentType = "" // the default of the type
	}
	if len(data) > 0 && !json.Valid(data) {
		e.Data, _ = json.Marshal(strings.ToValidUTF8(string(data), "\uFFFD"))
	}
	return e
}

// escape writes a header value as the binding asks: what is not printable ASCII,
// and space, quote and percent, become %XX.
func escape(s string) string {
	for i := range len(s) {
		if !visible(s[i]) {
			return escapeFrom(s, i)
		}
	}
	return s
}

func visible(c byte) bool { return c > ' ' && c < 0x7f && c != '"' && c != '%' }

func escapeFrom(s string, from int) string {
	var b strings.Builder
	b.WriteString(s[:from])
	for i := from; i < len(s); i++ {
		if visible(s[i]) {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(&b, "%%%02X", s[i])
		}
	}
	return b.String()
}

// unescape undoes escape; what is not an escape stays.
func unescape(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) && hexDigit(s[i+1]) >= 0 && hexDigit(s[i+2]) >= 0 {
			out = append(out, byte(hexDigit(s[i+1])<<4|hexDigit(s[i+2])))
			i += 2
			continue
		}
		out = append(out, s[i])
	}
	return string(out)
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}
