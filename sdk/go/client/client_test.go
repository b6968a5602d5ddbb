package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestDataDirOf_nobodysHomeIsNoFolder(t *testing.T) {
	for _, tt := range []struct {
		user              int
		state, home, want string
	}{
		{0, "", "", "/var/lib/patchbay"}, {1, "/s", "/h", "/s/patchbay"}, {1, "", "/h", "/h/.local/state/patchbay"},
		{1, "", "", ""}, {1, "rel", "rel", ""},
	} {
		env := map[string]string{"XDG_STATE_HOME": tt.state, "HOME": tt.home}
		if got := dataDirOf(tt.user, func(name string) string { return env[name] }); got != tt.want {
			t.Errorf("%+v: got %q", tt, got)
		}
	}
}

func TestWait_afterTheDeadlineLooksOnceMore(t *testing.T) {
	r := plugin.Resource{Generation: 1, Status: plugin.Status{Generation: 1}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(r) }))
	defer s.Close()
	c, err := New(Options{URL: s.URL, Token: "x"})
	if err != nil {
		t.Fatal(err)
	}
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for state, want := range map[plugin.State]string{
		plugin.Running: "", plugin.Starting: "one: deadline: it is still starting", plugin.Failed: "it failed", "": "it has no state yet",
	} {
		r.Status.State = state
		r.Metadata.Name = "one"
		_, err := c.Wait(late, "one", IsRunning)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", state, err, want)
		}
	}
	s.Close()
	if _, err := c.Wait(late, "one", IsRunning); !errors.Is(err, plugin.ErrDeadline) || !strings.Contains(err.Error(), "cannot be said") {
		t.Errorf("no daemon: got %v", err)
	}
}

// eventServer gives one event and then ends the connection, the stream, or nothing.
func eventServer(t *testing.T, token string, sequence int, end string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", wire.SSEType)
		fmt.Fprintf(w, "id: %d\ndata: {\"specversion\":\"1.0\",\"id\":\"%d\",\"type\":\"a\",\"source\":\"/x\"}\n\n%s", sequence, sequence, end)
	}))
	t.Cleanup(s.Close)
	return s
}

// TestEvents_goOnBehindAGap: whoever named a place is told that it is not kept; a
// stream that only came back goes on.
func TestEvents_goOnBehindAGap(t *testing.T) {
	var asked []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Header.Get("Last-Event-ID"))
		w.Header().Set("Content-Type", wire.SSEType)
		tell := func(id int) {
			fmt.Fprintf(w, "id: %d\ndata: {\"specversion\":\"1.0\",\"id\":\"%d\",\"type\":\"a\",\"source\":\"/x\"}\n\n", id, id)
		}
		switch len(asked) {
		case 1:
			tell(99)
		case 2:
			fmt.Fprint(w, "event: gap\nid: 3\ndata: {\"lost\":\"99\",\"after\":\"3\",\"detail\":\"it goes on after 3\"}\n\n")
		case 3:
			tell(4)
			fmt.Fprint(w, "event: end\ndata: {}\n\n")
		default:
			fmt.Fprint(w, "event: gap\nid: 3\ndata: {\"lost\":\"7\",\"after\":\"3\",\"detail\":\"it goes on after 3\"}\n\n")
		}
	}))
	defer s.Close()
	var gaps []string
	c, err := New(Options{URL: s.URL, Token: "t", Gap: func(detail string) { gaps = append(gaps, detail) }})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for e, err := range c.Events(t.Context(), EventOptions{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, e.ID)
	}
	if got := strings.Join(ids, " "); got != "99 4" || strings.Join(asked, " ") != " 99 3" || len(gaps) != 1 || gaps[0] != "it goes on after 3" {
		t.Errorf("got events %s, places %q, gaps %q", got, asked, gaps)
	}
	for _, err := range c.Events(t.Context(), EventOptions{Follow: true, After: 7}) {
		if !errors.Is(err, plugin.ErrNotFound) || !strings.Contains(err.Error(), "it goes on after 3") {
			t.Errorf("a place of the caller's: got %v, want not found", err)
		}
	}
}

// TestEvents_thatCameEarlyDoNotComeAgain: events without an id, told while the
// daemon's bus was down, are in the history of the next connection.
func TestEvents_thatCameEarlyDoNotComeAgain(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		w.Header().Set("Content-Type", wire.SSEType)
		tell := func(sequence, id int) {
			if sequence > 0 {
				fmt.Fprintf(w, "id: %d\n", sequence)
			}
			fmt.Fprintf(w, "data: {\"specversion\":\"1.0\",\"id\":\"%d\",\"type\":\"a\",\"source\":\"/x\",\"time\":\"2026-01-01T00:00:0%dZ\"}\n\n", id, id)
		}
		switch asked {
		case 1:
			tell(7, 1)
			tell(0, 2)
			tell(0, 3)
		default:
			if got := r.Header.Get("Last-Event-ID"); got != "7" {
				t.Errorf("goes on after %q, want 7", got)
			}
			tell(8, 2)
			tell(9, 4)
			tell(10, 3)
			tell(11, 5)
			fmt.Fprint(w, "event: end\ndata: {}\n\n")
		}
	}))
	defer s.Close()
	c, err := New(Options{URL: s.URL, Token: "x"})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for e, err := range c.Events(t.Context(), EventOptions{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, e.ID)
	}
	if got := strings.Join(ids, " "); got != "1 2 3 4 5" || asked != 2 {
		t.Errorf("got events %s by %d connections, want 1 to 5 by 2", got, asked)
	}
}

func TestEvents_followTheDaemonToItsNewPort(t *testing.T) {
	dir := t.TempDir()
	write := func(url, token string) {
		for name, text := range map[string]string{wire.APIAddrFile: url, wire.APITokenFile: token} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	first := eventServer(t, "old", 1, "")
	second := eventServer(t, "new", 2, "event: end\ndata: {}\n\n")
	write(first.URL, "old")
	var links []bool
	c, err := New(Options{DataDir: dir, Link: func(why error) { links = append(links, why == nil) }})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for e, err := range c.Events(t.Context(), EventOptions{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if ids = append(ids, e.ID); e.ID == "1" {
			write(second.URL, "new")
			go first.Close() // it waits for the connection, which ends with this event
		}
	}
	if got := strings.Join(ids, " "); got != "1 2" {
		t.Errorf("got events %s, want 1 2", got)
	}
	if len(links) != 2 || links[0] || !links[1] {
		t.Errorf("got links %v, want gone and back, once each", links)
	}
}
