package portable_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/patchbay-dev/patchbay/adapters/portable"
	"github.com/patchbay-dev/patchbay/adapters/portable/sp"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// This test binary is also a plugin that misbehaves, when its first argument is
// the one that plugins get. How is its file's name.
const fakeArgument = `{"sendTimeout":1000}`

// fakes are the ways to misbehave.
var fakes = map[string]func() error{
	"silent": silent, "forgetful": forgetful,
	"mute": says(""), "hybrid": says("GET / HTTP/1.1\r\n\r\n"), "huge": says(greeting + "\x01\x40\x00\x00\x00\x00\x00\x00\x00"),
	"large": says(greeting + "\x01\x00\x00\x00\x00\x7f\x00\x00\x00few"), "asks": says(greeting + "\x01\x00\x00\x00\x00\x00\x00\x00\x02hi"),
}

// greeting is what a REQ socket says first.
const greeting = "\x00SP\x00\x00\x30\x00\x00"

// fake is the manifest of a plugin that misbehaves in that way.
func fake(t *testing.T, how string) plugin.Manifest {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(filepath.Dir(self), how) // beside it, so that both are visible
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	block, err := json.Marshal(portable.Spec{Language: "go", Executable: path, Name: "fake", Functions: []string{"once"}})
	if err != nil {
		t.Fatal(err)
	}
	m := tinyManifest(t)
	m.Spec.Block = block
	return m
}

// silent never connects.
func silent() error {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	<-term
	return nil
}

// says connects, says that and no more.
func says(text string) func() error {
	return func() error {
		conn, err := net.Dial("unix", "/tmp/plugin_fake.ipc")
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, text); err != nil {
			return err
		}
		return silent()
	}
}

// forgetful closes its function's connection upon the second call, and comes back
// only when it is started again.
func forgetful() error {
	return request("plugin_fake", func([]byte) ([]byte, bool) {
		go func() { // ends with its one call
			if err := request("func_once", once()); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}()
		return []byte("ok"), true
	})
}

func once() func([]byte) ([]byte, bool) {
	asked := 0
	return func([]byte) ([]byte, bool) {
		asked++
		return []byte(`{"state":true,"result":"done"}`), asked == 1
	}
}

// request is a REQ socket that says handshake and then answers, until answer
// reports false: then it hangs up instead.
func request(socket string, answer func([]byte) ([]byte, bool)) error {
	conn, err := sp.Dial(context.Background(), "/tmp/"+socket+".ipc", sp.Handler{Own: sp.Req, Limit: 1 << 20})
	if err != nil {
		return err
	}
	defer conn.Close()
	said, more := []byte("handshake"), true
	for id := byte(1); more; id++ {
		if err := conn.Send([]byte{0x80, 0, 0, id}, said); err != nil {
			return err
		}
		command, err := conn.Recv(nil)
		if err != nil {
			return err
		}
		if said, more = answer(command[4:]); !more {
			return nil
		}
	}
	return nil
}
