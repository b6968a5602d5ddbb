package main

import (
	"math/big"
	"net/netip"
	"time"
)

// All has a field of every kind.
type All struct {
	Bool    bool
	Int8    int8
	Int64   int64
	Uint16  uint16
	Float32 float32
	Complex complex128
	Text    string
	Bytes   []byte
	Array   [3]int
	Names   []string
	Pointer *All
	Many    []*All
	Map     map[string]int
	Deep    map[int]map[string][]bool
	At      time.Time
	Big     *big.Int
	Address netip.Addr
	Own     Own
	Any     any
	Level   Level
	Inner
	Notify func() // gob does not carry it
}

// Inner is embedded.
type Inner struct{ Depth uint }

// Level is a number with a name.
type Level int32

// Own encodes itself.
type Own struct{ text string }

// GobEncode returns the text.
func (o Own) GobEncode() ([]byte, error) { return []byte(o.text), nil }

// GobDecode takes the text.
func (o *Own) GobDecode(b []byte) error { o.text = string(b); return nil }

// A Shape is what an interface holds.
type Shape interface{ Area() float64 }

// Circle is registered by its value.
type Circle struct{ Radius float64 }

// Area is Pi's, roughly.
func (c Circle) Area() float64 { return 3 * c.Radius * c.Radius }

// Square is registered by a pointer.
type Square struct{ Side int }

// Area is exact.
func (s *Square) Area() float64 { return float64(s.Side * s.Side) }

// AreaArgs is the argument of Area.
type AreaArgs struct{ Shapes []Shape }

// AreaReply is its answer.
type AreaReply struct {
	Area    float64
	Largest Shape
}

// UserID names a user.
type UserID struct {
	Idp, OpaqueID string
	Type          int32
}

// User is a person, with more than most callers need.
type User struct {
	ID          *UserID
	Name, Mail  string
	Verified    bool
	Groups      []string
	Opaque      map[string]*Entry
	Uid, Gid    int64
	XXX_unknown []byte
}

// Entry is a part of User.
type Entry struct {
	Decoder string
	Value   []byte
}

// FindArgs is the argument of Find.
type FindArgs struct {
	Ctx   *Ctx
	Query string
	ID    *UserID
}

// Ctx must be there: without it the plugin dies.
type Ctx struct{ Token string }

// FindReply is its answer.
type FindReply struct {
	Users []*User
	Err   error
}
