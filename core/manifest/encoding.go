package manifest

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// notUTF8 returns a fault when data is not UTF-8 text, with what it looks like.
func notUTF8(data []byte) *plugin.Fault {
	looks := func(like string) *plugin.Fault {
		return &plugin.Fault{Line: 1, Column: 1, Detail: "looks like " + like + "; write UTF-8"}
	}
	valid := utf8.Valid(data)
	switch {
	case utf16(data):
		return looks("UTF-16")
	case bytes.IndexByte(data, 0) >= 0, !valid && strangeControl(data) >= 0:
		return looks("a binary file, not a manifest")
	case valid:
		return nil
	}
	wrong := 0
	for wrong < len(data) {
		r, n := utf8.DecodeRune(data[wrong:])
		if r == utf8.RuneError && n == 1 {
			break
		}
		wrong += n
	}
	line, column := position(data, wrong)
	return &plugin.Fault{Line: line, Column: column, Detail: fmt.Sprintf(
		"is not UTF-8: byte 0x%X looks like an older encoding such as Latin-1; write UTF-8", data[wrong])}
}

// utf16 reports whether data begins as UTF-16 does: with its mark, or with two
// letters of which each has a zero byte on the same side.
func utf16(data []byte) bool {
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		return true
	}
	if len(data) < 4 {
		return false
	}
	text := func(b byte) bool { return b >= ' ' && b < 0x7f || b == '\n' || b == '\r' || b == '\t' }
	little := text(data[0]) && data[1] == 0 && text(data[2]) && data[3] == 0
	big := data[0] == 0 && text(data[1]) && data[2] == 0 && text(data[3])
	return little || big
}

// strangeControl is where the first control character stands that no text has; -1
// when there is none.
func strangeControl(data []byte) int {
	return bytes.IndexFunc(data, func(r rune) bool {
		return r < ' ' && r != '\n' && r != '\r' && r != '\t' || r >= 0x7f && r < 0xa0 && r != 0x85 || r == 0xfffe || r == 0xffff
	})
}

// position counts line and column of an offset, from 1.
func position(data []byte, offset int) (line, column int) {
	before := data[:offset]
	return bytes.Count(before, []byte("\n")) + 1, offset - bytes.LastIndexByte(before, '\n')
}
