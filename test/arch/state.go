package arch

import (
	"go/ast"
	"go/token"
)

// noPackageState: a package-level variable is never assigned to, and is none of
// the types that exist to be changed.
func noPackageState(h House) []string {
	var found []string
	for _, files := range h.Packages() {
		vars := packageVars{names: map[string]bool{}, specs: map[any]bool{}}
		for _, f := range files {
			if !f.IsTest() {
				found = append(found, vars.add(f)...)
			}
		}
		found = append(found, House{Files: files}.each(product, vars.assigned)...)
	}
	return found
}

// packageVars are the variables of one package.
type packageVars struct {
	names map[string]bool
	specs map[any]bool // *ast.ValueSpec, as ast.Object.Decl has it
}

// add takes in the variables of one file and reports the changeable ones.
func (v packageVars) add(f File) []string {
	var found []string
	for _, d := range f.AST.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.VAR {
			continue
		}
		for _, s := range g.Specs {
			spec := s.(*ast.ValueSpec)
			v.specs[spec] = true
			for _, name := range spec.Names {
				v.names[name.Name] = name.Name != "_"
			}
			if changeable(spec) {
				found = append(found, f.At(spec)+": package-level "+spec.Names[0].Name+" exists to be changed")
			}
		}
	}
	return found
}

// changeable: sync.Mutex, atomic.Int64, a channel. A sync.Pool holds no state
// that anybody can see.
func changeable(spec *ast.ValueSpec) bool {
	switch t := spec.Type.(type) {
	case *ast.ChanType:
		return true
	case *ast.SelectorExpr:
		x, ok := t.X.(*ast.Ident)
		return ok && (x.Name == "atomic" || x.Name == "sync" && t.Sel.Name != "Pool")
	}
	return false
}

// assigned reports an assignment to one of the variables, or into one.
func (v packageVars) assigned(_ File, n ast.Node) string {
	var targets []ast.Expr
	switch s := n.(type) {
	case *ast.AssignStmt:
		if s.Tok != token.DEFINE {
			targets = s.Lhs
		}
	case *ast.IncDecStmt:
		targets = []ast.Expr{s.X}
	}
	for _, target := range targets {
		if id := root(target); id != nil && v.holds(id) {
			return "assigns to the package-level variable " + id.Name
		}
	}
	return ""
}

// holds uses the parser's own resolution, which knows one file: an identifier
// without an object is of another file of the package.
func (v packageVars) holds(id *ast.Ident) bool {
	return v.names[id.Name] && (id.Obj == nil || v.specs[id.Obj.Decl])
}

// root is the variable that an assignment changes: m in m[k].f = v.
func root(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.IndexExpr:
			e = x.X
		case *ast.SelectorExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return nil
		}
	}
}
