package api

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// call begins an invocation whose argument is read from body.
func call(t testing.TB, client *http.Client, url, accept string, body io.Reader, header ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", url, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+testToken)
	r.Header.Set("Content-Type", wire.NDJSONType)
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	for _, h := range header {
		key, value, _ := strings.Cut(h, ": ")
		r.Header.Set(key, value)
	}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

// clients speak HTTP/1.1 and HTTP/2.
func clients(t testing.TB) map[string]*http.Client {
	t.Helper()
	all := map[string]*http.Client{}
	for name, choose := range map[string]func(*http.Protocols){
		"HTTP/1.1": func(p *http.Protocols) { p.SetHTTP1(true) }, "HTTP/2.0": func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) },
	} {
		speaks := new(http.Protocols)
		choose(speaks)
		transport := &http.Transport{Protocols: speaks}
		t.Cleanup(transport.CloseIdleConnections)
		all[name] = &http.Client{Transport: transport}
	}
	return all
}

const operations = "/v1/plugins/one/operations/"

// TestInvoke_fullDuplex: each part is answered before the next one is sent.
func TestInvoke_fullDuplex(t *testing.T) {
	base, _ := served(t, New(testDeps(t, newShelf("one"))))
	for protocol, client := range clients(t) {
		for accept, prefix := range map[string]string{wire.NDJSONType: "", wire.SSEType: "data: "} {
			read, write := io.Pipe()
			response := call(t, client, base+operations+"chat", accept, read)
			if response.Proto != protocol || response.StatusCode != 200 {
				t.Fatalf("got %s %s, want %s", response.Proto, response.Status, protocol)
			}
			from := bufio.NewReader(response.Body)
			for _, part := range []string{`"a"`, `{"b":  1}`, `3`} {
				if _, err := write.Write([]byte(part + "\n\n")); err != nil {
					t.Fatal(err)
				}
				until(t, from, prefix+part)
			}
			write.Close()
			rest, err := io.ReadAll(from)
			if err != nil || strings.Contains(string(rest), "problem") || response.Trailer.Get(wire.OutcomeTrailer) != wire.OutcomeOK {
				t.Errorf("%s %s: got %q, %v, trailers %v", protocol, accept, rest, err, response.Trailer)
			}
		}
	}
}

// TestInvoke_endsBeforeTheArgument: the caller is told, though it has not ended.
func TestInvoke_endsBeforeTheArgument(t *testing.T) {
	base, _ := served(t, New(testDeps(t, newShelf("one"))))
	for protocol, client := range clients(t) {
		read, write := io.Pipe()
		response := call(t, client, base+operations+"chat", wire.NDJSONType, read)
		go func() { // ends with the pipe
			for {
				if _, err := write.Write([]byte("1\n\"no\"\n")); err != nil {
					return
				}
			}
		}()
		text, err := io.ReadAll(response.Body)
		read.Close()
		if err != nil || !strings.HasSuffix(string(text), "}}\n") || !strings.Contains(string(text), `{"problem":`) || response.Trailer.Get(wire.OutcomeTrailer) != wire.CodeRefusal {
			t.Errorf("%s: got %q, %v, trailers %v", protocol, text, err, response.Trailer)
		}
	}
}

func TestInvoke_argumentInParts(t *testing.T) {
	base, _ := served(t, New(testDeps(t, newShelf("one"))))
	for protocol, client := range clients(t) {
		for _, tt := range []struct {
			body, want string
			status     int
		}{
			{"1\n\n 2 \r\n{\"a\": 3}", `[1,2,{"a": 3}]`, 200},
			{"1", `[1]`, 200},
			{strings.Repeat("x", 70<<20), "too-large", 413},
		} {
			response := call(t, client, base+operations+"join", "", io.MultiReader(strings.NewReader(tt.body)))
			text, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != tt.status || !strings.Contains(string(text), tt.want) {
				t.Errorf("%s: %.20q: got %s %s, %v; want %d %s", protocol, tt.body, response.Status, text, err, tt.status, tt.want)
			}
		}
	}
}

