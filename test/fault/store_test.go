package fault

import (
	"errors"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

// TestForgedManifests writes into the store what no daemon of this version writes: those
// plugins fail and say why, and all others go on, before and after a restart.
func TestForgedManifests(t *testing.T) {
	ns := startNATS(t, folder(t), server.RANDOM_PORT)
	url := "nats://127.0.0.1:" + strconv.Itoa(ns.Addr().(*net.TCPAddr).Port)
	d := serve(t, folder(t), "--nats-url", url)
	good, turns := processKinds()[0], processKinds()[0]
	good.name, turns.name = "good", "turns"
	d.applyAll([]kind{good, turns})
	before := pidOf(t, d.until("good", plugin.Running))
	forge(t, url, map[string]string{
		"turns":   `{"manifest":{"apiVersion":"patchbay/v9","kind":"Plugin","metadata":{"name":"turns"},"spec":{"starlark":{"source":"x = 1"}}},"generation":9,"desired":"running"}`,
		"rubbish": "no json",
		"newer":   `{"manifest":{"apiVersion":"patchbay/v1","kind":"Plugin","metadata":{"name":"newer"},"spec":{"quantum":{"qubits":1}}},"generation":1,"desired":"running"}`,
		"wrong":   `{"manifest":{"apiVersion":"patchbay/v1","kind":"Plugin","metadata":{"name":"wrong"},"spec":{"provider":{"command":7}}},"generation":1,"desired":"running"}`,
		"block":   `{"manifest":{"apiVersion":"patchbay/v1","kind":"Plugin","metadata":{"name":"block"},"spec":{"provider":{"command":[]},"limits":{"inFlight":-1}}},"generation":1,"desired":"running"}`,
	})
	for _, life := range []string{"as it comes", "at the boot"} {
		for name, word := range map[string]string{"turns": "patchbay/v9", "rubbish": "no record in JSON", "newer": "quantum", "wrong": "spec.provider.command", "block": "inFlight"} {
			r := d.until(name, plugin.Failed)
			if !strings.Contains(strings.ToLower(r.Status.Message), strings.ToLower(word)) {
				t.Errorf("%s, %s: got %q, want %s", life, name, r.Status.Message, word)
			}
		}
		if err := d.none("turns"); err != nil {
			t.Errorf("%s: %v", life, err)
		}
		if pid := pidOf(t, d.until("good", plugin.Running)); pid != before {
			t.Errorf("%s: good has pid %d, want %d", life, pid, before)
		}
		if life == "as it comes" {
			d.kill()
			d = d.again("--nats-url", url)
		}
	}
	if _, err := d.Restart(t.Context(), "newer"); !errors.Is(err, plugin.ErrConflict) {
		t.Errorf("restart: got %v, want a conflict", err)
	}
	d.apply(turns.manifest(habits{}))
	d.until("turns", plugin.Running)
	if err := d.Delete(t.Context(), "rubbish", client.Expect{}); err != nil {
		t.Error(err)
	}
	d.stop()
}

// forge puts records into the store, past the daemon.
func forge(t *testing.T, url string, records map[string]string) {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), "patchbay-desired")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range records {
		if _, err := kv.Put(t.Context(), name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
}
