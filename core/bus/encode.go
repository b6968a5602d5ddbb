package bus

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// A log message is NDJSON: one plugin.LogLine per line. It is written by hand,
// since json.Marshal per line would halve the rate of the whole log path;
// TestAppendLines compares the two.

// appendLines encodes a batch. What all lines share is encoded once.
func appendLines(dst []byte, name, instance string, stream plugin.LogStream, lines []plugin.LogLine) []byte {
	shared := appendString([]byte(`","plugin":`), name)
	shared = appendString(append(shared, `,"instance":`...), instance)
	shared = appendString(append(shared, `,"stream":`...), string(stream))
	shared = append(shared, `,"seq":`...)
	var stamp [len(time.RFC3339Nano) + 8]byte
	var at time.Time
	text := stamp[:0]
	for i := range lines {
		l := &lines[i]
		if i == 0 || l.Time != at {
			at = l.Time
			text = at.UTC().AppendFormat(stamp[:0], time.RFC3339Nano)
		}
		dst = append(append(append(dst, `{"time":"`...), text...), shared...)
		dst = strconv.AppendUint(dst, l.Sequence, 10)
		dst = appendRest(dst, l)
		dst = append(dst, '}', '\n')
	}
	return dst
}

// appendRest encodes what differs from line to line and is mostly absent.
func appendRest(dst []byte, l *plugin.LogLine) []byte {
	if l.Level != "" {
		dst = appendString(append(dst, `,"level":`...), l.Level)
	}
	dst = appendString(append(dst, `,"message":`...), l.Message)
	if len(l.Fields) > 0 {
		dst = appendFields(append(dst, `,"fields":`...), l.Fields)
	}
	if l.Truncated {
		dst = append(dst, `,"truncated":true`...)
	}
	if l.Dropped > 0 {
		dst = strconv.AppendUint(append(dst, `,"dropped":`...), l.Dropped, 10)
	}
	if l.Lines > 0 {
		dst = strconv.AppendUint(append(dst, `,"lines":`...), l.Lines, 10)
	}
	return dst
}

// appendFields keeps the message one line.
func appendFields(dst []byte, fields plugin.RawJSON) []byte {
	if bytes.IndexByte(fields, '\n') < 0 {
		return append(dst, fields...)
	}
	var one bytes.Buffer
	if json.Compact(&one, fields) != nil {
		return append(dst, "null"...)
	}
	return append(dst, one.Bytes()...)
}

// unsafeByte: a JSON string cannot hold it as it is; beyond ASCII
// UTF-8 must be checked.
func unsafeByte(c byte) bool { return c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf }

const hexDigits = "0123456789abcdef"

// appendString encodes s as a JSON string. Invalid UTF-8 becomes U+FFFD.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from := 0
	for i := safePrefix(s); i < len(s); {
		c := s[i]
		if !unsafeByte(c) {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				dst = append(append(dst, s[from:i]...), `\ufffd`...)
				from = i + 1
			}
			i += size
			continue
		}
		dst = append(dst, s[from:i]...)
		dst = appendEscape(dst, c)
		i++
		from = i
	}
	return append(append(dst, s[from:]...), '"')
}

// safePrefix returns how many bytes, by eights, a JSON string can hold as they
// are. It is most of every line, and as fast as a machine word allows.
func safePrefix(s string) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for i := 0; ; i += 8 {
		if i+8 > len(s) {
			return i
		}
		w := s[i : i+8]
		x := uint64(w[0]) | uint64(w[1])<<8 | uint64(w[2])<<16 | uint64(w[3])<<24 |
			uint64(w[4])<<32 | uint64(w[5])<<40 | uint64(w[6])<<48 | uint64(w[7])<<56
		quote, slash := x^'"'*ones, x^'\\'*ones
		// The top bit of a byte is set where it is below space, equal to quote or
		// backslash (which leaves 0, and 0-1 borrows), or not ASCII.
		if ((x-' '*ones)|(quote-ones)|(slash-ones)|x)&tops != 0 {
			return i
		}
	}
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}
