package portable

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestFunction_encode(t *testing.T) {
	f := newFunction("echo", 3, Spec{Language: languageGo}, nil)
	const context = `"{\"ruleId\":\"patchbay\",\"opId\":\"echo\",\"instanceId\":0,\"funcId\":3}"`
	for _, tt := range []struct{ name, data, want string }{
		{"arguments", `["a", 2]`, `["a", 2,` + context + `]`},
		{"none", ``, `[` + context + `]`},
		{"an empty list", ` [ ] `, `[` + context + `]`},
		{"an object is one argument", `{"a":1}`, `[{"a":1},` + context + `]`},
		{"a text is one argument", `"a"`, `["a",` + context + `]`},
		{"a list as argument", `[[1,2]]`, `[[1,2],` + context + `]`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := f.encode([]byte(tt.data))
			if want := `{"func":"Exec","arg":` + tt.want + `}`; err != nil || string(got) != want {
				t.Errorf("encode %s: got %s and %v, want %s", tt.data, got, err, want)
			}
		})
	}
	for _, bad := range []string{`{`, `[1],[2]`, `[1]]`, `nope`, `["` + strings.Repeat("x", 1<<20) + `"]`} {
		if _, err := f.encode([]byte(bad)); !errors.Is(err, plugin.ErrInvalid) {
			t.Errorf("encode %.20s: got %v, want ErrInvalid", bad, err)
		}
	}
}

// The answers are what the two SDKs send.
func TestDecodeAnswer(t *testing.T) {
	const traceback = "Traceback (most recent call last):\n  File \"x.py\", line 1\nValueError: no such thing\n"
	quoted, _ := json.Marshal(traceback)
	for _, tt := range []struct {
		name, answer, want string
		refusal            *plugin.Refusal
	}{
		{"go", `{"state":true,"result":"hello"}`, `"hello"`, nil},
		{"python", `{"state": true, "result": {"a": 1.0}}`, `{"a": 1.0}`, nil},
		{"null", `{"state":true,"result":null}`, `null`, nil},
		{"no result", `{"state":true}`, `null`, nil},
		{"exact numbers", `{"state":true,"result":12345678901234567890.10}`, `12345678901234567890.10`, nil},
		{"text", `{"state":false,"result":"invalid func Nope"}`, "", &plugin.Refusal{Message: "invalid func Nope"}},
		{"traceback", `{"state":false,"result":` + string(quoted) + `}`, "",
			&plugin.Refusal{Message: "ValueError: no such thing", Details: quoted}},
		{"object", `{"state":false,"result":{"Offset":1}}`, "",
			&plugin.Refusal{Message: "the function failed", Details: plugin.RawJSON(`{"Offset":1}`)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decodeAnswer([]byte(tt.answer))
			var refusal *plugin.Refusal
			if errors.As(err, &refusal) != (tt.refusal != nil) || string(got) != tt.want {
				t.Fatalf("answer %s: got %s and %v, want %s and %v", tt.answer, got, err, tt.want, tt.refusal)
			}
			if diff := cmp.Diff(tt.refusal, refusal); diff != "" {
				t.Errorf("answer %s: (-want +got)\n%s", tt.answer, diff)
			}
		})
	}
	for _, broken := range []string{``, `{}`, `handshake`, `{"state":1}`, `{"state":true,"result":`} {
		if _, err := decodeAnswer([]byte(broken)); !errors.Is(err, plugin.ErrUnavailable) {
			t.Errorf("answer %q: got %v, want ErrUnavailable", broken, err)
		}
	}
}

func TestParseTuple(t *testing.T) {
	for _, tt := range []struct{ name, data, message, fault string }{
		{"go", `{"message":{"temp":21.5},"meta":null}`, `{"temp":21.5}`, ""},
		{"python", `{"message": {"temp": 21.5}, "meta": {"topic": "plant/7"}}`, `{"temp": 21.5}`, ""},
		{"exact numbers", `{"message":{"n":9007199254740993}}`, `{"n":9007199254740993}`, ""},
		{"message that talks of errors", `{"message":{"error":"x"},"meta":{}}`, `{"error":"x"}`, ""},
		{"python error", `{"error": "no broker"}`, "", "error: no broker"},
		{"go error", `"{\"error\":\"no broker\"}"`, "", "error: no broker"},
		{"a text", `"what"`, "", `not a tuple: "what"`},
		{"neither", `{"meta":{}}`, "", `not a tuple: "{\"meta\":{}}"`},
		{"not json", `<xml/>`, "", `not a tuple: "<xml/>"`},
		{"nothing", ``, "", `not a tuple: ""`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			message, fault := parseTuple([]byte(tt.data))
			if string(message) != tt.message || fault != tt.fault {
				t.Errorf("tuple %s: got %s and %q, want %s and %q", tt.data, message, fault, tt.message, tt.fault)
			}
		})
	}
}

