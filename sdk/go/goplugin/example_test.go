package goplugin_test

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"

	"github.com/patchbay-dev/patchbay/sdk/go/goplugin"
)

type HelloIn struct {
	Name     string `json:"name" required:"true" doc:"Who is greeted."`
	Language string `json:"language,omitempty" enum:"en,fr"`
}

type HelloOut struct {
	Greeting string `json:"greeting"`
}

type Greeter struct{}

func (Greeter) Hello(_ context.Context, in HelloIn) (HelloOut, error) {
	if in.Name == "nobody" {
		return HelloOut{}, goplugin.Refuse(codes.NotFound, "there is no %s", in.Name)
	}
	word := map[string]string{"": "Hello", "en": "Hello", "fr": "Bonjour"}[in.Language]
	return HelloOut{Greeting: word + ", " + in.Name + "."}, nil
}

// The main of this plugin is goplugin.Serve(Greeter{}), and this is all that Patchbay
// wants to know of it.
func Example() {
	p, err := goplugin.New(Greeter{}, goplugin.Operation("Hello", "Greets somebody."))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(p.Manifest("/opt/plugins/greeter"))
	// Output:
	// apiVersion: patchbay/v1
	// kind: Plugin
	// metadata: {name: greeter}
	// spec:
	//   goplugin:
	//     command: ["/opt/plugins/greeter"]
	//     preset: patchbay
}
