package gobwire

import "fmt"

type wireKind uint8

// The kinds of a wireType, in the order of its fields.
const (
	wireArray wireKind = iota
	wireSlice
	wireStruct
	wireMap
	wireGobEncoder
	wireBinaryMarshaler
	wireTextMarshaler
	wireKinds
)

// A wireType is a type as the other side defined it.
type wireType struct {
	kind   wireKind
	name   string
	elem   int64
	key    int64
	fields []wireField
}

type wireField struct {
	name []byte
	id   int64
}

// define reads the definition of type id.
func (r *Reader) define(id int64) error {
	if id < 64 || r.types[id] != nil {
		return fmt.Errorf("%w: type %d is defined twice", errCorrupt, id)
	}
	if len(r.types) >= typesMax {
		return fmt.Errorf("%w: more than %d types", errCorrupt, typesMax)
	}
	before := len(r.msg)
	var wt *wireType
	err := r.members(func(n int) (err error) {
		if wt != nil || n >= int(wireKinds) {
			return errCorrupt
		}
		wt = &wireType{kind: wireKind(n)}
		return r.definition(wt)
	})
	if err != nil || wt == nil {
		return fmt.Errorf("%w: type %d has no definition", errCorrupt, id)
	}
	if r.told += before - len(r.msg); r.told > typeBytesMax {
		return fmt.Errorf("%w: more than %d bytes of types", errCorrupt, typeBytesMax)
	}
	r.types[id] = wt
	return nil
}

// definition reads one of arrayType, sliceType, structType, mapType and
// gobEncoderType. All begin with CommonType; what follows differs.
func (r *Reader) definition(wt *wireType) error {
	return r.members(func(n int) (err error) {
		switch {
		case n == 0:
			return r.common(wt)
		case n == 1 && wt.kind == wireStruct:
			return r.fieldTypes(wt)
		case n == 1 && wt.kind == wireMap:
			wt.key, err = r.int()
		case n == 1 && wt.kind < wireStruct, n == 2 && wt.kind == wireMap:
			wt.elem, err = r.int()
		case n == 2 && wt.kind == wireArray:
			_, err = r.int() // the array's length stands before each value too
		default:
			err = errCorrupt
		}
		return err
	})
}

func (r *Reader) common(wt *wireType) error {
	return r.members(func(n int) (err error) {
		switch n {
		case 0:
			var name []byte
			name, err = r.bytes()
			wt.name = string(name)
		case 1:
			_, err = r.int()
		default:
			err = errCorrupt
		}
		return err
	})
}

func (r *Reader) fieldTypes(wt *wireType) error {
	n, err := r.uint()
	if err != nil || n > uint64(len(r.msg)) {
		return errCorrupt
	}
	for range n {
		var f wireField
		err := r.members(func(n int) (err error) {
			switch n {
			case 0:
				var name []byte
				name, err = r.bytes()
				f.name = append([]byte(nil), name...)
			case 1:
				f.id, err = r.int()
			default:
				err = errCorrupt
			}
			return err
		})
		if err != nil {
			return err
		}
		wt.fields = append(wt.fields, f)
	}
	return nil
}
