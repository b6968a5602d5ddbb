package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

// daemon stands in for a real one, so that the example runs anywhere.
func daemon() *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/plugins/hello/operations/greet", func(w http.ResponseWriter, r *http.Request) {
		name, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"greeting": "hello, %s"}`, string(name[1:len(name)-1]))
	})
	mux.HandleFunc("POST /v1/plugins/hello/operations/shout", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprint(w, `{"code": "refusal", "status": 422, "refusal": {"code": "QUIET", "message": "it is late"}}`)
	})
	return httptest.NewServer(mux)
}

func Example() {
	d := daemon()
	defer d.Close()

	// The zero Options finds the daemon of this machine.
	c, err := client.New(client.Options{URL: d.URL, Token: "from the data folder"})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()

	result, err := c.Invoke(ctx, client.Invocation{Plugin: "hello", Operation: "greet", Data: []byte(`"you"`)})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(string(result.Data))

	_, err = c.Invoke(ctx, client.Invocation{Plugin: "hello", Operation: "shout"})
	var refusal *plugin.Refusal
	if errors.As(err, &refusal) {
		fmt.Println("the plugin said no:", refusal.Message)
	}
	// Output:
	// {"greeting": "hello, you"}
	// the plugin said no: it is late
}
