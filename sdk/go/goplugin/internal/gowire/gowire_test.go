package gowire

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

type level string

type base struct {
	ID string `json:"id" doc:"Which one."`
}

// pair writes itself as a list.
type pair struct{ a, b int }

func (p pair) MarshalJSON() ([]byte, error) { return json.Marshal([2]int{p.a, p.b}) }
func (p *pair) UnmarshalJSON(text []byte) error {
	var list [2]int
	err := json.Unmarshal(text, &list)
	p.a, p.b = list[0], list[1]
	return err
}

type page[T any] struct {
	Items []T `json:"items"`
}

// everything has a field of each kind; it is protobuf's "everything" of this package.
type everything struct {
	_ struct{} `doc:"All there is."`
	base
	Bool     bool               `json:"bool"`
	Int      int                `json:"int"`
	Int8     int8               `json:"int8"`
	Int32    int32              `json:"int32,omitempty"`
	Int64    int64              `json:"int64,string"`
	Uint     uint               `json:"uint"`
	Uint16   uint16             `json:"uint16"`
	Float32  float32            `json:"float32"`
	Float64  float64            `json:"float64"`
	Text     string             `json:"text" required:"true"`
	Level    level              `json:"level,omitempty" enum:"low,high"`
	Levels   []level            `json:"levels,omitempty" enum:"low,high"`
	Bytes    []byte             `json:"bytes"`
	At       time.Time          `json:"at"`
	AtMaybe  *time.Time         `json:"atMaybe,omitempty"`
	Ints     []int              `json:"ints,omitempty"`
	Small    []uint32           `json:"small,omitempty"`
	Texts    []string           `json:"texts,omitempty"`
	Three    [3]int32           `json:"three"`
	Self     *everything        `json:"self,omitempty"`
	Many     []*everything      `json:"many,omitempty"`
	Inner    struct{ X, Y int } `json:"inner"`
	Counts   map[string]int     `json:"counts,omitempty"`
	ByNumber map[int32]base     `json:"byNumber,omitempty"`
	Pointers map[string]*base   `json:"pointers,omitempty"`
	Address  netip.Addr         `json:"address"`
	Any      any                `json:"any"`
	Raw      json.RawMessage    `json:"raw,omitempty"`
	Grid     [][]int            `json:"grid,omitempty"`
	Sets     map[string][]level `json:"sets,omitempty"`
	Pair     pair               `json:"pair"`
	Page     page[base]         `json:"page"`
	Flag     *bool              `json:"flag,omitempty"`
	MaxItems int                `json:"max-items,omitzero"`
	Hidden   chan int           `json:"-"`
	Plain    string
}

func full() everything {
	flag, at := false, time.Date(2026, 1, 31, 12, 0, 0, 123456789, time.UTC)
	e := everything{
		base: base{"e-1"}, Bool: true, Int: -1 << 53, Int8: -128, Int32: 7, Int64: math.MinInt64, Uint: 1 << 60, Uint16: 65535, Float32: 0.5, Float64: -1e300,
		Text: "é\n\"", Level: "low", Levels: []level{"high", "low"}, Bytes: []byte{0, 1, 255}, At: at, AtMaybe: &at, Ints: []int{0, -1, 1 << 40}, Small: []uint32{1},
		Texts: []string{"", "x"}, Three: [3]int32{1, 0, 3}, Counts: map[string]int{"a": 1, "b": -2}, ByNumber: map[int32]base{-1: {"x"}}, Pointers: map[string]*base{"p": {"y"}},
		Address: netip.MustParseAddr("10.0.0.1"), Any: map[string]any{"k": []any{1.5, nil, true}}, Raw: json.RawMessage(`[1,"x"]`), Grid: [][]int{{1}, {}},
		Sets: map[string][]level{"s": {"low"}}, Pair: pair{1, -2}, Page: page[base]{[]base{{"z"}}}, Flag: &flag, MaxItems: 5, Plain: "p",
	}
	e.Inner.X = 3
	inner := e
	e.Self, e.Many = &inner, []*everything{{Text: "least", Address: netip.MustParseAddr("::1")}, &inner}
	return e
}