// TestInvoke_callerLeaves: the plugin's call ends with its caller.
func TestInvoke_callerLeaves(t *testing.T) {
	d := testDeps(t, newShelf("one"))
	ended := make(chan error, 1)
	d.Invoker = &leaving{d.Invoker.(*operator), ended}
	base, _ := served(t, New(d))
	for protocol, client := range clients(t) {
		for _, accept := range []string{wire.NDJSONType, ""} {
			ctx, leave := context.WithCancel(t.Context())
			read, write := io.Pipe()
			r, err := http.NewRequestWithContext(ctx, "POST", base+operations+"chat", read)
			if err != nil {
				t.Fatal(err)
			}
			r.Header = http.Header{"Authorization": {"Bearer " + testToken}, "Content-Type": {wire.NDJSONType}, "Accept": {accept}}
			answered := make(chan struct{})
			go func() { // ends with ctx
				defer close(answered)
				if response, err := client.Do(r); err == nil {
					_, _ = io.Copy(io.Discard, response.Body)
					response.Body.Close()
				}
			}()
			if _, err := write.Write([]byte("1\n")); err != nil {
				t.Fatal(err)
			}
			leave()
			select {
			case err := <-ended:
				if err == nil {
					t.Errorf("%s %q: the call ended well", protocol, accept)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("%s %q: the call goes on without its caller", protocol, accept)
			}
			read.Close() // for which Do waits
			<-answered
		}
	}
}

// TestInvoke_metadataToldBack: as headers, and behind a stream as trailers.
func TestInvoke_metadataToldBack(t *testing.T) {
	base, _ := served(t, New(testDeps(t, newShelf("one"))))
	for protocol, client := range clients(t) {
		whole := call(t, client, base+operations+"tell", "", strings.NewReader(""), wire.WantMetadataHeader+": first,LAST , odd", "Content-Type: application/json")
		if h := whole.Header; h.Get(wire.MetadataPrefix+"first") != "1" || h.Get(wire.MetadataPrefix+"last") != "3" || len(h.Values(wire.MetadataPrefix+"other")) > 0 || len(h.Values(wire.MetadataPrefix+"odd")) > 0 {
			t.Errorf("%s: got %v", protocol, h)
		}
		parts := call(t, client, base+operations+"tell", wire.NDJSONType, strings.NewReader(""), wire.WantMetadataHeader+": *", "Content-Type: application/json")
		if _, err := io.ReadAll(parts.Body); err != nil {
			t.Fatal(err)
		}
		if parts.Header.Get(wire.MetadataPrefix+"first") != "1" || parts.Trailer.Get(wire.MetadataPrefix+"last") != "3" {
			t.Errorf("%s: got %v and %v", protocol, parts.Header, parts.Trailer)
		}
	}
}

// TestInvoke_drainTellsStreams: who shuts down tells the callers of streams.
func TestInvoke_drainTellsStreams(t *testing.T) {
	a := New(testDeps(t, newShelf("one")))
	base, _ := served(t, a)
	told := map[string]*bufio.Reader{}
	for accept, want := range map[string]string{wire.NDJSONType: `{"problem":{`, wire.SSEType: "event: problem"} {
		response := call(t, http.DefaultClient, base+operations+"wait", accept, strings.NewReader(""), "Content-Type: application/json")
		told[want] = bufio.NewReader(response.Body)
		if _, err := told[want].ReadString('0'); err != nil {
			t.Fatal(err)
		}
	}
	a.endCalls() // what drain does in time
	for want, from := range told {
		until(t, from, want)
	}
}

// TestInvoke_connectionIsClean: what is left of an argument is not the next request.
func TestInvoke_connectionIsClean(t *testing.T) {
	base, _ := served(t, New(testDeps(t, newShelf("one"))))
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = conn.Write([]byte("POST " + operations + "refuse HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + testToken +
		"\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n1\n\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(conn) // the daemon closes
	if err != nil || strings.Count(string(text), "HTTP/1.1") != 1 || !strings.HasPrefix(string(text), "HTTP/1.1 422") {
		t.Errorf("got %s, %v", text, err)
	}
}

// leaving tells how calls end.
type leaving struct {
	*operator
	ended chan error
}

func (l *leaving) InvokeStream(ctx context.Context, in plugin.Invocation, send func([]byte) error) error {
	err := l.operator.InvokeStream(ctx, in, send)
	l.ended <- err
	return err
}

func (l *leaving) Invoke(ctx context.Context, in plugin.Invocation) (plugin.Result, error) {
	in.Operation = "join"
	r, err := l.operator.Invoke(ctx, in)
	l.ended <- err
	return r, err
}
