package bus

import (
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

const (
	wantHeader = "Patchbay-Want-Metadata"
	metaPrefix = "Patchbay-Meta-"
	// toldBytesMax is what headers tell of a plugin's metadata. What is beyond, or has
	// no place in a header, is left out.
	toldBytesMax = 16 << 10
)

// told takes what a plugin says beside its answer, for a caller that asked for it. Nil
// takes nothing.
type told struct {
	all  bool
	keys map[string]bool

	mu    sync.Mutex
	size  int
	fresh map[string]string // not sent yet
}

// toldOf reads what the caller wants to be told; nil: nothing.
func toldOf(m *nats.Msg) *told {
	asked := m.Header.Values(wantHeader)
	if len(asked) == 0 {
		return nil
	}
	t := &told{keys: map[string]bool{}, fresh: map[string]string{}}
	for key := range strings.SplitSeq(strings.Join(asked, ","), ",") {
		key = strings.ToLower(strings.TrimSpace(key))
		t.keys[key] = true
		t.all = t.all || key == "*"
	}
	return t
}

// take is plugin.Invocation.Told.
func (t *told) take(metadata map[string]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, value := range metadata {
		if !t.all && !t.keys[key] || !headerKey(key) || !headerValue(value) || t.size+len(key)+len(value) > toldBytesMax {
			continue
		}
		t.size += len(key) + len(value)
		t.fresh[key] = value
	}
}

// into adds what was told since the last time.
func (t *told) into(h nats.Header) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, value := range t.fresh {
		h[metaPrefix+key] = []string{value}
	}
	clear(t.fresh)
}

func headerKey(s string) bool {
	for i := range len(s) {
		if !plainByte(s[i]) && s[i] != '.' {
			return false
		}
	}
	return s != ""
}

func headerValue(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}
