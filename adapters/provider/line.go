package provider

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// A posted line is the common library's log line, as far as it is worth keeping:
// the file names in it are those of the author's machine.
type postedLine struct {
	Group     int64
	Time      time.Time
	Service   string
	Principal string
	Level     json.RawMessage // a word, or 0 to 7
	Message   string
	Data      []any
}

// A kept line is what goes to the plugin's log, one JSON object a line.
type keptLine struct {
	Time      *time.Time `json:"time,omitempty"`
	Level     string     `json:"level"`
	Message   string     `json:"message"`
	Service   string     `json:"service,omitempty"`
	Principal string     `json:"principal,omitempty"`
	Group     int64      `json:"group,omitempty"`
	Data      any        `json:"data,omitempty"`
}

// line makes a line for the log from what was posted, which may be anything. It
// returns nil when there is nothing to keep.
func (h *host) line(data []byte) []byte {
	var p postedLine
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&p); err != nil {
		p = postedLine{Message: strings.ToValidUTF8(string(data), "\ufffd")}
	}
	if strings.HasPrefix(p.Message, "API: st: 404") && strings.Contains(p.Message, probePath) {
		return nil // the library's own word about our probe
	}
	k := keptLine{
		Level: levelOf(p.Level), Message: h.hide.text(strings.TrimRight(p.Message, "\r\n")),
		Service: p.Service, Principal: p.Principal, Group: p.Group,
	}
	if !p.Time.IsZero() {
		k.Time = &p.Time
	}
	if len(p.Data) > 0 {
		k.Data = h.hide.value(p.Data)
	}
	if k.Message == "" && k.Data == nil {
		return nil
	}
	return k.encode()
}

// encode keeps the whole within one log line, data first to go.
func (k keptLine) encode() []byte {
	for {
		text, err := json.Marshal(k)
		switch {
		case err != nil, len(text) >= plugin.LogLineBytesMax && k.Data != nil:
			k.Data = nil
			k.Service, k.Principal = cut(k.Service), cut(k.Principal)
			if err != nil {
				k.Time = nil // a year that JSON times cannot say
			}
		case len(text) >= plugin.LogLineBytesMax:
			k.Message = strings.ToValidUTF8(k.Message[:len(k.Message)/2], "")
			k.Service, k.Principal = cut(k.Service), cut(k.Principal)
		default:
			return append(text, '\n')
		}
	}
}

// labelBytesMax is far beyond the name of any service or user.
const labelBytesMax = 256

func cut(s string) string { return strings.ToValidUTF8(s[:min(len(s), labelBytesMax)], "") }

// levelOf reads the library's level; the log knows fewer, and that a plugin
// calls something fatal ends nobody else.
func levelOf(raw json.RawMessage) string {
	switch word := strings.ToLower(strings.Trim(string(raw), `" `)); word {
	case "trace", "debug", "info", "warn", "error":
		return word
	case "0":
		return "trace"
	case "1":
		return "debug"
	case "3":
		return "warn"
	case "4", "5", "6", "fatal", "panic":
		return "error"
	default: // 2, audit, 7, and whatever is no level
		return "info"
	}
}
