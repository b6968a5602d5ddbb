// Command c is a tiny Reva plugin of dialect C, which was proposed and not released: a
// call's context is a struct, and the plugin dies where there is none.
package main

import "github.com/patchbay-dev/patchbay/test/plugins/goplugin/reva/people"

// Users serves a user provider, Auth an authentication provider.
type (
	Users struct{ store *people.Store }
	Auth  struct{ store *people.Store }
)

// What is asked and answered.
type (
	Ctx struct {
		User  *people.User
		Token string
	}
	ConfigureArg   struct{ Ml map[string]any }
	ConfigureReply struct{ Err error }
	GetUserArg     struct {
		Ctx *Ctx
		UID *people.UserId
	}
	GetUserReply struct {
		User *people.User
		Err  error
	}
	GetUserByClaimArg struct {
		Ctx          *Ctx
		Claim, Value string
	}
	GetUserByClaimReply struct {
		User *people.User
		Err  error
	}
	GetUserGroupsArg struct {
		Ctx  *Ctx
		User *people.UserId
	}
	GetUserGroupsReply struct {
		Group []string
		Err   error
	}
	FindUsersArg struct {
		Ctx   *Ctx
		Query string
	}
	FindUsersReply struct {
		User []*people.User
		Err  error
	}
	AuthenticateArgs struct {
		Ctx                    *Ctx
		ClientID, ClientSecret string
	}
	AuthenticateReply struct {
		User  *people.User
		Auth  map[string]*people.Scope
		Error error
	}
)

// who says who asks. It panics where there is no context.
func (c *Ctx) who() string {
	token := c.Token
	if c.User != nil {
		return c.User.Username + " " + token
	}
	return token
}

// Configure takes the driver's configuration.
func (u *Users) Configure(in ConfigureArg, out *ConfigureReply) error {
	out.Err = u.store.Configure(in.Ml)
	return nil
}

// GetUser finds a user by id.
func (u *Users) GetUser(in GetUserArg, out *GetUserReply) error {
	in.Ctx.who()
	out.User = u.store.ByID(in.UID)
	return nil
}

// GetUserByClaim finds a user by a claim.
func (u *Users) GetUserByClaim(in GetUserByClaimArg, out *GetUserByClaimReply) error {
	caller := in.Ctx.who()
	out.User, out.Err = u.store.ByClaim(in.Claim, in.Value, caller)
	return nil
}

// GetUserGroups lists a user's groups.
func (u *Users) GetUserGroups(in GetUserGroupsArg, out *GetUserGroupsReply) error {
	in.Ctx.who()
	out.Group = u.store.Groups(in.User)
	return nil
}

// FindUsers finds users by a text.
func (u *Users) FindUsers(in FindUsersArg, out *FindUsersReply) error {
	in.Ctx.who()
	out.User = u.store.Find(in.Query)
	return nil
}

// Configure takes the driver's configuration.
func (a *Auth) Configure(in ConfigureArg, out *ConfigureReply) error {
	out.Err = a.store.Configure(in.Ml)
	return nil
}

// Authenticate proves a user.
func (a *Auth) Authenticate(in AuthenticateArgs, out *AuthenticateReply) error {
	in.Ctx.who()
	out.User, out.Auth, out.Error = a.store.Authenticate(in.ClientID, in.ClientSecret)
	return nil
}

func main() { people.Serve("reva", &Users{&people.Store{}}, &Auth{&people.Store{}}) }
