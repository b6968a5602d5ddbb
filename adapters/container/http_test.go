package container

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

func TestSplitter(t *testing.T) {
	for _, tt := range []struct {
		name, contentType, body string
		length                  int64
		want                    []string // nil: a whole
	}{
		{"NDJSON", "application/x-ndjson", "{\"n\":1}\r\n\n{\"n\":2}", -1, []string{`{"n":1}`, `{"n":2}`}},
		{"events", "text/event-stream; charset=utf-8", ": hello\nevent: a\ndata: 1\ndata:2\n\nid: 3\n\ndata: cut off", -1, []string{"1\n2"}},
		{"chunks", "text/plain", "anything", -1, []string{"anything"}},
		{"JSON", "application/problem+json", "{}", -1, nil},
		{"known length", "text/plain", "abc", 3, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			split := splitter(&http.Response{Header: http.Header{"Content-Type": {tt.contentType}}, ContentLength: tt.length})
			if (split == nil) != (tt.want == nil) {
				t.Fatalf("in parts: got %t, want %t", split != nil, tt.want != nil)
			}
			if split == nil {
				return
			}
			var got []string
			err := split(strings.NewReader(tt.body), 1024, func(p []byte) error {
				got = append(got, string(p))
				return nil
			})
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestSplit_tooLarge(t *testing.T) {
	for name, tt := range map[string]struct {
		split split
		body  string
	}{
		"line":  {lines, strings.Repeat("x", 100)},
		"event": {events, strings.Repeat("data: xxxx\n", 10) + "\n"},
	} {
		err := tt.split(strings.NewReader(tt.body), 16, func([]byte) error { return nil })
		if !errors.Is(err, errTooLarge) {
			t.Errorf("%s: got %v, want errTooLarge", name, err)
		}
	}
}

func TestRefusal_message(t *testing.T) {
	for body, want := range map[string]string{
		``:                               "Bad Request",
		`plain words`:                    "plain words",
		`{"message": "m"}`:               "m",
		`{"detail": "d"}`:                "d",
		`{"error": {"message": "deep"}}`: "deep",
		`{"error": "e", "detail": [1]}`:  "e",
		`{"other": 1}`:                   "Bad Request",
		`"text"`:                         "text",
		`[1]`:                            "Bad Request",
		"\xff\xfe":                       "",
	} {
		got := refusal(&http.Response{StatusCode: 400, Body: io.NopCloser(strings.NewReader(body))})
		if got.Message != want || got.Code != "400" {
			t.Errorf("body %q: got %q %q, want 400 %q", body, got.Code, got.Message, want)
		}
	}
}

// What a container answers is not to be trusted: no part is larger than allowed,
// none is empty, and nothing panics.
func FuzzSplit(f *testing.F) {
	f.Add([]byte("data: 1\n\n"), uint8(0))
	f.Add([]byte("{}\n{}\n"), uint8(1))
	f.Fuzz(func(t *testing.T, body []byte, which uint8) {
		const most = 64
		split := []split{lines, events, chunks}[which%3]
		_ = split(bytes.NewReader(body), most, func(p []byte) error {
			if len(p) > most || len(p) == 0 {
				t.Errorf("got a part of %d bytes, want 1 to %d", len(p), most)
			}
			return nil
		})
		refusal(&http.Response{StatusCode: 500, Body: io.NopCloser(bytes.NewReader(body))})
	})
}
