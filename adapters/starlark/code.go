package starlark

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"weak"

	"go.starlark.net/resolve"
	star "go.starlark.net/starlark"
	"go.starlark.net/syntax"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// sourceBytesMax bounds a module. The compiler is recursive, cannot be interrupted
// and in places quadratic: a hostile megabyte takes it 14 s, this size 2 s. It is
// some seven thousand lines.
const sourceBytesMax = 256 << 10

// keptMax is how many compiled modules that no instance uses are kept, so that
// Check and then Launch compile once.
const keptMax = 64

// source is the text of a module and where it came from.
type source struct {
	name string // in backtraces
	text []byte
	sum  [sha256.Size]byte
}

// digest returns the sum as manifests write it.
func (s source) digest() string { return "sha256:" + hex.EncodeToString(s.sum[:]) }

// read returns the module that the block names.
func read(m plugin.Manifest, b Block) (source, error) {
	s := source{name: "source.star", text: []byte(b.Source)}
	if b.Module != "" {
		path, err := m.Path(b.Module)
		if err != nil {
			return source{}, err
		}
		s.name = filepath.Base(path)
		if s.text, err = readFile(path); err != nil {
			return source{}, err
		}
	}
	if len(s.text) > sourceBytesMax {
		return source{}, fmt.Errorf("%s has more than %d bytes; split it", s.name, sourceBytesMax)
	}
	s.sum = sha256.Sum256(s.text)
	return s, nil
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, sourceBytesMax+1))
}

// code is one compiled module, shared by every instance of the same text.
type code struct {
	compile sync.Once
	program *star.Program
	faults  []string
	digest  string
	name    string
	// exported are the global names that may be operations, sorted.
	exported []string
}

type codeKey struct {
	name string
	sum  [sha256.Size]byte
}

// library keeps compiled modules for as long as somebody uses them.
type library struct {
	mu    sync.Mutex
	codes map[codeKey]weak.Pointer[code]
	kept  [keptMax]*code
	next  int
}

// load returns the compiled form of s; its faults say why there is none.
func (l *library) load(s source, names star.StringDict) *code {
	c := l.find(s)
	c.compile.Do(func() { c.build(s, names) })
	return c
}

func (l *library) find(s source) *code {
	key := codeKey{s.name, s.sum}
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.codes[key].Value(); c != nil {
		return c
	}
	c := &code{name: s.name, digest: s.digest()}
	if l.codes == nil {
		l.codes = map[codeKey]weak.Pointer[code]{}
	}
	l.codes[key] = weak.Make(c)
	l.kept[l.next] = c
	l.next = (l.next + 1) % keptMax
	runtime.AddCleanup(c, l.forget, key)
	return c
}

// forget drops the entry of a collected module, unless it was compiled anew.
func (l *library) forget(key codeKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.codes[key].Value() == nil {
		delete(l.codes, key)
	}
}

func (c *code) build(s source, names star.StringDict) {
	defer func() {
		if v := recover(); v != nil {
			c.faults = []string{fmt.Sprintf("cannot be compiled: %v", v)}
		}
	}()
	options := &syntax.FileOptions{While: true, Recursion: true, Set: true}
	file, program, err := star.SourceProgramOptions(options, s.name, s.text, names.Has)
	if err != nil {
		c.faults = faultTexts(err)
		return
	}
	for i := range program.NumLoads() {
		name, position := program.Load(i)
		c.faults = append(c.faults, fmt.Sprintf("%s: load(%q) is not supported; a plugin is one file, and calls others by host.invoke", position, name))
	}
	c.program = program
	for _, b := range file.Module.(*resolve.Module).Globals {
		if name := b.First.Name; !strings.HasPrefix(name, "_") {
			c.exported = append(c.exported, name)
		}
	}
	slices.Sort(c.exported)
}

// faultTexts returns each error of the compiler as "file:line:column: what".
func faultTexts(err error) []string {
	var list resolve.ErrorList
	if !errors.As(err, &list) {
		return []string{err.Error()}
	}
	const most = 20 // of one file; the first ones matter
	texts := make([]string, 0, len(list))
	for _, e := range list[:min(len(list), most)] {
		texts = append(texts, e.Pos.String()+": "+e.Msg)
	}
	return texts
}
