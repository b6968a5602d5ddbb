// Package people is what the tiny Reva plugins share: users from a JSON file, the
// types that travel, and the handshake. It was written from the description of the
// protocol; the plugins behave as Reva's own JSON plugins do, and so die of what kills
// those.
package people

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/rpc"
	"os"
	"strings"

	"github.com/hashicorp/go-plugin"

	"github.com/patchbay-dev/patchbay/test/plugins/goplugin/reva/errtypes"
	"github.com/patchbay-dev/patchbay/test/plugins/habit"
)

// UserId names a user; Type 1 is a primary one.
type UserId struct {
	Idp, OpaqueId        string
	Type                 int32
	XXX_NoUnkeyedLiteral struct{}
	XXX_sizecache        int32
}

// User is a user.
type User struct {
	Id                   *UserId
	Username, Mail       string
	MailVerified         bool
	DisplayName          string
	Groups               []string
	Opaque               *Opaque
	UidNumber, GidNumber int64
	XXX_NoUnkeyedLiteral struct{}
	XXX_unrecognized     []byte
	XXX_sizecache        int32
}

// Opaque holds what has no field.
type Opaque struct{ Map map[string]*OpaqueEntry }

// OpaqueEntry is one such thing.
type OpaqueEntry struct {
	Decoder string
	Value   []byte
}

// Scope is what may be done; Role 1 is the owner's.
type Scope struct {
	Resource *OpaqueEntry
	Role     int32
}

// person is a user as the file has it.
type person struct {
	ID struct {
		Idp      string `json:"idp"`
		OpaqueID string `json:"opaque_id"`
		Type     int32  `json:"type"`
	} `json:"id"`
	Username    string   `json:"username"`
	Mail        string   `json:"mail"`
	DisplayName string   `json:"display_name"`
	Groups      []string `json:"groups"`
	Secret      string   `json:"secret"`
	UID         int64    `json:"uid"`
}

func (p person) user() *User {
	u := &User{
		Id:       &UserId{Idp: p.ID.Idp, OpaqueId: p.ID.OpaqueID, Type: p.ID.Type, XXX_sizecache: 1},
		Username: p.Username, Mail: p.Mail, DisplayName: p.DisplayName, Groups: p.Groups, UidNumber: p.UID, XXX_unrecognized: []byte("x"),
	}
	if p.UID > 0 {
		u.Opaque = &Opaque{Map: map[string]*OpaqueEntry{"uid": {Decoder: "plain", Value: fmt.Appendf(nil, "%d", p.UID)}}}
	}
	return u
}

// Store is the users, once it is configured. One serves the whole process.
type Store struct {
	people []person
	greet  string
}

// demo are the users where no file is configured.
const demo = `[{"id": {"idp": "cern", "opaque_id": "4c510ada"}, "username": "einstein", "mail": "einstein@cern.ch", "display_name": "Albert Einstein",
	"groups": ["violin-haters", "physics-lovers"], "secret": "relativity", "uid": 123}]`

// Configure takes the driver's configuration: users is the file.
func (s *Store) Configure(config map[string]any) error {
	if n, ok := config["limit"].(int); ok && n < 0 {
		return fmt.Errorf("limit is %d", n) // a *fmt.wrapError or *errors.errorString, as careless plugins have them
	}
	text := []byte(demo)
	if path, ok := config["users"].(string); ok {
		var err error
		if text, err = os.ReadFile(path); err != nil {
			return err
		}
	}
	s.greet, _ = config["greet"].(string)
	s.people = nil
	return json.Unmarshal(text, &s.people)
}

func (s *Store) find(match func(person) bool) *User {
	for _, p := range s.people {
		if match(p) {
			return p.user()
		}
	}
	return nil
}

// ByID returns the user with an id, or nil. Without an id it panics.
func (s *Store) ByID(id *UserId) *User {
	opaque := id.OpaqueId
	return s.find(func(p person) bool { return p.ID.OpaqueID == opaque })
}

// ByClaim returns the user who has a claim. The claim errtypes fails as its value
// says, and whoami answers who asks.
func (s *Store) ByClaim(claim, value, caller string) (*User, error) {
	found := s.find(func(p person) bool {
		switch claim {
		case "mail":
			return p.Mail == value
		case "username":
			return p.Username == value
		case "uid":
			return fmt.Sprint(p.UID) == value
		}
		return false
	})
	switch {
	case found != nil:
		return found, nil
	case claim == "whoami":
		return &User{Username: caller, DisplayName: s.greet}, nil
	case claim == "errtypes" && errtypes.All()[value] != nil:
		return nil, errtypes.All()[value]
	case claim == "errtypes":
		return nil, errors.New(value)
	}
	return nil, errtypes.NotFound(value)
}

// Groups returns those of a user. Of one that is not known it panics.
func (s *Store) Groups(id *UserId) []string { return s.ByID(id).Groups }

// Find returns the users in whom a text is.
func (s *Store) Find(query string) (found []*User) {
	for _, p := range s.people {
		if strings.Contains(p.Username+"\n"+p.DisplayName+"\n"+p.Mail+"\n"+p.ID.OpaqueID, query) {
			found = append(found, p.user())
		}
	}
	return found
}

// Authenticate returns the user with a name and a secret, and what may be done.
func (s *Store) Authenticate(id, secret string) (*User, map[string]*Scope, error) {
	found := s.find(func(p person) bool { return p.Username == id && p.Secret == secret && secret != "" })
	if found == nil {
		return nil, nil, errtypes.InvalidCredentials(id)
	}
	return found, map[string]*Scope{"user": {Resource: &OpaqueEntry{Decoder: "json", Value: []byte(`{}`)}, Role: 1}}, nil
}

// server serves one object by net/rpc.
type server struct{ object any }

func (s server) Server(*plugin.MuxBroker) (any, error) { return s.object, nil }

func (server) Client(*plugin.MuxBroker, *rpc.Client) (any, error) {
	return nil, errors.New("this side only serves")
}

// Serve serves the two kinds, or the one of them that is named on the command line.
func Serve(cookie string, user, auth any) {
	habit.Begin()
	kinds := plugin.PluginSet{"userprovider": server{user}, "authprovider": server{auth}}
	if len(os.Args) > 1 {
		kinds = plugin.PluginSet{os.Args[1]: kinds[os.Args[1]]}
	}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: plugin.HandshakeConfig{ProtocolVersion: 1, MagicCookieKey: "BASIC_PLUGIN", MagicCookieValue: cookie},
		Plugins:         kinds,
	})
}
