package plugin

import (
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"
)

// The seven error classes. They are wrapped with %w where the class becomes
// known; core/api maps them to HTTP.
var (
	ErrInvalid     = errors.New("invalid")     // 400: what was asked is malformed
	ErrDenied      = errors.New("denied")      // 403: not permitted
	ErrNotFound    = errors.New("not found")   // 404: no such plugin, operation, instance
	ErrConflict    = errors.New("conflict")    // 409: somebody else changed it, or it exists
	ErrBusy        = errors.New("busy")        // 429: a limit is reached; try later
	ErrUnavailable = errors.New("unavailable") // 503: it cannot answer now
	ErrDeadline    = errors.New("deadline")    // 504: it did not answer in time
)

// A Later is an error of something that may well work after a while.
type Later struct {
	Err   error
	After time.Duration
}

func (l *Later) Error() string { return l.Err.Error() }

// Unwrap gives the class.
func (l *Later) Unwrap() error { return l.Err }

// A Refusal is a plugin's own no: the plugin works, and declined. It is an error
// that Instance.Invoke returns, and HTTP 422 unless it has a status of its own.
type Refusal struct {
	// Code is the plugin's own word or number for it; may be empty.
	Code string `json:"code,omitempty"`
	// Message is the plugin's own text.
	Message string `json:"message"`
	// Details is the plugin's own structured answer, when it gave one.
	Details RawJSON `json:"details,omitempty"`
	// Status is the HTTP status that the plugin's manifest has for it, from 400 to
	// 599; without one it is the usual 422.
	Status int `json:"status,omitempty"`
}

func (r *Refusal) Error() string {
	if r.Code == "" {
		return "refused: " + r.Message
	}
	return "refused: " + r.Code + ": " + r.Message
}

// HTTP is the refusal's status: its own, or 422.
func (r *Refusal) HTTP() int {
	if r.Status < 400 || r.Status > 599 {
		return 422
	}
	return r.Status
}

// A Fault is one thing that is wrong with a manifest: where, what, and what
// would be right.
type Fault struct {
	// Path leads to the field: "spec.limits.memory".
	Path string `json:"path"`
	// Line and Column count from 1; 0 when unknown.
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
	Detail string `json:"detail"`
	// File and Document say which of several: the document counts from 1.
	File     string `json:"file,omitempty"`
	Document int    `json:"document,omitempty"`
}

func (f Fault) String() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File + ":")
	}
	if f.Line > 0 {
		fmt.Fprintf(&b, "%d:%d: ", f.Line, f.Column)
	} else if f.File != "" {
		b.WriteString(" ")
	}
	if f.Path != "" {
		b.WriteString(f.Path + ": ")
	}
	b.WriteString(f.Detail)
	return b.String()
}

// Faults is every fault of one input. It is an ErrInvalid.
type Faults []Fault

// Add appends a fault.
func (f *Faults) Add(path, format string, args ...any) {
	*f = append(*f, Fault{Path: path, Detail: fmt.Sprintf(format, args...)})
}

// Err returns nil when there are no faults, else the faults ordered by place.
func (f Faults) Err() error {
	if len(f) == 0 {
		return nil
	}
	sort.SliceStable(f, func(i, j int) bool {
		if f[i].Document != f[j].Document {
			return f[i].Document < f[j].Document
		}
		if f[i].Line != f[j].Line {
			return f[i].Line < f[j].Line
		}
		return f[i].Column < f[j].Column
	})
	return f
}

func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, one := range f {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes errors.Is(f, ErrInvalid) true.
func (f Faults) Unwrap() error { return ErrInvalid }
