// Package arch keeps the rules of the house: which folder may import which,
// where each library lives, and the habits of conventions.md that a machine can
// see. Its tests run every rule on the tree and, so that no rule sleeps, every
// rule on a small sample that breaks it.
//
// A new library, folder or edge between packages is a decision: it is made here,
// with its reason, and reviewed here.
package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// Module is the import path of the house.
const Module = "github.com/patchbay-dev/patchbay"

// House is the tree as the rules see it.
type House struct {
	// Top is what lies in the root folder.
	Top []string
	// Folders is every folder, by its path from the root.
	Folders map[string]bool
	Files   []File
}

// File is one Go file.
type File struct {
	// Path is from the root: "core/bus/bus.go".
	Path string
	Text string
	AST  *ast.File
	fset *token.FileSet
}

// Folder is where the file lies; the root is ".".
func (f File) Folder() string { return path.Dir(f.Path) }

// IsTest reports whether the file serves tests only.
func (f File) IsTest() bool {
	return strings.HasSuffix(f.Path, "_test.go") || under(f.Path, "test")
}

// IsGenerated reports whether a program wrote the file; habits are for people.
func (f File) IsGenerated() bool { return ast.IsGenerated(f.AST) }

// At is the file and line of a node.
func (f File) At(n ast.Node) string {
	return fmt.Sprintf("%s:%d", f.Path, f.fset.Position(n.Pos()).Line)
}

// Imports lists the import paths.
func (f File) Imports() []string {
	var paths []string
	for _, spec := range f.AST.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

// ignored are folders that are no part of the house: what git keeps, what is
// built, what a daemon stores.
var ignored = []string{".git", "bin", ".patchbay", "node_modules", "testdata", "__pycache__"}

// Load reads the tree under root.
func Load(root string) (House, error) {
	h := House{Folders: map[string]bool{}}
	top, err := os.ReadDir(root)
	if err != nil {
		return h, err
	}
	for _, entry := range top {
		h.Top = append(h.Top, entry.Name())
	}
	return h, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains(ignored, d.Name()):
			return filepath.SkipDir
		case d.IsDir():
			h.Folders[rel] = true
			return nil
		case filepath.Ext(p) != ".go":
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		return h.Add(rel, string(text))
	})
}

// Add parses one file into the house.
func (h *House) Add(path, text string) error {
	fset := token.NewFileSet()
	tree, err := parser.ParseFile(fset, path, text, parser.ParseComments)
	if err != nil {
		return err
	}
	h.Files = append(h.Files, File{Path: path, Text: text, AST: tree, fset: fset})
	return nil
}

// Packages groups the files by folder.
func (h House) Packages() map[string][]File {
	all := map[string][]File{}
	for _, f := range h.Files {
		all[f.Folder()] = append(all[f.Folder()], f)
	}
	return all
}

// Adapters lists the adapters: the folders in adapters, but for internal.
func (h House) Adapters() []string {
	found := map[string]bool{}
	for _, f := range h.Files {
		parts := strings.Split(f.Path, "/")
		if len(parts) > 2 && parts[0] == "adapters" && parts[1] != "internal" {
			found[parts[1]] = true
		}
	}
	var names []string
	for name := range found {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// under reports whether p is folder or lies in it.
func under(p, folder string) bool { return p == folder || strings.HasPrefix(p, folder+"/") }
