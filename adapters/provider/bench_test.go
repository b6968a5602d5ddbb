package provider_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/provider"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// bareLaunch is the protocol without patchbay: define, unpack, listen, READY!,
// config, and log posts answered 204. It returns a client and what ends it.
func bareLaunch(b *testing.B) (*http.Client, func()) {
	b.Helper()
	dir, err := os.MkdirTemp("", "bare")
	if err != nil {
		b.Fatal(err)
	}
	to, from := filepath.Join(dir, "to"), filepath.Join(dir, "from")
	socket, err := net.Listen("unix", from)
	if err != nil {
		b.Fatal(err)
	}
	host := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	})}
	go func() { _ = host.Serve(socket) }() // ends with Close
	for _, args := range [][]string{{"define"}, {"unpack", filepath.Join(dir, "files")}} {
		if _, err := exec.Command(os.Getenv(builtVar), args...).Output(); err != nil {
			b.Fatal(err)
		}
	}
	listen := exec.Command(os.Getenv(builtVar), "listen", to, from)
	stdout, err := listen.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := listen.Start(); err != nil {
		b.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "READY!\n" {
		b.Fatalf("got %q, %v", line, err)
	}
	client := &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 64,
		DialContext:         func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", to) },
	}}
	post(b, client, "config", []byte(`{"Name":"bare","demo/step":1}`))
	return client, func() {
		_ = listen.Process.Kill()
		_ = listen.Wait()
		_ = host.Close()
		_ = os.RemoveAll(dir)
	}
}

func post(b *testing.B, client *http.Client, path string, body []byte) []byte {
	response, err := client.Post("http://unix/api-plugin/v4/"+path, "application/json", bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	data, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if err != nil || response.StatusCode != http.StatusOK {
		b.Fatalf("%s: %d %s %v", path, response.StatusCode, data, err)
	}
	return data
}

func benchLaunch(b *testing.B) plugin.Instance {
	b.Helper()
	i, err := provider.New(provider.Options{}).Launch(context.Background(), conformance.NewLaunch(b, demo(b)))
	if err != nil {
		b.Fatal(err)
	}
	return i
}

// BenchmarkInvoke: user and system time of this process per operation too, beside
// the wall time, because the machine is shared.
func BenchmarkInvoke(b *testing.B) {
	b.Run("bare", func(b *testing.B) {
		client, end := bareLaunch(b)
		defer end()
		body := []byte(`{"Plugin":"demo","Command":"echo","CommandSet":"system","Model":null,"Params":{"n":1,"text":"some text"}}`)
		begun := ownTime(b)
		for b.Loop() {
			post(b, client, "action", body)
		}
		b.ReportMetric(float64(ownTime(b)-begun)/float64(b.N), "cpu-ns/op")
	})
	b.Run("adapter", func(b *testing.B) {
		i := benchLaunch(b)
		defer i.Stop(context.Background())
		in := plugin.Invocation{Operation: "echo", Data: []byte(`{"n":1,"text":"some text"}`)}
		begun := ownTime(b)
		for b.Loop() {
			if _, err := i.Invoke(context.Background(), in); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(ownTime(b)-begun)/float64(b.N), "cpu-ns/op")
	})
}

func ownTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkLaunch is from nothing to a configured provider, and its end by kill.
func BenchmarkLaunch(b *testing.B) {
	b.Run("bare", func(b *testing.B) {
		for b.Loop() {
			_, end := bareLaunch(b)
			end()
		}
	})
	b.Run("adapter", func(b *testing.B) {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		for b.Loop() {
			_ = benchLaunch(b).Stop(ended)
		}
	})
}