func TestSymbol_encodeTellsTheDataSourceThreeTimes(t *testing.T) {
	object, source, err := symbolConfig(plugin.RawJSON(`{"interval":250,"dataSource":"plant/7"}`))
	if err != nil {
		t.Fatal(err)
	}
	s := symbol{kind: kindSource, name: "temp", opID: "temp_1", source: source, config: object}
	text, err := s.encode("start")
	if err != nil {
		t.Fatal(err)
	}
	var outer controlCommand
	if err := json.Unmarshal(text, &outer); err != nil {
		t.Fatal(err)
	}
	const want = `{"symbolName":"temp","meta":{"ruleId":"patchbay","opId":"temp_1","instanceId":0},"pluginType":"source",` +
		`"dataSource":"plant/7","datasource":"plant/7","config":{"dataSource":"plant/7","datasource":"plant/7","interval":250}}`
	if outer.Cmd != "start" || outer.Arg != want {
		t.Errorf("command: got %s %s, want start %s", outer.Cmd, outer.Arg, want)
	}
}

func TestSymbolConfig_refuses(t *testing.T) {
	for _, bad := range []string{`[]`, `"a"`, `null`, `{"datasource":1}`, `{`} {
		if _, _, err := symbolConfig(plugin.RawJSON(bad)); err == nil {
			t.Errorf("config %s: got no error", bad)
		}
	}
}

func TestAckFault(t *testing.T) {
	for ack, want := range map[string]string{`{}`: "", `{"error":""}`: "", `{"error":"disk full"}`: "disk full", `x`: `"x"`} {
		if got := ackFault([]byte(ack)); got != want {
			t.Errorf("ack %s: got %q, want %q", ack, got, want)
		}
	}
}

func FuzzParseTuple(f *testing.F) {
	for _, seed := range []string{`{"message":{"a":1},"meta":null}`, `{"error":"x"}`, `"{\"error\":\"x\"}"`, `{"message":null}`, `[`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		message, fault := parseTuple(data)
		if (fault == "") != json.Valid(message) {
			t.Errorf("tuple %q: got message %q and fault %q", data, message, fault)
		}
	})
}

func FuzzDecodeAnswer(f *testing.F) {
	for _, seed := range []string{`{"state":true,"result":1}`, `{"state":false,"result":"a\nb"}`, `ok`, ``} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		result, err := decodeAnswer(data)
		if (err == nil) != json.Valid(result) {
			t.Errorf("answer %q: got %q and %v", data, result, err)
		}
		var refusal *plugin.Refusal
		if errors.As(err, &refusal) && utf8.Valid(data) && !utf8.ValidString(refusal.Message) {
			t.Errorf("answer %q: message %q is not text", data, refusal.Message)
		}
	})
}

func FuzzEncode(f *testing.F) {
	for _, seed := range []string{`[1,"a"]`, `{"a":[1]}`, ``, `[[]]`, `[1],[2]`} {
		f.Add([]byte(seed))
	}
	fn := newFunction("f", 1, Spec{Language: languagePython}, nil)
	f.Fuzz(func(t *testing.T, data []byte) {
		body, err := fn.encode(data)
		if err != nil {
			return
		}
		var call struct {
			Func string            `json:"func"`
			Arg  []json.RawMessage `json:"arg"`
		}
		if err := json.Unmarshal(body, &call); err != nil || call.Func != "Exec" || len(call.Arg) == 0 ||
			string(call.Arg[len(call.Arg)-1]) != string(fn.context) {
			t.Errorf("data %q: got %q and %v", data, body, err)
		}
	})
}

func FuzzControlAnswer(f *testing.F) {
	for _, seed := range []string{"ok", "symbol not found", "Traceback\n  x\nKeyError: 'a'\n", "\xff\xfe"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if line := lastLine(text); len(line) > answerTextMax+len("...") || strings.Contains(line, "\n") {
			t.Errorf("answer %q: got %q", text, line)
		}
		_ = ackFault([]byte(text))
	})
}
