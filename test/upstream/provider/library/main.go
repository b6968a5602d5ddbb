// Command library is a provider on the real Digital Rebar plugin library, used as
// its documentation says. What it offers is what the tests need to see.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/digitalrebar/logger"
	"github.com/digitalrebar/provision/v4/api"
	"github.com/digitalrebar/provision/v4/models"
	"github.com/digitalrebar/provision/v4/plugin"
)

const content = `
meta: {Name: library}
sections:
  params:
    library/greeting: {Name: library/greeting, Schema: {type: string, default: hello}}
    library/password: {Name: library/password, Secure: true, Schema: {type: string}}
    library/fail: {Name: library/fail, Schema: {type: string}}
    who: {Name: who, Schema: {type: string}}
`

type provider struct {
	session  *api.Client
	greeting string
	name     string
}

var _ plugin.PluginActor = (*provider)(nil)

func (p *provider) Config(l logger.Logger, session *api.Client, params map[string]interface{}) *models.Error {
	if why, ok := params["library/fail"].(string); ok {
		return models.NewError("plugin", 400, why)
	}
	p.session = session
	p.greeting, _ = params["library/greeting"].(string)
	p.name, _ = params["Name"].(string)
	l.Warnf("configured as %s", p.name)
	return nil
}

func (p *provider) Action(l logger.Logger, a *models.Action) (interface{}, *models.Error) {
	switch a.Command {
	case "greet":
		l.Infof("greeting %v", a.Params["who"])
		return fmt.Sprintf("%s %v from %s", p.greeting, a.Params["who"], p.name), nil
	case "echo":
		return a.Params, nil
	case "print":
		fmt.Println("printed by the library")
		return nil, nil
	case "refuse":
		return nil, models.NewError("plugin", 409, "rather not")
	case "code-zero":
		return nil, &models.Error{Messages: []string{"nobody will see this"}}
	case "panic":
		panic("on purpose")
	case "publish":
		plugin.Publish("library", "greeted", "key.1", map[string]string{"to": "you"})
		return "published", nil
	case "list":
		found, err := plugin.ListObjects("greetings")
		return len(found), err
	case "leave":
		go plugin.Leaving(models.NewError("plugin", 403, "no licence"))
		return "leaving", nil
	case "call-api":
		var out interface{}
		if err := p.session.Req().UrlFor("machines", "m1", "params", "x").Do(&out); err != nil {
			return nil, &models.Error{Code: 502, Messages: []string{err.Error()}}
		}
		return out, nil
	case "exit":
		os.Exit(9)
	}
	return nil, models.NewError("plugin", 404, "unknown command")
}

func (p *provider) Unpack(l logger.Logger, dir string) error {
	return os.WriteFile(filepath.Join(dir, "unpacked"), []byte("by the library\n"), 0o644)
}

func main() {
	def := models.PluginProvider{
		Name: "library", Version: "v4.7.0", PluginVersion: 4, Content: content,
		OptionalParams: []string{"library/greeting", "library/password", "library/fail"},
		StoreObjects:   map[string]interface{}{"greetings": map[string]interface{}{}},
		AvailableActions: []models.AvailableAction{
			{Command: "greet", RequiredParams: []string{"who"}},
			{Command: "echo"}, {Command: "print"}, {Command: "refuse"}, {Command: "code-zero"}, {Command: "panic"}, {Command: "publish"}, {Command: "list"},
			{Command: "leave"}, {Command: "call-api"}, {Command: "exit"}, {Command: "undone"},
		},
	}
	plugin.InitApp("library", "A provider on the real library", "v4.7.0", &def, &provider{})
	if err := plugin.App.Execute(); err != nil {
		os.Exit(1)
	}
}
