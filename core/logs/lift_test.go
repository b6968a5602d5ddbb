package logs

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestLift(t *testing.T) {
	for _, tt := range []struct{ line, level, message, fields string }{
		{`plain`, "", "plain", ""},
		{`{"level":"info","msg":"hi","n":1}`, "info", "hi", `{"n":1}`},
		{`{"time":"t","level":"WARN","msg":"a \"b\"","o":{"x":[1,"}"]}}`, "warn", `a "b"`, `{"time":"t","o":{"x":[1,"}"]}}`},
		{`{"@level":"error","@message":"m","@timestamp":"t","@module":"x"}`, "error", "m", `{"@timestamp":"t","@module":"x"}`},
		{`{"@level":3,"@message":{"a":1},"@timestamp":[]}`, "", `{"@level":3,"@message":{"a":1},"@timestamp":[]}`, ""},
		{`{"level":"info","msg":"x","msg":"y"}`, "info", "x", `{"msg":"y"}`},
		{`{ "severity" : "ERROR" , "message" : "spaced" , "t" : true }`, "error", "spaced", `{"t":true}`},
		{`{"msg":"cut`, "", `{"msg":"cut`, ""},
		{`{}`, "", `{}`, ""},
		{`time="2026" level=warning msg="disk full" plugin=x`, "warn", "disk full", `{"plugin":"x","time":"2026"}`},
		{`level=info msg=ok`, "info", "ok", ""},
		{`time=noon is not logfmt`, "", "time=noon is not logfmt", ""},
		{`[INFO]  hello`, "info", "hello", ""},
		{`[WARN] x: y`, "warn", "x: y", ""},
		{`[1/2] step`, "", "[1/2] step", ""},
		{`E! broken`, "error", "broken", ""},
		{`Z! not one`, "", "Z! not one", ""},
		{`ERROR: bad`, "error", "bad", ""},
		{`Note: nothing`, "", "Note: nothing", ""},
		{`2026-01-02 03:04:05,678 - /a/b.py[line:7] - WARNING: low`, "warn", "2026-01-02 03:04:05,678 - /a/b.py[line:7] - WARNING: low", ""},
		{"\xff", "", "\uFFFD", ""},
		{`I1122 12:34:56.789012   123 file.go:12] started "x"`, "info", `started "x"`, `{"caller":"file.go:12"}`},
		{`E1122 12:34:56.789012       1 a/b.go:7] `, "error", "", `{"caller":"a/b.go:7"}`},
		{`I1122 is no klog]`, "", "I1122 is no klog]", ""},
		{`W1x22 12:34:56.789012   123 file.go:12] x`, "", "W1x22 12:34:56.789012   123 file.go:12] x", ""},
		{`caller=main.go:7 level=warn ts=2026-11-22T11:00:00Z msg="low disk" n=1`, "warn", "low disk", `{"caller":"main.go:7","n":"1"}`},
		{`a=b msg=x`, "", "a=b msg=x", ""},
		{`url=http://x/?level=info said nothing`, "", "url=http://x/?level=info said nothing", ""},
		{`WARNING:root:low`, "warn", "low", `{"logger":"root"}`},
		{`ERROR:a.b_c-d: x: y`, "error", " x: y", `{"logger":"a.b_c-d"}`},
		{`ERROR:not a logger:x`, "error", "not a logger:x", ""},
		{`D! fine`, "debug", "fine", ""},
		{`[INFO ] padded`, "info", "padded", ""},
		{`2026-11-22T11:00:00.123Z [WARN ]  core: low: n=1`, "warn", "core: low: n=1", ""},
		{`2026-11-22T11:00:00.123+0200 [INFO]  name: x`, "info", "name: x", ""},
		{`2026-11-22T11:00:00Z E! [inputs.cpu] broken`, "error", "[inputs.cpu] broken", ""},
		{`2026/11/22 11:00:00 INFO listening addr=:80`, "info", "listening addr=:80", ""},
		{`2026/11/22 11:00:00 listening`, "", "2026/11/22 11:00:00 listening", ""},
		{`2026-11-22 11:00:00,678 - app.db - ERROR - lost`, "error", "lost", `{"logger":"app.db"}`},
		{`12:34:56 [INFO] short stamp`, "info", "short stamp", ""},
		{``, "", "", ""},
	} {
		got := plugin.LogLine{Message: strings.ToValidUTF8(tt.line, "\uFFFD")}
		lift(&got, now)
		if got.Level != tt.level || got.Message != tt.message || string(got.Fields) != tt.fields {
			t.Errorf("%s:\n got %q %q %s\nwant %q %q %s", tt.line, got.Level, got.Message, got.Fields, tt.level, tt.message, tt.fields)
		}
	}
}

