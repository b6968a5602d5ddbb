// Package debuginfo reads out of a Go binary's DWARF data what a net/rpc plugin
// cannot say itself: which types have methods that net/rpc would serve, and the
// types of their arguments and answers.
//
// It owns no goroutine. A [Cache] keeps what was read by the digest of the binary
// and reads one binary at a time. It promises that no file makes it panic or use
// more memory than a few times the bounds below, and that it ends with its context.
package debuginfo

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/patchbay-dev/patchbay/adapters/goplugin/internal/describe"
)

const (
	// fileBytesMax and sectionBytesMax bound the binary and what is unpacked of it:
	// one of 18 MB has 5 MB of what is read, and the whole Terraform provider of AWS,
	// the largest known, some 100.
	fileBytesMax    = 1 << 30
	sectionBytesMax = 256 << 20
	// typesMax bounds the named types of one description, as describe does.
	typesMax = 1000
	// methodsMax bounds the methods that look as if net/rpc served them.
	methodsMax = 1000
	// depthMax ends types that nest without a name.
	depthMax = 64
	// keepMax is how many binaries are remembered; a description is a few KiB.
	keepMax = 64
)

// Found is what a binary has: a description by each Go type with methods for
// net/rpc, as main.Service.
type Found map[string]describe.Description

// Choose returns the description of a Go type, or of the only one when goType is
// empty.
func (f Found) Choose(goType string) (describe.Description, error) {
	if d, ok := f[goType]; ok {
		return d, nil
	}
	names := strings.Join(slices.Sorted(maps.Keys(f)), ", ")
	switch {
	case len(f) == 0:
		return describe.Description{}, fmt.Errorf("no type of the binary has methods for net/rpc: (args, *reply) error")
	case goType != "":
		return describe.Description{}, fmt.Errorf("the binary has no type %q with methods for net/rpc; it has %s", goType, names)
	case len(f) > 1:
		return describe.Description{}, fmt.Errorf("several types of the binary have methods for net/rpc; write one of them as type: %s", names)
	}
	return f[names], nil
}

// A Cache remembers what was read. It is safe for concurrent use.
type Cache struct {
	turn chan struct{} // holds one token: whoever has it reads a binary

	mu    sync.Mutex
	known map[[sha256.Size]byte]Found
}

// NewCache returns an empty cache.
func NewCache() *Cache {
	c := &Cache{turn: make(chan struct{}, 1), known: map[[sha256.Size]byte]Found{}}
	c.turn <- struct{}{}
	return c
}

// Read returns what the binary has. The Found is shared: it is not to be changed.
func (c *Cache) Read(ctx context.Context, path string) (Found, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	digest, err := digestOf(f)
	if err != nil {
		return nil, err
	}
	if found := c.lookUp(digest); found != nil {
		return found, nil
	}
	select {
	case <-c.turn:
		defer func() { c.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if found := c.lookUp(digest); found != nil {
		return found, nil
	}
	found, err := read(ctx, f)
	if err == nil {
		c.keep(digest, found)
	}
	return found, err
}

func digestOf(f *os.File) (digest [sha256.Size]byte, err error) {
	info, err := f.Stat()
	switch {
	case err != nil:
		return digest, err
	case !info.Mode().IsRegular() || info.Size() > fileBytesMax:
		return digest, fmt.Errorf("it is no file of at most %d bytes", fileBytesMax)
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, fileBytesMax)); err != nil {
		return digest, err
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

func (c *Cache) lookUp(digest [sha256.Size]byte) Found {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[digest]
}

func (c *Cache) keep(digest [sha256.Size]byte, found Found) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= keepMax {
		clear(c.known) // read again when it is wanted
	}
	c.known[digest] = found
}
