package container

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func frame(stream byte, text string) string {
	header := [frameHeaderBytes]byte{stream}
	binary.BigEndian.PutUint32(header[4:], uint32(len(text)))
	return string(header[:]) + text
}

func TestRecords(t *testing.T) {
	const at = "2026-11-25T10:00:00.000000001Z"
	body := frame(1, at+" one\n") + frame(2, at+" two") + frame(1, at+" \n")
	var got []string
	take := func(r record) bool {
		got = append(got, string(r.stream)+" "+r.at.Format(time.RFC3339Nano)+" "+string(r.text))
		return true
	}
	if err := records(strings.NewReader(body), take); err != nil {
		t.Fatal(err)
	}
	want := []string{"stdout " + at + " one\n", "stderr " + at + " two", "stdout " + at + " \n"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got %q, want %q", got, want)
	}
	for name, broken := range map[string]string{
		"cut off":       body[:len(body)-1],
		"half a header": body + "\x01\x00",
		"no time":       frame(1, "one\n"),
		"engine's word": frame(3, "no such file"),
		"too long":      "\x01\x00\x00\x00\xff\xff\xff\xff",
	} {
		if err := records(strings.NewReader(broken), take); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func FuzzRecords(f *testing.F) {
	f.Add([]byte(frame(1, "2026-11-25T10:00:00.000000001Z one\n")))
	f.Fuzz(func(t *testing.T, data []byte) {
		total := 0
		_ = records(bytes.NewReader(data), func(r record) bool {
			total += len(r.text)
			return true
		})
		if total > len(data) {
			t.Errorf("got %d bytes of text out of %d", total, len(data))
		}
	})
}

func TestOverlap(t *testing.T) {
	for _, tt := range []struct {
		logged, live string
		want         int
		met          bool
	}{
		{"", "", 0, true},
		{"a\nb\n", "", 4, false},
		{"", "a\n", 0, false},
		{"a\nb\nc\n", "b\nc\nd\n", 2, true},
		{"a\nb\nc\n", "b\n", 2, false},   // the connection lags
		{"a\nbcd\n", "d\ne\n", 4, true},  // made amid a line
		{"a\nb\n", "c\n", 4, false},      // the log lags
		{"x\nx\nx\n", "x\nx\n", 2, true}, // repeats itself: the ends are the same
		{"x\nx\n", "x\nx\nx\n", 0, true},
		{"aab", "aaab", 3, false}, // nothing in common
		{"aaab", "aab", 1, true},  // a failed match falls back
		{"abcabcabd", "abcabdx", 3, true},
	} {
		if got, met := overlap([]byte(tt.logged), []byte(tt.live)); got != tt.want || met != tt.met {
			t.Errorf("overlap(%q, %q): got %d, %v, want %d, %v", tt.logged, tt.live, got, met, tt.want, tt.met)
		}
	}
}

// Beyond what is looked for, all of it is compared.
func TestOverlap_long(t *testing.T) {
	var all []byte
	for n := range 40_000 {
		all = fmt.Appendln(all, n%20_000)
	}
	begin := len(all) - 3*overlapBytesMax/2
	if got, met := overlap(all, append(all[begin:len(all):len(all)], "next\n"...)); got != begin || !met {
		t.Errorf("got %d, %v, want %d", got, met, begin)
	}
}

// Against the definition, byte by byte.
func FuzzOverlap(f *testing.F) {
	f.Add([]byte("a\nb\n"), []byte("b\nc\n"))
	f.Add([]byte("aaaa"), []byte("aa"))
	f.Fuzz(func(t *testing.T, logged, live []byte) {
		live = live[:min(len(live), overlapBytesMax)]
		want, met := len(logged), len(logged)+len(live) == 0
		for x := len(logged) - 1; x >= 0; x-- {
			if bytes.HasPrefix(live, logged[x:]) {
				want, met = x, true
			}
		}
		for x := len(logged) - 1; x >= 0 && !met && len(live) > 0; x-- {
			if bytes.HasPrefix(logged[x:], live) {
				want = x
			}
		}
		if got, ok := overlap(logged, live); got != want || ok != met {
			t.Errorf("overlap(%q, %q): got %d, %v, want %d, %v", logged, live, got, ok, want, met)
		}
	})
}

func TestPosition_isReadAsWritten(t *testing.T) {
	dir := t.TempDir()
	if got := loadPosition(dir); got != (position{}) {
		t.Errorf("without a file: got %+v, want the beginning", got)
	}
	want := position{Mark: time.Unix(1, 23).UTC(), Stdout: place{4, 5}, Stderr: place{6, 7}, Seen: time.Unix(8, 9).UTC()}
	want.save(dir)
	if got := loadPosition(dir); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, text := range []string{"", "null", "[]", `{"mark": 1}`, `{"stdout": {"lines": -1}}`} {
		if err := os.WriteFile(filepath.Join(dir, positionFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := loadPosition(dir); got != (position{}) {
			t.Errorf("file %q: got %+v, want the beginning", text, got)
		}
	}
}

func FuzzParseHandle(f *testing.F) {
	f.Add([]byte(`{"container": "` + strings.Repeat("0", 64) + `", "started": "x"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if h, err := parseHandle(data); err == nil && (len(h.Container) != 64 || h.Started == "") {
			t.Errorf("handle %q: got %+v", data, h)
		}
	})
}
