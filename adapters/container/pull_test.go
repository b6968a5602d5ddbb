package container_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/container"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// registry listens on loopback, where an engine asks without TLS. It is a stub,
// for there is no registry here; what is asked of it, and what becomes of its
// answer, is the engine's own.
func registry(t *testing.T, h http.HandlerFunc) (address string, shut func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: h}
	go func() { _ = server.Serve(listener) }() // ends with Close
	t.Cleanup(func() { _ = server.Close() })
	return listener.Addr().String(), func() { _ = server.Close() }
}

func pulled(address string) plugin.Manifest {
	return manifestOf(plugin.Job, `{"image": "`+address+`/none:1", "args": ["x"]}`)
}

func TestPull_refusedAndUnreachable(t *testing.T) {
	asked := make(chan struct{}, 1)
	address, shut := registry(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		select {
		case asked <- struct{}{}:
		default:
		}
		http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`, http.StatusNotFound)
	})
	_, err := newAdapter(t).Launch(within(t), conformance.NewLaunch(t, pulled(address)))
	if !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "cannot be pulled") {
		t.Errorf("got %v, want plugin.ErrInvalid that says it cannot be pulled", err)
	}
	select {
	case <-asked:
	default:
		t.Error("the registry was not asked for the image")
	}
	shut()
	_, err = newAdapter(t).Launch(within(t), conformance.NewLaunch(t, pulled(address)))
	if !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("registry away: got %v, want plugin.ErrUnavailable", err)
	}
}

// A launch that gives up leaves the pull going; the next joins it and has its
// outcome; Close ends what is left.
func TestPull_outlivesItsLaunch(t *testing.T) {
	answer := make(chan struct{})
	manifests := make(chan struct{}, 16)
	address, _ := registry(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		manifests <- struct{}{}
		select {
		case <-answer:
			http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`, http.StatusNotFound)
		case <-r.Context().Done():
		}
	})
	a := container.New(container.Options{Node: node})
	ctx, cancel := context.WithTimeout(within(t), 300*time.Millisecond)
	defer cancel()
	_, err := a.Launch(ctx, conformance.NewLaunch(t, pulled(address)))
	if !errors.Is(err, plugin.ErrUnavailable) || !errors.Is(err, plugin.ErrDeadline) || !strings.Contains(err.Error(), "still being pulled") {
		t.Errorf("got %v, want that it is still being pulled", err)
	}
	before := len(manifests)
	close(answer)
	if _, err := a.Launch(within(t), conformance.NewLaunch(t, pulled(address))); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("the next launch: got %v, want the registry's no", err)
	}
	if before == 0 {
		t.Error("the registry was not asked for the image")
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if _, err := a.Launch(within(t), conformance.NewLaunch(t, pulled(address))); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("launch after close: got %v, want plugin.ErrUnavailable", err)
	}
}
