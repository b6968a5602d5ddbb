package gobwire

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/rpc"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The Go types that a plugin would have, and the description of them.
type (
	id   struct{ Idp, OpaqueID string }
	user struct {
		ID     *id
		Mail   string
		Age    int32
		Score  float64
		Admin  bool
		Groups []string
		Photo  []byte
		Serial uint64
		Meta   map[string]any
		Born   time.Time
		Boss   *user
		Peers  []*user
	}
)

var shapes = map[string]Shape{
	"ID": {Fields: map[string]string{"Idp": "string", "OpaqueID": "string"}},
	"User": {Fields: map[string]string{
		"ID": "*ID", "Mail": "string", "Age": "int32", "Score": "float", "Admin": "bool", "Groups": "[]string", "Photo": "bytes",
		"Serial": "uint", "Meta": "map:string,any", "Born": "time", "Boss": "*User", "Peers": "[]*User",
	}},
	"Put": {Keys: map[string]string{"key": "string", "value": "bytes", "n": "int", "many": "[]string"}},
}

func table(t testing.TB) *Table {
	t.Helper()
	tab, err := NewTable(shapes, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func describe(t testing.TB, tab *Table, text string) *Type {
	t.Helper()
	typ, err := tab.Type(text)
	if err != nil {
		t.Fatal(err)
	}
	return typ
}

// send writes argument as text twice on one stream and reads both with
// encoding/gob into what want points to.
func send(t *testing.T, text, argument string, into any) {
	t.Helper()
	tab := table(t)
	typ := describe(t, tab, text)
	needs := tab.Needs(typ)
	w := NewWriter(tab)
	var stream []byte
	var err error
	for seq := range uint64(2) {
		if stream, err = w.Request(stream, "Plugin.M", seq+1, typ, needs, []byte(argument)); err != nil {
			t.Fatal(err)
		}
	}
	dec := gob.NewDecoder(bytes.NewReader(stream))
	for seq := range uint64(2) {
		var h rpc.Request
		if err := dec.Decode(&h); err != nil {
			t.Fatalf("header of %s: %v", argument, err)
		}
		if h.ServiceMethod != "Plugin.M" || h.Seq != seq+1 {
			t.Errorf("header: got %+v", h)
		}
		if err := dec.Decode(into); err != nil {
			t.Fatalf("argument %s as %s: %v", argument, text, err)
		}
	}
}

func TestWriter_isReadByGob(t *testing.T) {
	gob.Register(time.Time{})
	born := time.Date(2026, 1, 31, 12, 0, 0, 5, time.UTC)
	var got user
	send(t, "User", `{"mail": "a\u00e9\"b", "Age": -7, "Score": 1.5, "Admin": true, "Groups": ["x", "y"], "Photo": "AAEC", "Serial": 18446744073709551615,
		"Meta": {"s": "t", "i": 3, "f": 2.5, "b": true, "n": null, "l": ["p"]}, "Born": "2026-01-31T12:00:00.000000005Z",
		"ID": {"Idp": "i"}, "Boss": {"Mail": "boss", "Peers": [{}]}}`, &got)
	want := user{
		ID: &id{Idp: "i"}, Mail: "aé\"b", Age: -7, Score: 1.5, Admin: true, Groups: []string{"x", "y"}, Photo: []byte{0, 1, 2}, Serial: math.MaxUint64,
		Meta: map[string]any{"s": "t", "i": int64(3), "f": 2.5, "b": true, "n": nil, "l": []string{"p"}}, Born: born,
		Boss: &user{Mail: "boss", Peers: []*user{{}}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}

	var text string
	send(t, "string", `"hello"`, &text)
	var number int64
	send(t, "int", ` -9223372036854775808 `, &number)
	var list []int
	send(t, "[]int", `[1,0,-1]`, &list)
	var any1 any
	send(t, "any", `"in an interface"`, &any1)
	var none any
	send(t, "any", ``, &none)
	var record map[string]any
	send(t, "Put", `{"key": "k", "value": "AAE=", "n": 4, "many": ["m"]}`, &record)
	wantRecord := map[string]any{"key": "k", "value": []byte{0, 1}, "n": 4, "many": []string{"m"}}
	if text != "hello" || number != math.MinInt64 || !cmp.Equal(list, []int{1, 0, -1}) || any1 != "in an interface" || none != nil {
		t.Errorf("got %q %d %v %v %v", text, number, list, any1, none)
	}
	if d := cmp.Diff(wantRecord, record); d != "" {
		t.Errorf("record: -want +got:\n%s", d)
	}
}

func TestWriter_saysWhatDoesNotFit(t *testing.T) {
	for _, tt := range []struct{ typ, in, want string }{
		{"User", `{"Groups": ["a", 3]}`, "argument.Groups[1]: is a number; want a text"},
		{"User", `{"Boss": {"Photo": "*"}}`, "argument.Boss.Photo: is not base64 text"},
		{"User", `{"Nme": 1}`, "argument.Nme: is not a field; it has Admin, Age"},
		{"User", `{"Meta": {"o": {}}}`, "argument.Meta.o: is an object: nested values of unknown type"},
		{"User", `{"Peers": [null]}`, "argument.Peers[0]: is null"},
		{"User", `{`, "argument: is not JSON"},
		{"User", `[]`, "argument: is an array; want an object with"},
		{"Put", `{"value": "x", "other": 1}`, "argument.value: is not base64"},
		{"int", `1.5`, "argument: is a number; want an integer of 64 bits"},
		{"uint", `-1`, "want an integer of 64 bits that is not negative"},
	} {
		tab := table(t)
		typ := describe(t, tab, tt.typ)
		w := NewWriter(tab)
		_, err := w.Request(nil, "M", 1, typ, tab.Needs(typ), []byte(tt.in))
		var fault *Fault
		if !errors.As(err, &fault) || !strings.HasPrefix(err.Error(), tt.want) && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s as %s: got %v, want %s", tt.in, tt.typ, err, tt.want)
		}
		// Nothing was committed: the next request on the stream is whole.
		ok, err := w.Request(nil, "M", 2, typ, tab.Needs(typ), nil)
		var h rpc.Request
		if err != nil || gob.NewDecoder(bytes.NewReader(ok)).Decode(&h) != nil || h.Seq != 2 {
			t.Errorf("%s as %s: after the fault: %v, %+v", tt.in, tt.typ, err, h)
		}
	}
}

type unregistered struct{ Why string }

type holder struct {
	Before string
	Held   any
	After  []any
	Last   int
}

// stream is what encoding/gob writes for values.
func stream(t testing.TB, values ...any) []byte {
	t.Helper()
	var b bytes.Buffer
	enc := gob.NewEncoder(&b)
	for _, v := range values {
		if err := enc.Encode(v); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func TestReader_readsGob(t *testing.T) {
	gob.RegisterName("other.Unregistered", unregistered{})
	gob.RegisterName("other.Pointer", &user{})
	gob.Register(holder{})
	gob.Register(map[string]any{})
	tab := table(t)
	born := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name, typ string
		in        any
		want      string
	}{
		{"text", "", "a\x00\"\\\xff\u2028é\n", `"a\u0000\"\\` + "\uFFFD\u2028é" + `\n"`},
		{"numbers", "", []float64{0, -1.5, 1e300, math.Inf(1), math.NaN()}, `[0,-1.5,1e+300,"Infinity","NaN"]`},
		{"integers", "", []int64{math.MinInt64, 0, math.MaxInt64}, `[-9223372036854775808,0,9223372036854775807]`},
		{"bytes", "", []byte{1, 2}, `"AQI="`},
		{"complex", "", complex(1, -2), `[1,-2]`},
		{"array", "", [3]bool{true, false, true}, `[true,false,true]`},
		{"map of integers", "", map[int]string{-4: "x"}, `{"-4":"x"}`},
		{"map of interfaces", "", map[any]any{"k": 5}, `{"k":5}`},
		{"nil interface", "", new(any), `null`},
		{"time", "", born, `"2026-01-31T12:00:00Z"`},
		{"empty struct", "", struct{}{}, `{}`},
		{"zeros filled in", "ID", id{Idp: "x"}, `{"Idp":"x","OpaqueID":""}`},
		{"new type inside an interface", "", holder{"b", unregistered{"why"}, []any{unregistered{"2"}, "s", nil, user{Mail: "m"}.wrap()}, 9},
			`{"Before":"b","Held":{"@type":"other.Unregistered","value":{"Why":"why"}},"After":[{"@type":"other.Unregistered","value":{"Why":"2"}},"s",null,{"@type":"other.Pointer","value":{"Mail":"m"}}],"Last":9}`},
		{"interfaces inside interfaces", "", map[string]any{"a": map[string]any{"b": map[string]any{"c": holder{Held: unregistered{"deep"}, Last: 1}}}},
			`{"a":{"b":{"c":{"@type":"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/gobwire.holder","value":{"Held":{"@type":"other.Unregistered","value":{"Why":"deep"}},"Last":1}}}}}`},
		{"a described recursion", "User", user{Mail: "a", Boss: &user{Mail: "b"}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var typ *Type
			if tt.typ != "" {
				typ = describe(t, tab, tt.typ)
			}
			r := NewReader(bytes.NewReader(stream(t, tt.in, "next", tt.in)), tab, 1<<20)
			got, err := r.JSON(nil, typ)
			if err != nil {
				t.Fatal(err)
			}
			if tt.want != "" && string(got) != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if !json.Valid(got) {
				t.Errorf("not JSON: %s", got)
			}
			if next, err := r.JSON(nil, nil); err != nil || string(next) != `"next"` {
				t.Errorf("the value after it: got %s, %v", next, err)
			}
			if again, err := r.JSON(nil, typ); err != nil || string(again) != string(got) {
				t.Errorf("the same again: got %s, %v", again, err)
			}
			if _, err := r.JSON(nil, nil); err != io.EOF {
				t.Errorf("at the end: got %v, want io.EOF", err)
			}
		})
	}
}

func (u user) wrap() any { return &u }

func TestReader_header(t *testing.T) {
	r := NewReader(bytes.NewReader(stream(t, rpc.Response{ServiceMethod: "A.B", Seq: 7, Error: "no"}, struct{}{}, rpc.Response{Seq: 8}, 5)), table(t), 1000)
	h, err := r.Header()
	if err != nil || h != (Header{"A.B", 7, "no"}) {
		t.Fatalf("got %+v, %v", h, err)
	}
	if err := r.Discard(); err != nil {
		t.Fatal(err)
	}
	if h, err = r.Header(); err != nil || h.Seq != 8 {
		t.Fatalf("got %+v, %v", h, err)
	}
	if got, err := r.JSON(nil, nil); err != nil || string(got) != "5" {
		t.Fatalf("got %s, %v", got, err)
	}
}

func TestReader_limits(t *testing.T) {
	tab := table(t)
	if _, err := NewReader(bytes.NewReader(stream(t, strings.Repeat("x", 2000))), tab, 1000).JSON(nil, nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a long text: got %v", err)
	}
	// A million empty structs are a megabyte on the wire, and hundreds of JSON.
	many := stream(t, make([]user, 100_000))
	if _, err := NewReader(bytes.NewReader(many), tab, 1<<20).JSON(nil, describe(t, tab, "[]User")); !errors.Is(err, ErrTooLarge) {
		t.Errorf("zeros filled in: got %v", err)
	}
	deep := &user{}
	for range 100 {
		deep = &user{Boss: deep}
	}
	if _, err := NewReader(bytes.NewReader(stream(t, deep)), tab, 1<<20).JSON(nil, nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("deep: got %v", err)
	}
	// An announced length is not believed before it arrives.
	if _, err := NewReader(strings.NewReader("\xfc\x03\xff\xff\xff\x01"), tab, 64<<20).JSON(nil, nil); err != io.ErrUnexpectedEOF {
		t.Errorf("a liar: got %v", err)
	}
}

func TestNewTable_faults(t *testing.T) {
	for _, tt := range []struct {
		name  string
		shape map[string]Shape
		want  string
	}{
		{"unknown", map[string]Shape{"A": {Fields: map[string]string{"X": "Y"}}}, `A.fields.X: "Y" is not a type: write`},
		{"unknown", map[string]Shape{"A": {Fields: map[string]string{"X": "[]*map:string,Y"}}}, `A.fields.X: "Y" is not a type`},
		{"endless", map[string]Shape{"A": {Fields: map[string]string{"X": "B"}}, "B": {Fields: map[string]string{"X": "A"}}}, "A: contains itself"},
		{"both", map[string]Shape{"A": {Fields: map[string]string{"X": "int"}, Keys: map[string]string{"x": "int"}}}, "A: has more than one"},
		{"reserved", map[string]Shape{"string": {}}, "string: cannot be the name"},
		{"not exported", map[string]Shape{"A": {Fields: map[string]string{"x": "int"}}}, "A.fields.x: gob carries exported fields only"},
		{"struct in a record", map[string]Shape{"A": {Keys: map[string]string{"x": "B"}}, "B": {}}, "A.keys.x: B cannot stand in a map of interfaces"},
		{"key", map[string]Shape{"A": {Fields: map[string]string{"X": "map:float,int"}}}, `A.fields.X: "float" cannot be the key`},
	} {
		_, err := NewTable(tt.shape, Options{})
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}

func FuzzReader(f *testing.F) {
	gob.RegisterName("other.Unregistered", unregistered{})
	f.Add(stream(f, rpc.Response{Seq: 1}, user{Mail: "m", Groups: []string{"g"}, Meta: map[string]any{"a": unregistered{"x"}}}))
	f.Add(stream(f, holder{"b", unregistered{"why"}, []any{"s"}, 9}))
	f.Add(stream(f, []int{1, 2, 3}, complex(1, 2), time.Now()))
	tab, err := NewTable(shapes, Options{})
	if err != nil {
		f.Fatal(err)
	}
	typ, err := tab.Type("User")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		const most = 1 << 16
		for _, of := range []*Type{nil, typ} {
			r := NewReader(bytes.NewReader(in), tab, most)
			for range 16 {
				out, err := r.JSON(nil, of)
				if err != nil {
					break
				}
				if !json.Valid(out) {
					t.Fatalf("not JSON: %q", out)
				}
				if len(out) > 16*most {
					t.Fatalf("%d bytes of JSON", len(out))
				}
			}
			_, _ = NewReader(bytes.NewReader(in), tab, most).Header()
		}
	})
}

func FuzzWriter(f *testing.F) {
	f.Add(`{"Mail": "x", "Groups": ["a"], "Meta": {"k": [ "v" ]}, "Boss": {}}`)
	f.Add(`{"Peers":[{"Age":1},{}],"Photo":"AAEC","Born":"2026-01-31T12:00:00Z"}`)
	tab, err := NewTable(shapes, Options{})
	if err != nil {
		f.Fatal(err)
	}
	typ, err := tab.Type("User")
	if err != nil {
		f.Fatal(err)
	}
	needs := tab.Needs(typ)
	f.Fuzz(func(t *testing.T, in string) {
		out, err := NewWriter(tab).Request(nil, "M", 1, typ, needs, []byte(in))
		if err != nil {
			return
		}
		dec := gob.NewDecoder(bytes.NewReader(out))
		var h rpc.Request
		var u user
		if err := dec.Decode(&h); err != nil {
			t.Fatal(err)
		}
		if err := dec.Decode(&u); err != nil && !strings.Contains(err.Error(), "out of range") && !strings.Contains(err.Error(), "overflow") {
			t.Fatalf("%q: %v", in, err)
		}
	})
}
