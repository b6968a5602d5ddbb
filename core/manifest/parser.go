package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// documentsMax bounds one upload. A thousand plugins in one file is a lot; more
// can be sent in several.
const documentsMax = 1000

// Parser reads manifests for a given set of adapters. It is safe for concurrent
// use.
type Parser struct {
	adapters map[string]plugin.Adapter
	names    []string // sorted
}

// NewParser returns a parser that knows these adapters.
func NewParser(adapters ...plugin.Adapter) *Parser {
	p := &Parser{adapters: make(map[string]plugin.Adapter, len(adapters))}
	for _, a := range adapters {
		p.adapters[a.Name()] = a
		p.names = append(p.names, a.Name())
	}
	slices.Sort(p.names)
	return p
}

// Parse reads every document of data, YAML or JSON, and checks it, Adapter.Check
// included. Defaults are not written in. The error is plugin.Faults: everything
// that is wrong in all documents, with file, document, line and column; then no
// manifest is returned.
//
// Empty documents are skipped; a file without any document is a fault. The same
// name twice is a fault.
func (p *Parser) Parse(file string, data []byte) ([]plugin.Manifest, error) {
	return p.ParseFrom(file, "", data)
}

// ParseFrom is Parse for manifests whose relative paths start from source: it
// becomes the metadata.source of those that have none, before they are checked.
func (p *Parser) ParseFrom(file, source string, data []byte) ([]plugin.Manifest, error) {
	if len(data) > plugin.ManifestBytesMax {
		return nil, plugin.Faults{{File: file, Detail: fmt.Sprintf(
			"has %d bytes, the most is %d; split it into several files", len(data), plugin.ManifestBytesMax)}}
	}
	r := reading{parser: p, file: file, source: source, names: map[string]int{}}
	fault := documents(data, r.document)
	if fault != nil {
		fault.File, fault.Document = file, r.count+1
		r.report.add(*fault)
	}
	if r.count == 0 && fault == nil {
		r.report.add(plugin.Fault{File: file, Detail: "holds no manifest; write apiVersion: " + plugin.APIVersion +
			", kind: " + plugin.Kind + ", metadata and spec"})
	}
	if err := r.report.err(); err != nil {
		return nil, err
	}
	return r.manifests, nil
}

// documents reads data as JSON when it is JSON, else as YAML. JSON is read by a
// scanner of our own because YAML refuses its tabs.
func documents(data []byte, each func(*node) bool) *plugin.Fault {
	if fault := notUTF8(data); fault != nil {
		return fault
	}
	start := bytes.TrimLeft(bytes.TrimPrefix(data, []byte("\ufeff")), " \t\r\n")
	if len(start) == 0 || start[0] != '{' {
		return yamlDocuments(data, each)
	}
	var read []*node
	fault := jsonDocuments(data, func(n *node) bool {
		read = append(read, n)
		return len(read) <= documentsMax
	})
	if fault != nil {
		inside := bytes.TrimLeft(start[1:], " \t\r\n")
		if len(inside) > 0 && inside[0] != '"' && inside[0] != '}' {
			return yamlDocuments(data, each) // a flow mapping: {apiVersion: ...}
		}
		if fault.Detail != tooDeep {
			fault.Detail = "is not JSON: " + fault.Detail
		}
	}
	for _, n := range read {
		if n.size > nodesMax {
			return &plugin.Fault{Line: n.line, Column: n.column, Detail: fmt.Sprintf("has more than %d nodes; split it", nodesMax)}
		}
		if !each(n) {
			return nil
		}
	}
	return fault
}

// reading is one call of Parse.
type reading struct {
	parser    *Parser
	file      string
	source    string
	count     int
	names     map[string]int // the document that has the name
	report    report
	manifests []plugin.Manifest
}

// document reads one document; it returns false when no more shall be read.
func (r *reading) document(root *node) bool {
	r.count++
	if r.count > documentsMax {
		r.report.add(plugin.Fault{File: r.file, Document: r.count, Line: root.line, Column: root.column,
			Detail: fmt.Sprintf("has more than %d documents; split it into several files", documentsMax)})
		return false
	}
	m, faults := r.parser.manifest(root, r.source)
	if name := m.Metadata.Name; name != "" {
		if first, twice := r.names[name]; twice {
			faults.Add("metadata.name", "%q is also the name of document %d; give each plugin its own", name, first)
		} else {
			r.names[name] = r.count
		}
	}
	type told struct{ path, detail string }
	seen := map[told]bool{}
	for _, f := range faults {
		if f.Line == 0 {
			f.Line, f.Column = locate(root, f.Path)
		}
		if key := (told{f.Path, f.Detail}); !seen[key] {
			seen[key] = true
			f.File, f.Document = r.file, r.count
			r.report.add(f)
		}
	}
	r.manifests = append(r.manifests, m)
	return !r.report.cut
}

