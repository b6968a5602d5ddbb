package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
)

// row is one line of the table. What there is none of is null.
type row struct {
	Name  string   `json:"name"`
	Ours  *float64 `json:"ours"`
	Bare  *float64 `json:"bare"`
	Unit  string   `json:"unit"`
	Ratio *float64 `json:"ratio"` // ours/bare
	Bar   string   `json:"bar"`   // empty: only reported
	Holds *bool    `json:"holds"` // null: only reported, or not measured
	Noisy bool     `json:"noisy"` // the machine was not steady enough to say
	Note  string   `json:"note,omitempty"`
}

// bar is what a figure must reach: a ratio, or the figure itself when there is
// nothing bare to compare it to.
type bar struct {
	sign  string // ">=", "<=", or "" for none
	value float64
}

func atLeast(v float64) bar { return bar{">=", v} }
func atMost(v float64) bar  { return bar{"<=", v} }

func (b bar) String() string {
	if b.sign == "" {
		return ""
	}
	return b.sign + " " + strconv.FormatFloat(b.value, 'g', -1, 64)
}

func pointer[T any](v T) *T { return &v }

// absolute is a row that is held to a limit by itself.
func absolute(name, unit string, ours float64, limit bar) row {
	r := row{Name: name, Ours: &ours, Unit: unit}
	r.judge(ours, limit)
	return r
}

// unmeasured is a row that says why there is no figure.
func unmeasured(name, unit, why string) row {
	return row{Name: name, Unit: unit, Note: "not measured: " + why}
}

func (r *row) judge(v float64, b bar) {
	r.Bar = b.String()
	switch b.sign {
	case ">=":
		r.Holds = pointer(v >= b.value)
	case "<=":
		r.Holds = pointer(v <= b.value)
	}
}

func (r *row) note(format string, args ...any) {
	if r.Note != "" {
		r.Note += "; "
	}
	r.Note += fmt.Sprintf(format, args...)
}

func (r *row) mark(format string, args ...any) {
	r.Noisy = true
	r.note("noisy: "+format, args...)
}

func (r row) verdict() string {
	switch {
	case r.Holds == nil:
		return "-"
	case *r.Holds && r.Noisy:
		return "yes (noisy)"
	case *r.Holds:
		return "yes"
	case r.Noisy:
		return "NO (noisy)"
	}
	return "NO"
}

func (r row) String() string {
	return strings.Join([]string{r.Name, figure(r.Ours), figure(r.Bare), r.Unit, figure(r.Ratio), dash(r.Bar), r.verdict(), r.Note}, " | ")
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// figure writes three digits that count.
func figure(v *float64) string {
	switch {
	case v == nil:
		return "-"
	case *v >= 100:
		return strconv.FormatFloat(*v, 'f', 0, 64)
	case *v >= 10:
		return strconv.FormatFloat(*v, 'f', 1, 64)
	}
	return strconv.FormatFloat(*v, 'f', 2, 64)
}

// report is all that was measured.
type report struct {
	Machine machine `json:"machine"`
	Rows    []row   `json:"rows"`
}

func (r report) print(out io.Writer) {
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "name\tours\tbare\tunit\tratio\tbar\tholds")
	short := 0
	for _, one := range r.Rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", one.Name, figure(one.Ours), figure(one.Bare), one.Unit,
			figure(one.Ratio), dash(one.Bar), one.verdict())
		if one.Holds != nil && !*one.Holds {
			short++
		}
	}
	_ = w.Flush()
	if short > 0 {
		fmt.Fprintf(out, "\n%d of %d rows fall short of their bar\n", short, len(r.Rows))
	}
}

// write replaces the file, whole or not at all.
func (r report) write(path string) error {
	var text bytes.Buffer
	to := json.NewEncoder(&text)
	to.SetEscapeHTML(false) // ">= 0.75" is for people, too
	to.SetIndent("", "  ")
	if err := to.Encode(r); err != nil {
		return err
	}
	part := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".part")
	if err := os.WriteFile(part, text.Bytes(), 0o644); err != nil {
		return err
	}
	return os.Rename(part, path)
}