func TestLift_takesTheTime(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{`I1122 11:34:56.789012   123 file.go:12] x`, "2026-11-22T11:34:56.789012Z"},
		{`2026-11-22T11:00:00.123+0200 [INFO]  name: x`, "2026-11-22T09:00:00.123Z"},
		{`2026-11-22T11:00:00.5-01:30 E! x`, "2026-11-22T12:30:00.5Z"},
		{`2026/11/22 11:00:00 INFO x`, "2026-11-22T11:00:00Z"},
		{`2026-11-22 11:00:00,678 - a - ERROR - x`, "2026-11-22T11:00:00.678Z"},
		{`2026-11-22 11:00:00,678 - x.py[line:7] - ERROR: x`, "2026-11-22T11:00:00.678Z"},
		{`a=b level=info ts=2026-11-22T11:00:00Z msg=x`, "2026-11-22T11:00:00Z"},
		{`2020-11-22T11:00:00Z [INFO] long ago`, ""},
		{`2026-99-99T99:99:99Z [INFO] no time`, ""},
	} {
		got := plugin.LogLine{Message: tt.line}
		lift(&got, now)
		text := ""
		if !got.Time.IsZero() {
			text = got.Time.Format(time.RFC3339Nano)
		}
		if text != tt.want || got.Level == "" {
			t.Errorf("%s: got %q, level %q; want %q", tt.line, text, got.Level, tt.want)
		}
	}
}

func FuzzLift(f *testing.F) {
	for _, seed := range []string{
		`{"level":"info","msg":"hi","n":1}`, `{"@level":3}`, `time=1 level=info msg="a\"b"`, `[INFO] x`, `E! x`, `2026 - a - ERROR: x`,
		`I1122 12:34:56.789012   123 file.go:12] m`, `2026-11-22T11:00:00.123+0200 [INFO ]  n: x`, `2026-11-22 11:00:00,678 - a - ERROR - x`,
		`a=b lvl=info msg="c"`, `WARNING:root:x`, `2026/11/22 11:00:00 INFO x`,
		`{"a":{"b":[1,"]"]}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		got := plugin.LogLine{Message: strings.ToValidUTF8(line, "\uFFFD")}
		lift(&got, now)
		if !utf8.ValidString(got.Message) || (len(got.Fields) > 0 && !json.Valid(got.Fields)) {
			t.Errorf("%q: got message %q, fields %s", line, got.Message, got.Fields)
		}
	})
}

func FuzzCutter(f *testing.F) {
	f.Add([]byte("a\nb\r\n\nc"), 2)
	f.Add([]byte(strings.Repeat("x", plugin.LogLineBytesMax+1)+"\n"), 1000)
	f.Fuzz(func(t *testing.T, data []byte, step int) {
		if step < 1 {
			step = 1
		}
		var c cutter
		var got []byte
		line := func(text []byte, cut bool) {
			if len(text) > plugin.LogLineBytesMax {
				t.Errorf("a piece of %d bytes", len(text))
			}
			got = append(got, text...)
			if !cut {
				got = append(got, '\n')
			}
		}
		for rest := data; len(rest) > 0; {
			n := min(step, len(rest))
			c.write(rest[:n], line)
			rest = rest[n:]
		}
		c.finish(line)
		want := strings.ReplaceAll(string(data), "\r\n", "\n")
		if want != "" && !strings.HasSuffix(want, "\n") {
			want += "\n"
		}
		if normal := strings.ReplaceAll(string(got), "\r\n", "\n"); normal != want && !strings.Contains(want, "\r") {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
