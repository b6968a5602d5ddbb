package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/bus"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

func keep(t *testing.T, v plugin.Values, key, value string) {
	t.Helper()
	if err := v.Put(t.Context(), key, []byte(value)); err != nil {
		t.Fatalf("put %q: %v", key, err)
	}
}

func kept(t *testing.T, v plugin.Values, key string) string {
	t.Helper()
	got, err := v.Get(t.Context(), key)
	if errors.Is(err, plugin.ErrNotFound) {
		return "-"
	}
	if err != nil {
		t.Fatalf("get %q: %v", key, err)
	}
	return string(got)
}

func listed(t *testing.T, v plugin.Values, prefix string) string {
	t.Helper()
	keys, err := v.List(t.Context(), prefix)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(keys, " ")
}

// stored is how many messages there are in the bucket.
func stored(t *testing.T, b *bus.Bus) uint64 {
	t.Helper()
	s, err := b.JetStream().Stream(t.Context(), valuesStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info.State.Msgs
}

func TestValues(t *testing.T) {
	b := openBus(t, bus.Options{})
	s := open(t, b)
	put(t, s, record("a", 1), Absent())
	put(t, s, record("b", 1), Absent())
	a, other := s.Values("a"), s.Values("b")
	if got := kept(t, a, "x"); got != "-" {
		t.Errorf("before the first: got %s", got)
	}
	if err := a.Delete(t.Context(), "x"); err != nil {
		t.Error(err)
	}
	if got := stored(t, b); got != 0 {
		t.Errorf("nothing was put, and there are %d", got)
	}
	odd := "core/. *>=%é\n\x00"
	for _, key := range []string{odd, "a/b", "a/c", "a.b", "A"} {
		keep(t, a, key, "of "+key)
		keep(t, a, key, "again "+key)
		if got := kept(t, a, key); got != "again "+key {
			t.Errorf("%q: got %q", key, got)
		}
	}
	keep(t, other, "a/b", "of b")
	keep(t, a, "empty", "")
	if got := kept(t, a, "empty"); got != "" {
		t.Errorf("empty: got %q", got)
	}
	// The next store on the same bus knows the same.
	for _, v := range []plugin.Values{a, open(t, b).Values("a")} {
		if got, want := listed(t, v, ""), "A a.b a/b a/c "+odd+" empty"; got != want {
			t.Errorf("list: got %q, want %q", got, want)
		}
		if got := listed(t, v, "a/"); got != "a/b a/c" {
			t.Errorf("list a/: got %q", got)
		}
	}
	if err := a.Delete(t.Context(), "a/b"); err != nil {
		t.Fatal(err)
	}
	if got := kept(t, a, "a/b") + kept(t, other, "a/b") + listed(t, a, "a/"); got != "-of ba/c" {
		t.Errorf("after delete: got %s", got)
	}
	if got := stored(t, b); got != 6 {
		t.Errorf("%d messages for 6 keys: marks of deletions stay", got)
	}
}

func TestValues_bounds(t *testing.T) {
	s := open(t, openBus(t, bus.Options{}))
	put(t, s, record("a", 1), Absent())
	v := s.Values("a")
	for _, tt := range []struct {
		key   string
		bytes int
		want  error
	}{
		{"", 1, plugin.ErrInvalid}, {strings.Repeat("/", plugin.ValueKeyBytesMax+1), 1, plugin.ErrInvalid}, {"k", plugin.ValueBytesMax + 1, plugin.ErrInvalid},
		{strings.Repeat("é", plugin.ValueKeyBytesMax/2), plugin.ValueBytesMax, nil},
	} {
		if err := v.Put(t.Context(), tt.key, make([]byte, tt.bytes)); !errors.Is(err, tt.want) {
			t.Errorf("key of %d, value of %d bytes: got %v, want %v", len(tt.key), tt.bytes, err, tt.want)
		}
	}
	one := s.values.of("a")
	one.bytes = plugin.ValuesBytesMaxEach - 10
	if err := v.Put(t.Context(), "k", make([]byte, 10)); !errors.Is(err, plugin.ErrBusy) {
		t.Errorf("too many bytes: got %v", err)
	}
	keep(t, v, "k", "123456789")
	keep(t, v, "k", "12345678")
	one.bytes = 0
	for i := range plugin.ValueKeysMax - len(one.keys) {
		one.keys[fmt.Sprint("n", i)] = 1
	}
	if err := v.Put(t.Context(), "more", nil); !errors.Is(err, plugin.ErrBusy) {
		t.Errorf("too many keys: got %v", err)
	}
	keep(t, v, "k", "as before")
}

// TestValues_goWithThePlugin, however its deletion goes on.
func TestValues_goWithThePlugin(t *testing.T) {
	b := openBus(t, bus.Options{})
	s := open(t, b)
	for _, name := range []string{"a", "ab"} {
		put(t, s, record(name, 1), Absent())
		keep(t, s.Values(name), "k", "old")
	}
	if err := s.Delete(t.Context(), "a", Any()); err != nil {
		t.Fatal(err)
	}
	if got := stored(t, b); got != 1 {
		t.Errorf("%d messages, want that of the other plugin", got)
	}
	if err := s.Values("a").Put(t.Context(), "k", nil); !errors.Is(err, plugin.ErrNotFound) {
		t.Errorf("put of a plugin that was deleted: got %v", err)
	}
	// Removal that came to nothing is made up for before anything is read.
	put(t, s, record("a", 1), Absent())
	keep(t, s.Values("a"), "k", "older")
	dead, cancel := context.WithCancel(t.Context())
	cancel()
	s.values.drop(dead, "a")
	if got := listed(t, s.Values("a"), "") + kept(t, s.Values("a"), "k"); got != "-" {
		t.Errorf("the next plugin of that name sees %q", got)
	}
	// So is one that a crash cut short.
	keep(t, s.Values("a"), "k", "oldest")
	if _, err := s.mark(t.Context(), "a", Any()); err != nil {
		t.Fatal(err)
	}
	next := open(t, b)
	if got := stored(t, b); got != 1 {
		t.Errorf("after the next start: %d messages", got)
	}
	if got := kept(t, next.Values("ab"), "k"); got != "old" {
		t.Errorf("the other plugin has %q", got)
	}
}

func TestValues_busGone(t *testing.T) {
	b := openBus(t, bus.Options{})
	s, err := Open(t.Context(), b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, record("a", 1), Absent())
	keep(t, s.Values("a"), "k", "v")
	b.Close()
	if err := s.Values("a").Put(t.Context(), "k", nil); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("put: got %v", err)
	}
	if _, err := s.Values("a").Get(t.Context(), "k"); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("get: got %v", err)
	}
}

func TestEscaped(t *testing.T) {
	for _, key := range []string{"a", "=", "=4", "=41", "a=zz", "é.*>", strings.Repeat("\xff", 512)} {
		if diff := cmp.Diff(key, unescaped(escaped(key))); diff != "" {
			t.Error(diff)
		}
	}
}
