package main

import (
	"errors"
	"io"
	"log"
	"os"
	"sync"
	"time"

	"github.com/patchbay-dev/patchbay/test/plugins/goplugin/tiny"
)

// state is what the objects of one process share.
type state struct {
	mu    sync.Mutex
	calls int
}

// Service is what is dispensed.
type Service struct{ state *state }

// Echo answers its argument.
func (*Service) Echo(in All, out *All) error { *out = in; return nil }

// EchoMap is for an argument that is no struct.
func (*Service) EchoMap(in map[string][]int, out *map[string][]int) error { *out = in; return nil }

// Area adds up the shapes and answers the largest.
func (*Service) Area(in AreaArgs, out *AreaReply) error {
	for _, s := range in.Shapes {
		if out.Largest == nil || s.Area() > out.Largest.Area() {
			out.Largest = s
		}
		out.Area += s.Area()
	}
	return nil
}

// Find answers four users. It reads Ctx without a look, as Reva's plugins do.
func (*Service) Find(in *FindArgs, out *FindReply) error {
	for _, name := range []string{"einstein", "marie", "richard", "moss"} {
		out.Users = append(out.Users, &User{
			ID: &UserID{Idp: "https://idp.example.org", OpaqueID: "id-" + name + in.Ctx.Token, Type: 1}, Name: name, Mail: name + "@example.org", Verified: true,
			Groups: []string{"physicists", "sailors", in.Query}, Uid: 1001, Gid: 1 << 40,
			Opaque: map[string]*Entry{"uid": {"plain", []byte("1001")}}, XXX_unknown: []byte{1},
		})
	}
	return nil
}

// NotFound, Denied and Registered are errors of the plugin; gob knows the last one.
type (
	NotFound   string
	Denied     struct{ Who string }
	Registered struct {
		Code int
		Text string
	}
)

func (n NotFound) Error() string   { return "not found: " + string(n) }
func (d *Denied) Error() string    { return "denied: " + d.Who }
func (r Registered) Error() string { return r.Text }

// FailArgs is the argument of Fail.
type FailArgs struct{ Class, Text string }

// FailReply is its answer.
type FailReply struct {
	Value string
	Err   error
}

// Fail answers with an error of the class given, in the answer; of class "" with
// none; of class "returned" as net/rpc has it.
func (*Service) Fail(in FailArgs, out *FailReply) error {
	out.Value = in.Text
	switch in.Class {
	case "NotFound":
		out.Err = NotFound(in.Text)
	case "Denied":
		out.Err = &Denied{in.Text}
	case "Registered":
		out.Err = Registered{7, in.Text}
	case "plain":
		out.Err = errors.New(in.Text)
	case "returned":
		return errors.New(in.Text)
	}
	return nil
}

// Number is the argument and answer of what counts.
type Number struct{ N int }

// Flaky ends its stream without a word, until it was called more than N times;
// then it answers how often.
func (s *Service) Flaky(in Number, out *FailReply) error {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	s.state.calls++
	log.SetOutput(os.Stderr)
	if s.state.calls <= in.N {
		log.SetOutput(io.Discard)
		out.Err = NotFound("quiet")
	}
	return nil
}

// Calls answers how often Flaky was called.
func (s *Service) Calls(_ struct{}, out *Number) error {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	out.N = s.state.calls
	return nil
}

// LogHere makes the log go through the connection: go-plugin has put its own pipe
// in the place of os.Stderr.
func (*Service) LogHere(struct{}, *Number) error { log.SetOutput(os.Stderr); return nil }

// HolesReply has a nil among its pointers.
type HolesReply struct{ Users []*User }

// Hole answers what gob cannot encode, and no error is to blame.
func (*Service) Hole(_ struct{}, out *HolesReply) error { out.Users = []*User{nil}; return nil }

// Die ends the process in the middle of the call.
func (*Service) Die(Number, *Number) error { os.Exit(3); return nil }

// Sleep answers after so many milliseconds.
func (*Service) Sleep(in Number, out *Number) error {
	*out = in
	time.Sleep(tiny.Pause(int64(in.N)))
	return nil
}

// Other is dispensed by another name.
type Other struct{}

// Hello answers its argument.
func (Other) Hello(in string, out *string) error { *out = "hello " + in; return nil }
