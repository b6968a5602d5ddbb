package logs

import (
	"strconv"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// timeSpread is how far a line's own time may be from ours before it is taken
// for something else.
const timeSpread = 24 * time.Hour

// headerMax is how far into a line a level in brackets is looked for: a time
// stamp and a name fit.
const headerMax = 48

// keyMax is how long the first key of a line of pairs may be.
const keyMax = 32

// pythonHeaderMax is how far into a line of Python's the level is looked for: the
// path of a source file stands before it.
const pythonHeaderMax = 256

// levels are the words that plugins use, in lower case.
func level(word string) string {
	switch len(word) {
	case 1:
		return levelLetter(word[0])
	case 3, 4, 5, 6, 7, 8, 9:
	default:
		return ""
	}
	var lower [9]byte
	for i := range len(word) {
		lower[i] = word[i] | 0x20
	}
	switch string(lower[:len(word)]) {
	case "trace":
		return "trace"
	case "debug", "dbg", "debu":
		return "debug"
	case "info", "notice", "inf":
		return "info"
	case "warn", "warning", "wrn":
		return "warn"
	case "error", "err", "eror", "fatal", "panic", "critical", "crit", "alert", "emergency", "emerg":
		return "error"
	}
	return ""
}

func levelLetter(c byte) string {
	switch c {
	case 'T':
		return "trace"
	case 'D':
		return "debug"
	case 'I':
		return "info"
	case 'W':
		return "warn"
	case 'E', 'F', 'C':
		return "error"
	}
	return ""
}

// lift finds the level, message, time and fields of the forms that plugins
// print, and leaves everything else as it is:
//
//	first byte   form                                     who prints it
//	{            JSON with level, msg, time and the like  hclog, slog, zap, zerolog, logrus
//	[            [INFO] text, [INFO ] text                many
//	E            E! text                                  telegraf and its kin
//	E            E1122 12:34:56.789012  12 x.go:3] text   klog, glog
//	A-Z          LEVEL: text, LEVEL text                  many
//	A-Z          LEVEL:logger:text                        Python
//	a-z          time=... level=... msg="..."             logrus, slog as text, go-kit
//	0-9          2026-01-02T03:04:05Z [INFO] text         hclog as text
//	0-9          2026-01-02T03:04:05Z E! text             telegraf
//	0-9          2026/01/02 03:04:05 INFO text            slog's default
//	0-9          2026-01-02 03:04:05,6 - x - INFO - text  Python
//	0-9          2026-01-02 03:04:05,6 - x.py - INFO: …   eKuiper's Python SDK
func lift(l *plugin.LogLine, now time.Time) {
	s := l.Message
	if s == "" {
		return
	}
	switch c := s[0]; {
	case c == '{':
		liftJSON(l, now)
	case c == '[':
		liftBracket(l, s)
	case c >= 'A' && c <= 'Z':
		_ = liftKlog(l, s, now) || liftWord(l, s)
	case c >= 'a' && c <= 'z':
		liftPairs(l, s, now)
	case c >= '0' && c <= '9':
		liftStamped(l, s, now)
	}
}

// liftBracket reads "[INFO] text".
func liftBracket(l *plugin.LogLine, s string) bool {
	end := strings.IndexByte(s[:min(len(s), 12)], ']')
	if end < 0 {
		return false
	}
	found := ""
	if end > 2 { // a single letter in brackets is too often something else
		found = level(strings.Trim(s[1:end], " "))
	}
	if found == "" {
		return false
	}
	l.Level, l.Message = found, strings.TrimLeft(s[end+1:], " \t:")
	return true
}

// liftWord reads "E! text", "WARNING:root:text" and "ERROR text".
func liftWord(l *plugin.LogLine, s string) bool {
	end := 0
	for end < len(s) && end < 10 && s[end] >= 'A' && s[end] <= 'Z' {
		end++
	}
	switch {
	case end == 1 && len(s) > 2 && s[1] == '!' && s[2] == ' ':
		if found := levelLetter(s[0]); found != "" {
			l.Level, l.Message = found, s[3:]
			return true
		}
	case end > 1 && end < len(s) && (s[end] == ':' || s[end] == ' '):
		if found := level(s[:end]); found != "" {
			l.Level, l.Message = found, strings.TrimLeft(s[end+1:], " \t")
			if s[end] == ':' {
				liftLogger(l, s[end+1:])
			}
			return true
		}
	}
	return false
}

// liftLogger reads "root:text", what Python prints behind the level and a colon.
func liftLogger(l *plugin.LogLine, s string) {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '.' || c == '-':
		case c == ':' && i > 0:
			l.Message, l.Fields = s[i+1:], single("logger", s[:i])
			return
		default:
			return
		}
	}
}

