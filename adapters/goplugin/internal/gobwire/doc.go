// Package gobwire turns JSON into gob and gob into JSON without any Go type
// having been compiled in: arguments are written by a description from the
// manifest ([Table], [Type]), answers are read by the types that the stream
// itself defines, and completed by the description where there is one.
//
// It owns no goroutine and no connection. It promises that no input makes it
// panic or use more memory than a small multiple of the limit it was given: every
// message, depth, count and output is bounded. A [Reader] or [Writer] belongs to
// one stream and one goroutine; a Table is safe for concurrent use.
//
// The format is encoding/gob's: a message is a byte count and a signed type id;
// a negative id defines a type (wireType), another one begins a value. Types
// 1 to 8 are built in; others are numbered by the sender.
package gobwire

import "errors"

// The type ids that gob builds in.
const (
	idBool      = 1
	idInt       = 2
	idUint      = 3
	idFloat     = 4
	idBytes     = 5
	idString    = 6
	idComplex   = 7
	idInterface = 8
	// firstID numbers our own types; gob reserves those below 64 and encoding/gob
	// itself begins at 64 or 65.
	firstID = 65
	// stringsID is []string, which every table defines right after net/rpc's
	// request: it may appear in any value of unknown type.
	stringsID = 66
)

// Bounds on what a stream or a description may hold.
const (
	// depthMax ends nesting well before the stack is at risk; real arguments
	// nest fewer than ten deep.
	depthMax = 64
	// typesMax bounds the types one stream may define: Reva's largest plugin
	// defines about twenty.
	typesMax = 4096
	// fieldsMax bounds the fields of one described struct, so that which of
	// them arrived fits in a small set.
	fieldsMax = 256
	// weightMax bounds the fields of a struct together with the structs and arrays
	// directly in it: all are written out when an answer's zero value is filled in.
	weightMax = 4096
	// typeBytesMax bounds the definitions of one stream together, which are kept
	// as long as it lives: Reva's largest plugin sends about 2 KiB.
	typeBytesMax = 1 << 20
	// shapesMax bounds the named types of one description.
	shapesMax = 1000
	// bigBytesMax is the largest number of math/big that is written as digits:
	// converting takes time by the square.
	bigBytesMax = 1 << 10
	// nameBytesMax is encoding/gob's own limit for the name of a type inside an
	// interface.
	nameBytesMax = 1024
	// keepBytesMax is the largest buffer a stream keeps between two messages.
	keepBytesMax = 64 << 10
	// growBytes is how much of an announced message is believed at a time.
	growBytes = 1 << 20
)

var (
	// ErrTooLarge says that a value is over the limit that was given.
	ErrTooLarge = errors.New("is over the limit")
	// errCorrupt says that the stream is not gob, or not whole.
	errCorrupt = errors.New("gob stream is corrupt")
)