// manifest reads one document's node. Faults without a line are still to be
// located by their path.
func (p *Parser) manifest(root *node, source string) (plugin.Manifest, plugin.Faults) {
	m, faults := p.decode(root, source)
	if root.kind != object {
		return m, faults
	}
	missing := false
	if m.Spec.Adapter == "" {
		missing = slices.ContainsFunc(faults, func(f plugin.Fault) bool {
			return strings.HasPrefix(f.Path, "spec.") && strings.HasPrefix(f.Detail, saysUnknown)
		})
	}
	return m, append(faults, p.check(m, missing)...)
}

// decode is manifest without what is checked beyond the types.
func (p *Parser) decode(root *node, source string) (plugin.Manifest, plugin.Faults) {
	d := decoder{adapters: p.names}
	var m plugin.Manifest
	d.value(nil, root, reflect.ValueOf(&m).Elem(), "")
	if root.kind != object {
		return m, d.report.faults
	}
	if m.Metadata.Source == "" {
		m.Metadata.Source = source
	}
	spec := &place{key: "spec", index: -1}
	for i, f := range d.blocks {
		if i > 0 {
			if f.key == m.Spec.Adapter {
				d.duplicate(spec.in(f.key), f)
			} else {
				d.fault(spec.in(f.key), f.line, f.column, "is a second adapter beside %s; keep one", m.Spec.Adapter)
			}
			continue
		}
		m.Spec.Adapter, m.Spec.Block = f.key, f.value.appendJSON(nil)
	}
	return m, d.report.faults
}

// CheckStored returns the faults of a manifest in JSON that is in the store, which
// another version may have written: all but those that depend on the machine, which a
// launch tells. The error is plugin.Faults.
func (p *Parser) CheckStored(data []byte) error {
	var faults plugin.Faults
	count := 0
	fault := documents(data, func(root *node) bool {
		count++
		m, found := p.decode(root, "")
		faults = append(faults, found...)
		if root.kind == object && len(found) == 0 {
			faults = append(append(faults, common(m)...), p.adapter(m, false)...)
		}
		return true
	})
	if fault != nil {
		faults = append(faults, *fault)
	} else if count != 1 {
		faults.Add("", "holds %d manifests; want one", count)
	}
	for i := range faults {
		faults[i].Line, faults[i].Column = 0, 0 // nobody sees the text
	}
	return faults.Err()
}

// adapter says whether there is the adapter that m names. adapterTold is true when a
// misspelt one was reported already.
func (p *Parser) adapter(m plugin.Manifest, adapterTold bool) (faults plugin.Faults) {
	_, known := p.adapters[m.Spec.Adapter]
	switch {
	case known:
	case m.Spec.Adapter != "":
		faults.Add("spec."+m.Spec.Adapter, "is no adapter%s; known: %s",
			didYouMean(m.Spec.Adapter, p.names), strings.Join(p.names, ", "))
	case !adapterTold:
		faults.Add("spec", "names no adapter; give exactly one of %s", strings.Join(p.names, ", "))
	}
	return faults
}

// Check returns the faults of one manifest that was already decoded, such as one
// from the store, without lines. The error is plugin.Faults.
func (p *Parser) Check(m plugin.Manifest) error {
	faults := p.check(m, false)
	tags(&faults, nil, reflect.ValueOf(m))
	return faults.Err()
}

// check is what must hold beyond the types: of every manifest, then what the
// adapter says. adapterTold is true when a misspelt adapter was reported already.
func (p *Parser) check(m plugin.Manifest, adapterTold bool) plugin.Faults {
	faults := append(common(m), p.adapter(m, adapterTold)...)
	adapter, known := p.adapters[m.Spec.Adapter]
	if !known {
		return faults
	}
	faults = append(faults, asFaults("spec."+m.Spec.Adapter, adapter.Check(m))...)
	if m.Spec.Update == plugin.Overlap && len(faults) == 0 {
		if err := plugin.MayOverlap(adapter, m); err != nil {
			faults.Add("spec.update", "cannot be overlap: %s; leave it out", err)
		}
	}
	if m.Spec.Instances > 1 && len(faults) == 0 {
		if err := plugin.MayCoexist(adapter, m); err != nil {
			faults.Add("spec.instances", "%d is too many: %s; leave it out", m.Spec.Instances, err)
		}
	}
	for _, f := range beyondDecode(adapter, m) {
		if !slices.Contains(faults, f) {
			faults = append(faults, f)
		}
	}
	return faults
}

// asFaults returns what Adapter.Check said as faults.
func asFaults(path string, err error) plugin.Faults {
	if err == nil {
		return nil
	}
	var faults plugin.Faults
	if errors.As(err, &faults) {
		return faults
	}
	faults.Add(path, "%s", err)
	return faults
}
