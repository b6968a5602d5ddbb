package provider

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// A fault is the protocol's error body, in both directions.
type fault struct {
	Model, Key, Type string
	Messages         []string
	Code             int
}

const (
	// nestedMax bounds the unwrapping of errors inside errors.
	nestedMax = 4
	// panicMark begins the first message of a handler that panicked; the others
	// are its stack.
	panicMark = "Panic recovered: "
	// lostMark is what the common library makes of an error without a Code.
	lostMark = panicMark + "invalid WriteHeader code 0"
	lostText = "the provider returned an error without a status code, and its library lost the message; its log may have it"
)

// parseFault reports whether data is a fault at all.
func parseFault(data []byte) (f fault, ok bool) {
	if !strings.HasPrefix(string(bytes.TrimLeft(data, " \t\r\n")), "{") || json.Unmarshal(data, &f) != nil {
		return fault{}, false
	}
	return f, f.Code != 0 || len(f.Messages) > 0
}

// unwrapped follows an error whose first message is itself an error in JSON, as
// config and publish answer it.
func (f fault) unwrapped() fault {
	for range nestedMax {
		if len(f.Messages) == 0 {
			return f
		}
		inner, ok := parseFault([]byte(f.Messages[0]))
		if !ok {
			return f
		}
		if inner.Code == 0 {
			inner.Code = f.Code
		}
		f = inner
	}
	return f
}

func (f fault) panicked() bool {
	return len(f.Messages) > 0 && strings.HasPrefix(f.Messages[0], panicMark)
}

// text joins what the fault says, without a stack.
func (f fault) text() string {
	switch {
	case len(f.Messages) == 0 && http.StatusText(f.Code) != "":
		return strings.ToLower(http.StatusText(f.Code))
	case len(f.Messages) == 0:
		return fmt.Sprintf("no message, code %d", f.Code)
	case strings.HasPrefix(f.Messages[0], lostMark):
		return lostText
	case f.panicked():
		return "the provider panicked: " + strings.TrimPrefix(f.Messages[0], panicMark)
	}
	return strings.Join(f.Messages, "; ")
}

// refusal is a fault as the answer to an invocation.
func (f fault) refusal(status int, body []byte, hide redactor) *plugin.Refusal {
	r := &plugin.Refusal{Code: strconv.Itoa(status), Message: hide.text(f.text())}
	if !f.panicked() && hide.text(string(body)) == string(body) {
		r.Details = body
	}
	return r
}
