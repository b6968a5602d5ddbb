package api

import (
	"net/http"
	"strings"
	"sync"

	"github.com/labstack/echo/v4"

	"github.com/patchbay-dev/patchbay/core/api/wire"
)

// toldBytesMax is what headers tell of a plugin's metadata: about half of what clients
// take. What is beyond, or has no place in a header, is left out.
const toldBytesMax = 16 << 10

// told takes what a plugin says beside its answer, for a caller that asked for it. Nil
// takes nothing.
type told struct {
	all  bool
	keys map[string]bool

	mu    sync.Mutex
	size  int
	fresh []map[string]string // not written yet, as it was told
}

// toldOf reads what the caller wants to be told; nil: nothing.
func toldOf(c echo.Context) *told {
	asked := c.Request().Header[wire.WantMetadataHeader]
	if len(asked) == 0 {
		return nil
	}
	t := &told{keys: map[string]bool{}}
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
	kept := map[string]string{}
	for key, value := range metadata {
		if !t.all && !t.keys[key] || !validID(key) || key == "" || !plainText(value) || t.size+len(key)+len(value) > toldBytesMax {
			continue
		}
		t.size += len(key) + len(value)
		kept[key] = value
	}
	t.fresh = append(t.fresh, kept)
}

func plainText(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// headers writes what was told by now.
func (t *told) headers(to http.Header) { t.write(to, "", 0) }

// begin is headers for an answer in parts that begins: what was told first. The rest
// belongs behind it, however soon it came.
func (t *told) begin(to http.Header) { t.write(to, "", 1) }

// trailers is headers for an answer that has begun.
func (t *told) trailers(to http.Header) { t.write(to, http.TrailerPrefix, 0) }

// write writes at most so many of what was told; 0: all.
func (t *told) write(to http.Header, prefix string, most int) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if most == 0 || most > len(t.fresh) {
		most = len(t.fresh)
	}
	for _, metadata := range t.fresh[:most] {
		for key, value := range metadata {
			to.Set(prefix+wire.MetadataPrefix+key, value)
		}
	}
	t.fresh = t.fresh[most:]
}
