package goplugin

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/patchbay-dev/patchbay/sdk/go/goplugin/internal/gowire"
)

// An operation is a method made ready to be called.
type operation struct {
	name        string
	method      reflect.Value
	in, out     *gowire.Codec // nil: there is none
	takesStream bool
	streams     bool
	// sequence is the type of the parameter or result that is an iter.Seq2, sender that
	// of the function that sends.
	inSequence, outSequence, sender reflect.Type
}

var (
	contextType = reflect.TypeFor[context.Context]()
	errorType   = reflect.TypeFor[error]()
	errForm     = errors.New("is no operation: write func(context.Context, In) (Out, error), or one of the other forms in the package's documentation")
)

// operationsOf finds the operations among the exported methods.
func operationsOf(v reflect.Value, schema *gowire.Schema) ([]*operation, error) {
	var all []*operation
	for i := range v.NumMethod() {
		name, method := v.Type().Method(i).Name, v.Method(i)
		if t := method.Type(); t.NumIn() == 0 || t.In(0) != contextType {
			continue
		}
		o := &operation{name: name, method: method}
		if err := o.take(schema); err != nil {
			return nil, fmt.Errorf("%s.%s: %w", v.Type(), name, err)
		}
		all = append(all, o)
	}
	if len(all) == 0 {
		why := "give it a method func(context.Context, In) (Out, error)"
		if v.Kind() != reflect.Pointer && reflect.PointerTo(v.Type()).NumMethod() > v.NumMethod() {
			why = "its methods have a pointer as receiver: serve &" + named(v.Type()) + "{}"
		}
		return nil, fmt.Errorf("%s has no operation; %s", v.Type(), why)
	}
	return all, nil
}

// take sorts the parameters and results out.
func (o *operation) take(schema *gowire.Schema) error {
	t := o.method.Type()
	if t.IsVariadic() || t.NumIn() > 3 || t.NumOut() == 0 || t.NumOut() > 2 {
		return errForm
	}
	var in, out reflect.Type
	for i := 1; i < t.NumIn(); i++ {
		switch sent := sends(t.In(i)); {
		case sent != nil && i == t.NumIn()-1:
			o.sender, o.streams, out = t.In(i), true, sent
		case i == 1:
			in = t.In(i)
		default:
			return errForm
		}
	}
	if in != nil {
		if parts := sequence(in); parts != nil {
			o.inSequence, o.takesStream, in = in, true, parts
		}
	}
	switch parts := sequence(t.Out(0)); {
	case parts != nil && t.NumOut() == 1 && out == nil:
		o.outSequence, o.streams, out = t.Out(0), true, parts
	case t.Out(t.NumOut()-1) != errorType, t.NumOut() == 2 && out != nil:
		return errForm
	case t.NumOut() == 2:
		out = t.Out(0)
	}
	return o.codecs(schema, in, out)
}

func (o *operation) codecs(schema *gowire.Schema, in, out reflect.Type) (err error) {
	if in != nil {
		if o.in, err = schema.Codec(in); err != nil {
			return fmt.Errorf("its argument: %w", err)
		}
	}
	if out != nil {
		if o.out, err = schema.Codec(out); err != nil {
			return fmt.Errorf("its answer: %w", err)
		}
	}
	return nil
}

// sequence returns T of iter.Seq2[T, error].
func sequence(t reflect.Type) reflect.Type {
	if t.Kind() != reflect.Func || t.NumIn() != 1 || t.NumOut() != 0 || t.In(0).Kind() != reflect.Func {
		return nil
	}
	if y := t.In(0); y.NumIn() == 2 && y.In(1) == errorType && y.NumOut() == 1 && y.Out(0).Kind() == reflect.Bool {
		return y.In(0)
	}
	return nil
}

// sends returns T of func(T) error.
func sends(t reflect.Type) reflect.Type {
	if t.Kind() != reflect.Func || t.NumIn() != 1 || t.IsVariadic() || t.NumOut() != 1 || t.Out(0) != errorType {
		return nil
	}
	return t.In(0)
}

// A wire is the caller's side of one call. receive ends with io.EOF.
type wire struct {
	receive func() ([]byte, error)
	send    func([]byte) error
}

// run makes a call of any kind.
func (o *operation) run(ctx context.Context, w wire) error {
	arguments := []reflect.Value{reflect.ValueOf(ctx)}
	switch {
	case o.takesStream:
		arguments = append(arguments, o.parts(w))
	default:
		message, err := w.receive()
		if err != nil {
			return err
		}
		if o.in == nil {
			break
		}
		in, err := o.in.Read(message)
		if err != nil {
			return &argumentError{err}
		}
		arguments = append(arguments, in)
	}
	if o.sender != nil {
		arguments = append(arguments, reflect.MakeFunc(o.sender, func(sent []reflect.Value) []reflect.Value {
			return []reflect.Value{errorValue(o.answer(w, sent[0]))}
		}))
	}
	results := o.method.Call(arguments)
	if o.outSequence != nil {
		return o.drain(w, results[0])
	}
	if err, _ := results[len(results)-1].Interface().(error); err != nil {
		return err
	}
	switch {
	case o.streams:
		return nil
	case o.out == nil:
		return w.send(nil)
	}
	return o.answer(w, results[0])
}

// parts is the argument that comes part by part.
func (o *operation) parts(w wire) reflect.Value {
	return reflect.MakeFunc(o.inSequence, func(arguments []reflect.Value) []reflect.Value {
		yield := arguments[0]
		for {
			message, err := w.receive()
			if isEnd(err) {
				return nil
			}
			part := reflect.Zero(yield.Type().In(0))
			if err == nil {
				var read reflect.Value
				if read, err = o.in.Read(message); err == nil {
					part = read
				} else {
					err = &argumentError{err}
				}
			}
			if !yield.Call([]reflect.Value{part, errorValue(err)})[0].Bool() || err != nil {
				return nil
			}
		}
	})
}

// drain sends what a method yields. The first error is the call's.
func (o *operation) drain(w wire, sequence reflect.Value) (err error) {
	sequence.Call([]reflect.Value{reflect.MakeFunc(o.outSequence.In(0), func(yielded []reflect.Value) []reflect.Value {
		if err == nil {
			err, _ = yielded[1].Interface().(error)
		}
		if err == nil {
			err = o.answer(w, yielded[0])
		}
		return []reflect.Value{reflect.ValueOf(err == nil)}
	})})
	return err
}

func (o *operation) answer(w wire, v reflect.Value) error {
	message, err := o.out.Append(nil, v)
	if err != nil {
		return &answerError{err}
	}
	return w.send(message)
}

func errorValue(err error) reflect.Value {
	v := reflect.New(errorType).Elem()
	if err != nil {
		v.Set(reflect.ValueOf(err))
	}
	return v
}
