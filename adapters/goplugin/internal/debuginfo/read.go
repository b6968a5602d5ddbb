package debuginfo

import (
	"context"
	"debug/dwarf"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"strings"
)

// The attributes that Go's linker adds.
const (
	attrGoKind dwarf.Attr = 0x2900 // a reflect.Kind
	attrGoKey  dwarf.Attr = 0x2901
	attrGoElem dwarf.Attr = 0x2902
)

// sections are the parts of DWARF that names and types need.
func sections() []string {
	return []string{"abbrev", "info", "str", "line_str", "str_offsets", "addr"}
}

// Has reports a binary without the debugging information that Read wants.
func Has(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("it is no ELF binary: %w", err)
	}
	defer func() { _ = f.Close() }()
	if f.Section(".debug_info") == nil && f.Section(".zdebug_info") == nil {
		return errors.New("it has no debugging information: it was built with -ldflags=-s or -w, or stripped")
	}
	return nil
}

// read reads one binary.
func read(ctx context.Context, r io.ReaderAt) (found Found, err error) {
	defer func() { // what the standard library does not expect
		if fault := recover(); fault != nil {
			found, err = nil, fmt.Errorf("debugging information: it cannot be read: %v", fault)
		}
	}()
	data, err := load(r)
	if err != nil {
		return nil, fmt.Errorf("debugging information: %w", err)
	}
	s := &scanner{ctx: ctx, data: data, encoders: map[string]string{}, methods: map[string]map[string]signature{}}
	if err := s.scan(); err != nil {
		return nil, fmt.Errorf("debugging information: %w", err)
	}
	found = s.found()
	return found, ctx.Err()
}

// load reads the sections that are needed: the whole is four times as much.
func load(r io.ReaderAt) (*dwarf.Data, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, err
	}
	parts := map[string][]byte{}
	var sum uint64
	for _, name := range sections() {
		s := f.Section(".debug_" + name)
		if s == nil {
			continue
		}
		if sum += s.Size; s.Size > sectionBytesMax || sum > sectionBytesMax {
			return nil, fmt.Errorf("it is larger than %d bytes", sectionBytesMax)
		}
		if parts[name], err = s.Data(); err != nil {
			return nil, err
		}
	}
	if parts["info"] == nil {
		return nil, errors.New("there is none: the binary was built with -ldflags=-s or -w, or stripped")
	}
	d, err := dwarf.New(parts["abbrev"], nil, nil, parts["info"], nil, nil, nil, parts["str"])
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"line_str", "str_offsets", "addr"} {
		if err := d.AddSection(".debug_"+name, parts[name]); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// A signature is a method's argument and answer.
type signature struct{ args, reply dwarf.Offset }

// scanner finds the methods that net/rpc would serve.
type scanner struct {
	ctx  context.Context
	data *dwarf.Data
	// encoders are the types that encode themselves, and as what.
	encoders map[string]string
	methods  map[string]map[string]signature // by Go type and name
	count    int
}

// scan reads every function once.
func (s *scanner) scan() error {
	r := s.data.Reader()
	for n := 0; ; n++ {
		if n%4096 == 0 && s.ctx.Err() != nil {
			return s.ctx.Err()
		}
		e, err := r.Next()
		if err != nil || e == nil {
			return err
		}
		if e.Tag != dwarf.TagSubprogram {
			continue
		}
		name, _ := e.Val(dwarf.AttrName).(string) // none when it is the body of one with a name
		goType, method, ok := split(name)
		if !ok || !e.Children {
			continue
		}
		s.note(goType, method)
		if ignored(goType) || method[0] < 'A' || method[0] > 'Z' || s.count >= methodsMax {
			continue
		}
		sig, ok, err := s.signature(r)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if s.methods[goType] == nil {
			s.methods[goType] = map[string]signature{}
		}
		s.methods[goType][method] = sig
		s.count++
	}
}

// split parses path.(*Type).Method and path.Type.Method.
func split(name string) (goType, method string, ok bool) {
	if strings.ContainsAny(name, "[ ") { // of a generic type
		return "", "", false
	}
	last := strings.LastIndexByte(name, '/') + 1
	parts := strings.Split(name[last:], ".")
	if len(parts) != 3 || parts[1] == "" || parts[2] == "" {
		return "", "", false
	}
	of := parts[1]
	if inner, ok := strings.CutPrefix(of, "(*"); ok {
		of = strings.TrimSuffix(inner, ")")
	}
	return name[:last] + parts[0] + "." + of, parts[2], true
}

// note remembers a type that encodes itself; gob asks for GobEncode first.
func (s *scanner) note(goType, method string) {
	switch method {
	case "GobEncode":
		s.encoders[goType] = "gob"
	case "MarshalBinary":
		if s.encoders[goType] == "" {
			s.encoders[goType] = "binary"
		}
	}
}

// ignored reports what serves go-plugin itself, and methods of gRPC and of the
// standard library that look alike.
func ignored(goType string) bool {
	for _, prefix := range []string{
		"github.com/hashicorp/go-plugin.", "github.com/hashicorp/yamux.", "google.golang.org/", "golang.org/x/", "net/", "encoding/", "internal/", "vendor/",
	} {
		if strings.HasPrefix(goType, prefix) {
			return true
		}
	}
	return false
}

// signature reads the parameters of the function before which r stands: net/rpc
// serves (receiver, args, *reply) error.
func (s *scanner) signature(r *dwarf.Reader) (sig signature, ok bool, err error) {
	var in []dwarf.Offset
	out := map[string]dwarf.Offset{} // a function that defers has its results twice
	for {
		e, err := r.Next()
		if err != nil || e == nil {
			return sig, false, err
		}
		if e.Tag == 0 {
			break
		}
		if e.Tag != dwarf.TagFormalParameter {
			r.SkipChildren()
			continue
		}
		of, _ := e.Val(dwarf.AttrType).(dwarf.Offset)
		if is, _ := e.Val(dwarf.AttrVarParam).(bool); is {
			result, _ := e.Val(dwarf.AttrName).(string)
			out[result] = of
		} else {
			in = append(in, of)
		}
	}
	if len(in) != 3 || len(out) != 1 {
		return sig, false, nil
	}
	for _, of := range out {
		if result, err := s.entry(of); err != nil || result.name != "error" {
			return sig, false, err
		}
	}
	reply, err := s.entry(in[2])
	return signature{in[1], reply.inner}, err == nil && reply.kind == kindPointer, err
}