func codec(t testing.TB, of any) (*Schema, *Codec) {
	t.Helper()
	s := New("test.v1")
	c, err := s.Codec(reflect.TypeOf(of))
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

// described links the file, as any host would.
func described(t testing.TB, s *Schema, name protoreflect.Name) protoreflect.MessageDescriptor {
	t.Helper()
	file := s.File("test/v1/test.proto", Service{Name: "Test", Doc: "Tests.", Methods: []Method{{Name: "Nothing"}}})
	wire, err := proto.Marshal(file) // as it travels
	if err != nil {
		t.Fatal(err)
	}
	travelled := &descriptorpb.FileDescriptorProto{}
	if err := proto.Unmarshal(wire, travelled); err != nil {
		t.Fatal(err)
	}
	linked, err := protodesc.NewFile(travelled, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	return linked.Messages().ByName(name)
}

// TestCodec_isEncodingJSON: by its descriptor, a message has the JSON that encoding/json
// writes, but for protobuf's texts for 64 bits, and it comes back as it went.
func TestCodec_isEncodingJSON(t *testing.T) {
	s, c := codec(t, everything{})
	d := described(t, s, "Everything")
	value := full()
	wire, err := c.Append(nil, reflect.ValueOf(value))
	if err != nil {
		t.Fatal(err)
	}
	m := dynamicpb.NewMessage(d)
	if err := proto.Unmarshal(wire, m); err != nil {
		t.Fatal(err)
	}
	text, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	want, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(untexted(t, want), untexted(t, text)); diff != "" {
		t.Errorf("-encoding/json +ours:\n%s", diff)
	}
	back, err := c.Read(wire)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(value, back.Interface(), cmp.AllowUnexported(everything{}, pair{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("-went +came back:\n%s", diff)
	}

	// What protojson makes of the JSON is read as well.
	again := dynamicpb.NewMessage(d)
	if err := protojson.Unmarshal(want, again); err != nil {
		t.Fatal(err)
	}
	if wire, err = proto.Marshal(again); err != nil {
		t.Fatal(err)
	}
	if back, err = c.Read(wire); err != nil {
		t.Fatal(err)
	}
	if got := back.Interface().(everything); got.Int != value.Int || got.Inner != value.Inner || len(got.Many) != 2 || got.Self.Counts["b"] != -2 {
		t.Errorf("got %+v", got)
	}
}

// untexted makes 64 bits that are texts numbers, and drops empty lists.
func untexted(t *testing.T, text []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	numbers := map[string]bool{"int": true, "int64": true, "uint": true, "ints": true, "X": true, "Y": true, "a": true, "b": true, "max-items": true}
	var walk func(key string, v any) any
	walk = func(key string, v any) any {
		switch v := v.(type) {
		case map[string]any:
			for k, inner := range v {
				if v[k] = walk(k, inner); v[k] == nil && (k == "items" || k == "bytes") {
					delete(v, k)
				}
				if k == "bytes" && inner == "" {
					delete(v, k)
				}
			}
		case []any:
			for i := range v {
				v[i] = walk(key, v[i])
			}
		case string:
			var n float64
			if _, err := fmt.Sscan(v, &n); err == nil && numbers[key] {
				return n
			}
		}
		return v
	}
	return walk("", v)
}

func TestFile(t *testing.T) {
	s, _ := codec(t, everything{})
	d := described(t, s, "Everything")
	file := d.ParentFile()
	for _, tt := range []struct {
		of   protoreflect.Descriptor
		want string
	}{
		{d, "All there is."}, {d.Fields().ByJSONName("id"), "Which one."}, {file.Services().Get(0), "Tests."},
	} {
		if got := strings.TrimSpace(file.SourceLocations().ByDescriptor(tt.of).LeadingComments); got != tt.want {
			t.Errorf("%s: got the comment %q, want %q", tt.of.FullName(), got, tt.want)
		}
	}
	var got []string
	for i := range file.Messages().Len() {
		got = append(got, string(file.Messages().Get(i).Name()))
	}
	if diff := cmp.Diff([]string{"Everything", "EverythingInner", "Base", "PageBase"}, got); diff != "" {
		t.Errorf("messages: -want +got:\n%s", diff)
	}
	for name, want := range map[string]string{
		"id": "id 1 optional string", "int": "int 3 optional int64 JS_NUMBER", "int64": "int64 6 optional int64 ", "max-items": "max_items 35 optional int64 JS_NUMBER",
		"self": "self 21 optional message", "ints": "ints 17 repeated int64 JS_NUMBER", "at": "at 15 optional message", "Plain": "plain 36 optional string",
		"grid": "grid 30 optional message",
	} {
		f := d.Fields().ByJSONName(name)
		o := f.Options().(*descriptorpb.FieldOptions)
		got := fmt.Sprintln(f.Name(), f.Number(), f.Cardinality(), f.Kind())
		if o.GetJstype() != descriptorpb.FieldOptions_JS_NORMAL {
			got += o.GetJstype().String()
		}
		if got = strings.ReplaceAll(got, "\n", " "); strings.TrimSpace(got) != strings.TrimSpace(want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestSchema_names(t *testing.T) {
	type v1 struct {
		Duration struct{ A int } `json:"duration"`
		Base     base            `json:"base"`
	}
	type one struct {
		Base page[v1] `json:"b" number:"7"`
		Any  any      `json:"$any" number:"3"`
	}
	s, _ := codec(t, &one{})
	s.Reserve("Two")
	if c, err := s.Codec(reflect.TypeFor[struct{ Two struct{ N int } }]()); err != nil || c == nil {
		t.Fatal(err)
	}
	d := described(t, s, "One")
	if f := d.Fields().ByJSONName("$any"); f.Number() != 3 || f.Name() != "f_any" {
		t.Errorf("got %v", f)
	}
	if got := d.Fields().ByNumber(7).Message().Name(); got != "PageV1" {
		t.Errorf("a generic type is %s", got)
	}
}

func TestCodec_refusedTypes(t *testing.T) {
	type deep struct {
		List []struct {
			Hole chan int `json:"hole"`
		}
	}
	for name, tt := range map[string]struct {
		of   any
		want string
	}{
		"chan":      {struct{ C chan int }{}, "C: chan int has no form in JSON"},
		"func":      {struct{ F func() }{}, "F: func() has no form in JSON"},
		"complex":   {struct{ Z complex64 }{}, "Z: complex64 has no form in JSON"},
		"deep":      {deep{}, "deep.List.Hole: chan int has no form"},
		"in JSON":   {struct{ M map[string][]func() }{}, "M: func() has no form in JSON"},
		"interface": {struct{ E error }{}, "E: error is an interface with methods"},
		"keys":      {struct{ M map[float64]int }{}, "M: map[float64]int has keys that are no keys in JSON"},
		"pointers":  {struct{ P **int }{}, "P: *int is a pointer to a pointer"},
		"embedded":  {struct{ *base }{}, "base: is an embedded pointer"},
		"enum": {struct {
			N int `enum:"1,2"`
		}{}, "N: an enum tag is for texts"},
		"quoted": {struct {
			N int32 `json:",string"`
		}{}, `N: ",string" in its json tag is for int64`},
		"number": {struct {
			N int `number:"19001"`
		}{}, `N: its number "19001" cannot be one`},
		"some numbers": {struct {
			N int `number:"1"`
			M int
		}{}, "some fields have a number tag and some have none"},
		"same number": {struct {
			N int `number:"1"`
			M int `number:"1"`
		}{}, "M: has the number 1, as N has"},
		"same name": {struct {
			base
			M int `json:"id"`
		}{}, "id: there are two fields of this name"},
		"odd name": {
			reflect.Zero(reflect.StructOf([]reflect.StructField{{Name: "N", Type: reflect.TypeFor[int](), Tag: `json:"a\"b"`}})).Interface(),
			"N: the name"},
		"top": {make(chan int), "chan int: chan int has no form in JSON"},
	} {
		_, err := New("t").Codec(reflect.TypeOf(tt.of))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
}

func TestCodec_refusedValues(t *testing.T) {
	s, c := codec(t, everything{})
	d := described(t, s, "Everything")
	for text, want := range map[string]string{
		`{}`:                                     "text: is required",
		`{"text": "", "level": "mid"}`:           `level: is "mid"; write low, high`,
		`{"text": "", "levels": ["low", ""]}`:    `levels[1]: is ""; write low, high`,
		`{"text": "", "int8": 128}`:              "int8: 128 is out of the range of int8",
		`{"text": "", "three": [1,2,3,4]}`:       "three: has more than 3 elements",
		`{"text": "", "self": {}}`:               "self.text: is required",
		`{"text": "", "many": [{"text":""},{}]}`: "many[1].text: is required",
		`{"text": "", "address": "nowhere"}`:     "address: ParseAddr",
		`{"text": "", "pair": "x"}`:              "pair: json: cannot unmarshal",
		`{"text": "", "sets": {"s": 1}}`:         "sets: json: cannot unmarshal number",
	} {
		m := dynamicpb.NewMessage(d)
		if err := protojson.Unmarshal([]byte(text), m); err != nil {
			t.Fatal(err)
		}
		wire, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(wire); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
	circle := &everything{Text: "x"}
	circle.Self = circle
	for name, tt := range map[string]struct {
		v    everything
		want string
	}{
		"circle":  {*circle, "nests more than 100 deep"},
		"nil":     {everything{Many: []*everything{nil}}, "many[0]: is nil"},
		"nil map": {everything{Pointers: map[string]*base{"k": nil}}, "pointers[k]: is nil"},
		"year":    {everything{At: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}, "at: "},
		"raw":     {everything{Raw: json.RawMessage("{")}, "raw: json: "},
	} {
		if _, err := c.Append(nil, reflect.ValueOf(tt.v)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	text, err := c.Append(nil, reflect.ValueOf(everything{Text: "a\xff"}))
	if err == nil {
		err = proto.Unmarshal(text, dynamicpb.NewMessage(d))
	}
	if err != nil {
		t.Errorf("what is no UTF-8: %v", err)
	}
}

// TestCodec_plain: what is no struct is a JSON value.
func TestCodec_plain(t *testing.T) {
	for _, v := range []any{"text", 5, []string{"a"}, map[string]int{"k": 1}, [][]bool{{true}}} {
		_, c := codec(t, v)
		wire, err := c.Append(nil, reflect.ValueOf(v))
		if err != nil {
			t.Fatal(err)
		}
		back, err := c.Read(wire)
		if err != nil || !reflect.DeepEqual(back.Interface(), v) || c.form.message != ".google.protobuf.Value" {
			t.Errorf("%v: got %v, %v as %s", v, back, err, c.form.message)
		}
	}
}

func FuzzRead(f *testing.F) {
	_, c := codec(f, everything{})
	wire, err := c.Append(nil, reflect.ValueOf(full()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wire)
	for i := 0; i < len(wire); i += len(wire) / 7 {
		f.Add(wire[:i])
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		v, err := c.Read(wire)
		if err != nil {
			return
		}
		again, err := c.Append(nil, v)
		if err != nil {
			return // what nobody writes, as a year that JSON does not have
		}
		if _, err := c.Read(again); err != nil {
			t.Errorf("%x was read and written as %x: %v", wire, again, err)
		}
	})
}
