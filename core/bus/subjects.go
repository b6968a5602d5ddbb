package bus

import (
	"fmt"
	"strings"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Every subject of the house is built here.

// tokenBytesMax bounds one part of a subject; the server's line limit is 4 KiB.
const tokenBytesMax = 256

// none stands where a name is empty. No plugin name contains an underscore.
const none = "_"

const (
	statusPrefix = "patchbay.v1.status."
	eventPrefix  = "patchbay.v1.event."
	logPrefix    = "patchbay.v1.log."
	dataPrefix   = "patchbay.v1.data."
	invokePrefix = "patchbay.v1.invoke."
	checkPrefix  = "patchbay.v1.check."

	callbackPrefix = "patchbay.v1.callback."
	answerPrefix   = "patchbay.v1.answer."
)

// statusSubject is patchbay.v1.status.<plugin>.<instance>.
func statusSubject(plugin, instance string) string {
	return statusPrefix + token(plugin) + "." + token(instance)
}

// eventSubject is patchbay.v1.event.<plugin>.<type>. The dots of a type part
// tokens, so that patchbay.v1.event.*.dev.patchbay.> is every event of the core.
func eventSubject(plugin, kind string) string {
	return eventPrefix + token(plugin) + "." + tokens(kind)
}

// eventFilter is patchbay.v1.event.<plugin|*>.<type|>>.
func eventFilter(plugin, kind string) string {
	p, k := "*", ">"
	if plugin != "" {
		p = token(plugin)
	}
	if kind != "" {
		k = tokens(kind)
	}
	return eventPrefix + p + "." + k
}

// logSubject is patchbay.v1.log.<plugin>.<instance>.<stdout|stderr|plugin>.
func logSubject(name, instance string, stream plugin.LogStream) string {
	return logPrefix + token(name) + "." + token(instance) + "." + token(string(stream))
}

// logFilter is patchbay.v1.log.<plugin|*>.<instance|*>.<stream|*>.
func logFilter(name, instance string, stream plugin.LogStream) string {
	parts := []string{name, instance, string(stream)}
	for i, p := range parts {
		if parts[i] = "*"; p != "" {
			parts[i] = token(p)
		}
	}
	return logPrefix + strings.Join(parts, ".")
}

// dataSubject is patchbay.v1.data.<name>; the dots of the name part tokens.
func dataSubject(name string) (string, error) { return dataName(name, false) }

// dataPattern is patchbay.v1.data.<pattern>, with * and > as NATS has them.
func dataPattern(pattern string) (string, error) { return dataName(pattern, true) }

func dataName(name string, wild bool) (string, error) {
	if len(name) > tokenBytesMax {
		return "", fmt.Errorf("data name: %w: longer than %d bytes", plugin.ErrInvalid, tokenBytesMax)
	}
	parts := strings.Split(name, ".")
	for i, p := range parts {
		if wild && (p == "*" || p == ">" && i == len(parts)-1) {
			continue
		}
		if !plain(p) {
			return "", fmt.Errorf("data name %q: %w: each part between dots must be of letters, digits, - and _", name, plugin.ErrInvalid)
		}
	}
	return dataPrefix + name, nil
}

// invokeSubject is patchbay.v1.invoke.<plugin>.<operation>. An operation with
// other characters than letters, digits, - and _ has them as %XX.
func invokeSubject(plugin, operation string) string {
	return invokePrefix + token(plugin) + "." + token(operation)
}

// talkSubject is patchbay.v1.invoke.<plugin>.<operation>.<invocation>: where the caller
// of an invocation in parts sends. request is the subject of the request.
func talkSubject(request, id string) string { return request + "." + id }

// invokeAll is patchbay.v1.invoke.*.*.
func invokeAll() string { return invokePrefix + "*.*" }

// callbackSubject is patchbay.v1.callback.<plugin>.<name>; the dots of the name part
// tokens.
func callbackSubject(plugin, name string) string {
	return callbackPrefix + token(plugin) + "." + tokens(name)
}

// answerSubject is patchbay.v1.answer.<id>: where the answer to one callback goes.
// Clients may publish there, and not to the inboxes in which the daemon waits for
// what it believes.
func answerSubject(id string) string { return answerPrefix + id }

// checkSubject is patchbay.v1.check.<stream>: what Check writes and reads back.
func checkSubject(stream string) string { return checkPrefix + stream }

// serviceAll is $SRV.>: every discovery request of the micro protocol.
func serviceAll() string { return "$SRV.>" }

// plain reports whether s can be one part of a subject as it is.
func plain(s string) bool {
	for i := range len(s) {
		if !plainByte(s[i]) {
			return false
		}
	}
	return s != ""
}

func plainByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// token makes any text one part of a subject: other bytes than letters, digits,
// - and _ become %XX, the empty text becomes _.
func token(s string) string {
	switch {
	case plain(s) && len(s) <= tokenBytesMax:
		return s
	case s == "":
		return none
	}
	var b strings.Builder
	for i := 0; i < len(s) && b.Len() < tokenBytesMax; i++ {
		if plainByte(s[i]) {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(&b, "%%%02X", s[i])
		}
	}
	return b.String()
}

// tokens is token for a dotted name: empty parts become _.
func tokens(s string) string {
	if len(s) > tokenBytesMax {
		s = s[:tokenBytesMax]
	}
	parts := strings.Split(s, ".")
	for i := range parts {
		parts[i] = token(parts[i])
	}
	return strings.Join(parts, ".")
}

// untoken undoes token.
func untoken(s string) string {
	if s == none {
		return ""
	}
	return unescape(s)
}
