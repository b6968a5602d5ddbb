package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// each visits every node of every file that is wanted.
func (h House) each(want func(File) bool, visit func(File, ast.Node) string) []string {
	var found []string
	for _, f := range h.Files {
		if !want(f) {
			continue
		}
		ast.Inspect(f.AST, func(n ast.Node) bool {
			if n == nil {
				return false
			}
			if problem := visit(f, n); problem != "" {
				found = append(found, f.At(n)+": "+problem)
			}
			return true
		})
	}
	return found
}

func every(f File) bool   { return !f.IsGenerated() }
func product(f File) bool { return !f.IsTest() && !f.IsGenerated() }

// packageComments: every package says what it is for, in one of its files.
func packageComments(h House) []string {
	var found []string
	for folder, files := range h.Packages() {
		says, has := false, false
		for _, f := range files {
			if strings.HasSuffix(f.Path, "_test.go") {
				continue
			}
			has = true
			doc := f.AST.Doc.Text()
			says = says || strings.HasPrefix(doc, "Package "+f.AST.Name.Name+" ") || f.AST.Name.Name == "main" && doc != ""
		}
		if has && !says {
			found = append(found, folder+`: no package comment that begins with "Package NAME " (a command: any)`)
		}
	}
	return found
}

func noInit(h House) []string {
	return h.each(every, func(_ File, n ast.Node) string {
		if d, ok := n.(*ast.FuncDecl); ok && d.Recv == nil && d.Name.Name == "init" {
			return "func init"
		}
		return ""
	})
}

// blankImports lists the ones with a reason.
var blankImports = map[string]string{
	"embed":                                  "//go:embed into a string or []byte needs it",
	"go.nanomsg.org/mangos/v3/transport/ipc": "a transport is chosen by importing it",
	"go.nanomsg.org/mangos/v3/transport/all": "a transport is chosen by importing it",
}

func noBlankImports(h House) []string {
	return h.each(every, func(_ File, n ast.Node) string {
		spec, ok := n.(*ast.ImportSpec)
		if !ok || spec.Name == nil || spec.Name.Name != "_" {
			return ""
		}
		if p, _ := strconv.Unquote(spec.Path.Value); blankImports[p] == "" {
			return "blank import of " + p
		}
		return ""
	})
}

// topAllowed is the root folder of design.md, and what git, CI and people keep there.
var topAllowed = []string{
	"cmd", "core", "adapters", "manifests", "sdk", "deploy", "test",
	"go.mod", "go.sum", "Makefile", "README.md", "LICENSE", "CHANGELOG.md",
	".git", ".github", ".ci", ".gitignore", ".gitattributes", ".dockerignore", "bin", ".patchbay",
}

func topFolders(h House) []string {
	var found []string
	for _, name := range h.Top {
		if !slices.Contains(topAllowed, name) {
			found = append(found, name+": not one of "+strings.Join(topAllowed, " "))
		}
	}
	return found
}

// testsOnly leaves out the tiny plugins: one of their operations is to be slow.
func testsOnly(f File) bool { return f.IsTest() && !under(f.Path, "test/plugins") }

func noSleep(h House) []string {
	return h.each(testsOnly, func(_ File, n ast.Node) string { return selected(n, "time", "Sleep") })
}

func noSkip(h House) []string {
	return h.each(testsOnly, func(_ File, n ast.Node) string {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return ""
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
			return sel.Sel.Name + ": a test that cannot run fails"
		}
		return ""
	})
}

func selected(n ast.Node, pkg, name string) string {
	sel, ok := n.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != name {
		return ""
	}
	if x, ok := sel.X.(*ast.Ident); ok && x.Name == pkg {
		return pkg + "." + name
	}
	return ""
}

var (
	todoWord  = regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b`)
	withIssue = regexp.MustCompile(`#\d+|issue \d+`)
)

func noBareTodo(h House) []string {
	var found []string
	for _, f := range h.Files {
		for _, group := range f.AST.Comments {
			for _, c := range group.List {
				if todoWord.MatchString(c.Text) && !withIssue.MatchString(c.Text) {
					found = append(found, f.At(c)+": says that something is to be done and names no issue")
				}
			}
		}
	}
	return found
}

// launches are the ways to begin a process.
var launches = map[string][]string{
	"exec":    {"Command", "CommandContext"},
	"os":      {"StartProcess"},
	"syscall": {"ForkExec", "StartProcess", "Exec"},
	"unix":    {"Exec"},
}

// oneLauncher: only proc begins processes; looking an executable up is free.
func oneLauncher(h House) []string {
	elsewhere := func(f File) bool { return product(f) && !under(f.Path, "adapters/internal/proc") }
	return h.each(elsewhere, func(_ File, n ast.Node) string {
		for pkg, names := range launches {
			for _, name := range names {
				if call := selected(n, pkg, name); call != "" {
					return call + " outside adapters/internal/proc"
				}
			}
		}
		return ""
	})
}

// serveLinesMost is from design.md: who builds everything decides nothing.
const serveLinesMost = 150

func serveIsShort(h House) []string {
	lines := 0
	for _, f := range h.Packages()["cmd/patchbay/internal/serve"] {
		if !f.IsTest() {
			lines += codeLines(f.Text)
		}
	}
	if lines > serveLinesMost {
		return []string{fmt.Sprintf("cmd/patchbay/internal/serve: %d lines, want at most %d", lines, serveLinesMost)}
	}
	return nil
}

// codeLines counts lines that are neither blank nor comment: a comment is never
// left out to keep a limit.
func codeLines(text string) int {
	n := 0
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "//") {
			n++
		}
	}
	return n
}

// coreKnowsNoAdapter: not by import (see imports), and not by name.
func coreKnowsNoAdapter(h House) []string {
	names := h.Adapters()
	inCore := func(f File) bool { return product(f) && under(f.Path, "core") }
	return h.each(inCore, func(_ File, n ast.Node) string {
		lit, ok := n.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return ""
		}
		if text, _ := strconv.Unquote(lit.Value); slices.Contains(names, text) {
			return "names the adapter " + text
		}
		return ""
	})
}

var emptyNames = []string{"util", "utils", "common", "types", "manager", "helpers", "helper", "misc", "base", "shared"}

func tellingNames(h House) []string {
	var found []string
	for folder := range h.Packages() {
		if slices.Contains(emptyNames, path.Base(folder)) {
			found = append(found, folder+": says nothing of what it is for")
		}
	}
	return found
}

// adaptersAreWhole: an adapter has its guard, its conformance test, its tiny
// plugin and its example.
func adaptersAreWhole(h House) []string {
	var found []string
	guarded := regexp.MustCompile(`\b_\s+plugin\.Adapter\s+= \(\*Adapter\)\(nil\)`)
	for _, name := range h.Adapters() {
		guard, suite := false, false
		for _, f := range h.Packages()["adapters/"+name] {
			guard = guard || guarded.MatchString(f.Text)
			suite = suite || strings.HasSuffix(f.Path, "_test.go") && strings.Contains(f.Text, "conformance.Run(")
		}
		for what, ok := range map[string]bool{
			"the guard var _ plugin.Adapter = (*Adapter)(nil)": guard,
			"a test that calls conformance.Run":                suite,
			"a tiny plugin in test/plugins/" + name:            h.Folders["test/plugins/"+name],
			"an example in manifests/examples/" + name:         h.Folders["manifests/examples/"+name],
		} {
			if !ok {
				found = append(found, "adapters/"+name+": lacks "+what)
			}
		}
	}
	return found
}