// single is an object of one member.
func single(key, value string) plugin.RawJSON {
	return append(appendPair([]byte{'{'}, key, value), '}')
}

// liftStamped reads a time stamp and then one of the forms that begin with a level,
// or Python's.
func liftStamped(l *plugin.LogLine, s string, now time.Time) {
	at, rest, ok := stamp(s)
	if !ok {
		liftUnknownStamp(l, s)
		return
	}
	if liftBracket(l, rest) || liftWord(l, rest) || liftDashes(l, rest) || liftUnknownStamp(l, s) {
		at.set(l, now)
	}
}

// liftUnknownStamp reads "[INFO] text" behind a stamp of any form, and what
// liftWhere reads.
func liftUnknownStamp(l *plugin.LogLine, s string) bool {
	if at := strings.IndexByte(s[:min(len(s), headerMax)], '['); at >= 0 && liftBracket(l, s[at:]) {
		return true
	}
	return liftWhere(l, s)
}

// liftDashes reads "- logger - LEVEL - text".
func liftDashes(l *plugin.LogLine, s string) bool {
	s, ok := strings.CutPrefix(s, "- ")
	if !ok {
		return false
	}
	name, s, ok := strings.Cut(s, " - ")
	if !ok {
		return false
	}
	word, text, ok := strings.Cut(s, " - ")
	found := ""
	if ok {
		found = level(strings.TrimSpace(word))
	}
	if found == "" {
		return false
	}
	l.Level, l.Message, l.Fields = found, text, single("logger", name)
	return true
}

// liftWhere reads "- WHERE - LEVEL: text" behind a stamp. All of it stays: it says
// where.
func liftWhere(l *plugin.LogLine, s string) bool {
	if colon := strings.Index(s[:min(len(s), pythonHeaderMax)], ": "); colon >= 0 {
		if dash := strings.LastIndex(s[:colon], " - "); dash >= 0 {
			l.Level = level(s[dash+3 : colon])
		}
	}
	return l.Level != ""
}

// liftPairs reads pairs of key and value. Only level, message and time are taken,
// and only when there is a message, and a level or one of logrus's and slog's first
// keys; the other pairs become fields.
func liftPairs(l *plugin.LogLine, s string, now time.Time) {
	first := strings.IndexByte(s[:min(len(s), keyMax)], '=')
	if first < 0 || strings.IndexByte(s[:first], ' ') >= 0 || !strings.Contains(s, "msg=") && !strings.Contains(s, "message=") {
		return
	}
	var found, message, at string
	has, usual := false, s[:first] == "time" || s[:first] == "level"
	fields := []byte{'{'}
	for rest := s; rest != ""; {
		key, value, tail, ok := pair(rest)
		if !ok {
			return
		}
		rest = tail
		switch key {
		case "level", "lvl":
			found = level(value)
		case "msg", "message":
			message, has = value, true
		case "time", "ts":
			at = value
		default:
			fields = appendPair(fields, key, value)
		}
	}
	if !has || found == "" && !usual {
		return
	}
	l.Level, l.Message = found, message
	if at != "" && !setTime(l, at, now) {
		fields = appendPair(fields, "time", at)
	}
	if len(fields) > 1 {
		l.Fields = append(fields, '}')
	}
}

func appendPair(fields []byte, key, value string) []byte {
	if len(fields) > 1 {
		fields = append(fields, ',')
	}
	return appendJSON(append(appendJSON(fields, key), ':'), value)
}

// pair cuts `key=value ` or `key="value" ` off s.
func pair(s string) (key, value, rest string, ok bool) {
	key, tail, ok := strings.Cut(s, "=")
	if !ok || key == "" || strings.ContainsAny(key, " \"") {
		return "", "", "", false
	}
	if !strings.HasPrefix(tail, `"`) {
		value, rest, _ = strings.Cut(tail, " ")
		return key, value, strings.TrimLeft(rest, " "), true
	}
	quoted, err := strconv.QuotedPrefix(tail)
	if err != nil {
		return "", "", "", false
	}
	if value, err = strconv.Unquote(quoted); err != nil {
		return "", "", "", false
	}
	return key, strings.ToValidUTF8(value, "\uFFFD"), strings.TrimLeft(tail[len(quoted):], " "), true
}

// setTime takes the line's own time when it is one, and near ours.
func setTime(l *plugin.LogLine, text string, now time.Time) bool {
	if len(text) < len("2006-01-02T15:04:05Z") || len(text) > len(time.RFC3339Nano)+4 {
		return false
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		if at, err = time.Parse("2006-01-02T15:04:05.999999999Z0700", text); err != nil {
			return false
		}
	}
	if d := at.Sub(now); d > timeSpread || d < -timeSpread {
		return false
	}
	l.Time = at.UTC()
	return true
}
