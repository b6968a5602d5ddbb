package jsontext

import (
	"encoding/json"
	"strings"
	"testing"
)

var texts = []string{
	`{"a": [1, -0.5e+10, "x\\u00e9\\n", true, false, null, {}], "b": {"": []}}`, ` 0 `, `01`, `-`, `1.`, `1e`, `"`, `"\\`, `"\\u12"`, `{"a"}`, `[1,]`, `{,}`, `tru`, ``, "\"a\x00\"",
	`"` + strings.Repeat("long ", 20) + `\\\\"`, `{"é": "` + strings.Repeat("é", 20) + `"}`, "\"\xff\"", `[1]]`, `"a""b"`,
}

func FuzzValid(f *testing.F) {
	for _, text := range texts {
		f.Add([]byte(text))
	}
	f.Add([]byte(strings.Repeat("[", 900) + strings.Repeat("]", 900)))
	f.Fuzz(func(t *testing.T, s []byte) {
		got, want := Valid(s), json.Valid(s)
		if got != want && strings.Count(string(s), "[")+strings.Count(string(s), "{") < nestMax {
			t.Fatalf("%q: got %v, want %v", s, got, want)
		}
		if !got {
			return
		}
		// What is valid can be walked, and its end is found.
		i := Space(s, 0)
		if end := Skip(s, i); Space(s, end) != len(s) {
			t.Fatalf("%q: skipped to %d", s, end)
		}
		if s[i] == '{' || s[i] == '[' {
			n := 0
			_ = Each(s[i:], func(_, v []byte) error {
				n++
				if !json.Valid(v) {
					t.Fatalf("%q: element %q", s, v)
				}
				return nil
			})
			if n != Count(s[i:]) {
				t.Fatalf("%q: %d elements, counted %d", s, n, Count(s[i:]))
			}
		}
	})
}

func FuzzQuoted(f *testing.F) {
	for _, text := range texts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out := AppendQuoted(nil, []byte(s))
		var got string
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("%q: %q: %v", s, out, err)
		}
		if want := strings.ToValidUTF8(s, "\x00"); strings.ToValidUTF8(got, "") != got || s == want && got != s {
			t.Fatalf("%q: got %q", s, got)
		}
		if text := Text(out); string(text) != got {
			t.Fatalf("%q: text %q, want %q", s, text, got)
		}
	})
}
