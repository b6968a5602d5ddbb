package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// echoParts answers each part of an argument with itself; "no" ends it, "bye" too.
func echoParts(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	if err := control.EnableFullDuplex(); err != nil || r.Header.Get("Content-Type") != wire.NDJSONType {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if r.Header.Get("Accept") != wire.SSEType { // as a whole
		text, _ := io.ReadAll(r.Body)
		w.Header().Set(wire.MetadataPrefix+"first", "1")
		w.Header().Set("Content-Type", wire.JSONType)
		fmt.Fprintf(w, "%q", text)
		return
	}
	w.Header().Set("Content-Type", wire.SSEType)
	w.Header().Set(wire.MetadataPrefix+"first", "1")
	defer w.Header().Set(http.TrailerPrefix+wire.MetadataPrefix+"last", "2")
	control.Flush()
	for from := bufio.NewScanner(r.Body); from.Scan(); control.Flush() {
		switch from.Text() {
		case `"no"`:
			fmt.Fprint(w, "event: problem\ndata: {\"code\":\"refusal\",\"status\":422,\"refusal\":{\"message\":\"enough\"}}\n\n")
			return
		case `"bye"`:
			fmt.Fprint(w, "event: end\ndata: {}\n\n")
			return
		}
		fmt.Fprintf(w, "data: %s\n\n", from.Text())
	}
	fmt.Fprint(w, "event: end\ndata: {}\n\n")
}

// given gives parts, and then end.
func given(end error, parts ...string) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		if len(parts) == 0 {
			if end == nil {
				<-ctx.Done()
				return nil, errors.New("the end that nobody asks for")
			}
			return nil, end
		}
		part := parts[0]
		parts = parts[1:]
		return []byte(part), nil
	}
}

func TestInvokeStream_argumentInParts(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(echoParts))
	defer s.Close()
	c, err := New(Options{URL: s.URL, Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	broke := errors.New("the source broke")
	for _, tt := range []struct {
		name  string
		parts func(context.Context) ([]byte, error)
		want  string
		err   string
		told  bool
	}{
		{"all", given(io.EOF, "1", " {\n\"a\": 2}\n", `"x"`), `1 {"a":2} "x"`, "", true},
		{"none", given(io.EOF), "", "", true},
		{"the answer ends first", given(nil, "1", `"bye"`), "1", "", true},
		{"a refusal amid the argument", given(nil, "1", `"no"`), "1", "refused: enough", true},
		{"the source breaks", given(broke, "1"), "", broke.Error(), false},
		{"not JSON", given(io.EOF, "{\n1"), "", "argument: invalid: part 1: ", false},
		{"empty", given(io.EOF, " "), "", "part 1 is empty", false},
	} {
		var got []string
		told := map[string]string{}
		err := c.InvokeStream(t.Context(), Invocation{
			Plugin: "p", Operation: "o", Parts: tt.parts, Told: func(m map[string]string) { maps.Copy(told, m) },
		}, func(part []byte) error {
			got = append(got, string(part))
			return nil
		})
		if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.err)
		}
		if text := strings.Join(got, " "); tt.told && (text != tt.want || told["first"] != "1" || told["last"] != "2") {
			t.Errorf("%s: got %s and %v, want %s", tt.name, text, told, tt.want)
		}
	}
}

// TestInvokeStream_partByPart gives the next part when the one before is answered.
func TestInvokeStream_partByPart(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(echoParts))
	defer s.Close()
	c, err := New(Options{URL: s.URL, Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	next := make(chan string, 1)
	next <- "1"
	in := Invocation{Plugin: "p", Operation: "o", Parts: func(ctx context.Context) ([]byte, error) {
		select {
		case part, ok := <-next:
			if !ok {
				return nil, io.EOF
			}
			return []byte(part), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
	count := 0
	if err := c.InvokeStream(t.Context(), in, func(part []byte) error {
		if count++; count < 20 {
			next <- string(part)
		} else {
			close(next)
		}
		return nil
	}); err != nil || count != 20 {
		t.Errorf("got %d parts, %v", count, err)
	}
	stop := errors.New("the reader has enough")
	in.Parts = given(nil, "1", "2")
	if err := c.InvokeStream(t.Context(), in, func([]byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v, want %v", err, stop)
	}
}

func TestInvoke_argumentInParts(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(echoParts))
	defer s.Close()
	c, err := New(Options{URL: s.URL, Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]string{}
	result, err := c.Invoke(t.Context(), Invocation{Plugin: "p", Operation: "o", Parts: given(io.EOF, "1", "2"), Told: func(m map[string]string) { told = m }})
	if err != nil || string(result.Data) != `"1\n2\n"` || told["first"] != "1" {
		t.Errorf("got %s, %v, told %v", result.Data, err, told)
	}
	if _, err := c.Invoke(t.Context(), Invocation{Plugin: "p", Operation: "o", Parts: given(plugin.ErrConflict, "1")}); !errors.Is(err, plugin.ErrConflict) {
		t.Errorf("got %v", err)
	}
}
