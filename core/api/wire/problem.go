package wire

import (
	"errors"
	"net/http"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// ProblemBase begins the type of every problem; the class's code ends it.
const ProblemBase = "https://patchbay.dev/problems/"

// The codes of problems: the last part of their type. Each error class has one.
const (
	CodeInvalid      = "invalid"
	CodeUnauthorized = "unauthorized" // no token, or a wrong one
	CodeDenied       = "denied"
	CodeNotFound     = "not-found"
	CodeConflict     = "conflict"
	CodePrecondition = "precondition" // If-Match or If-None-Match does not hold
	CodeTooLarge     = "too-large"
	CodeBusy         = "busy"
	CodeRefusal      = "refusal" // the plugin's own no
	CodeUnavailable  = "unavailable"
	CodeDeadline     = "deadline"
	CodeMethod       = "method-not-allowed"
	CodeInternal     = "internal"
)

// Problem is an error as the API tells it: RFC 9457.
type Problem struct {
	Type     string `json:"type" doc:"https://patchbay.dev/problems/ and the code."`
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail,omitempty"`
	Instance string `json:"instance,omitempty" doc:"The path that was asked."`
	Code     string `json:"code" doc:"The class in one word, the end of type."`
	// Errors are the faults of a manifest.
	Errors []plugin.Fault `json:"errors,omitempty" doc:"Every fault of a manifest."`
	// Refusal is the plugin's own no, when code is refusal.
	Refusal *plugin.Refusal `json:"refusal,omitempty" doc:"The plugin's own code, message and details, when code is refusal."`
	// Results says what happened to each plugin when apply could not apply all.
	Results []Applied `json:"results,omitempty" doc:"What happened to each plugin when apply could not apply all."`
}

// kind is one row of the one table of error classes.
type kind struct {
	code   string
	status int
	title  string
	class  error
}

// kinds maps codes to HTTP and to error classes. Its order is the order in
// which an error is asked for its class: what is more telling stands first.
func kinds() []kind {
	return []kind{
		{CodeDeadline, http.StatusGatewayTimeout, "It did not answer in time", plugin.ErrDeadline},
		{CodeInvalid, http.StatusBadRequest, "The request is malformed", plugin.ErrInvalid},
		{CodeDenied, http.StatusForbidden, "Not permitted", plugin.ErrDenied},
		{CodeNotFound, http.StatusNotFound, "Not found", plugin.ErrNotFound},
		{CodeConflict, http.StatusConflict, "It was changed by somebody else", plugin.ErrConflict},
		{CodeBusy, http.StatusTooManyRequests, "A limit is reached", plugin.ErrBusy},
		{CodeUnavailable, http.StatusServiceUnavailable, "It cannot answer now", plugin.ErrUnavailable},
		// Codes that no class is told by: they are chosen where they are found.
		{CodeRefusal, http.StatusUnprocessableEntity, "The plugin refused", nil},
		{CodeUnauthorized, http.StatusUnauthorized, "The token is missing or wrong", plugin.ErrDenied},
		{CodePrecondition, http.StatusPreconditionFailed, "It has another revision", plugin.ErrConflict},
		{CodeTooLarge, http.StatusRequestEntityTooLarge, "The request is too large", plugin.ErrInvalid},
		{CodeMethod, http.StatusMethodNotAllowed, "No such method here", plugin.ErrInvalid},
		{CodeInternal, http.StatusInternalServerError, "Something is wrong in Patchbay", nil},
	}
}

// NewProblem makes a problem of one of the codes above.
func NewProblem(code, detail string) Problem {
	for _, k := range kinds() {
		if k.code == code {
			return Problem{Type: ProblemBase + code, Title: k.title, Status: k.status, Detail: detail, Code: code}
		}
	}
	return NewProblem(CodeInternal, detail)
}

// ProblemOf turns an error into a problem by its class.
func ProblemOf(err error) Problem {
	if refusal, ok := errors.AsType[*plugin.Refusal](err); ok {
		p := NewProblem(CodeRefusal, refusal.Message)
		p.Refusal, p.Status = refusal, refusal.HTTP()
		return p
	}
	p := NewProblem(codeOf(err), err.Error())
	if faults, ok := errors.AsType[plugin.Faults](err); ok {
		p.Errors, p.Detail = faults, summary(faults)
	}
	return p
}

func codeOf(err error) string {
	for _, k := range kinds() {
		if k.class != nil && errors.Is(err, k.class) {
			return k.code
		}
	}
	return CodeInternal
}

func summary(faults plugin.Faults) string {
	if len(faults) == 1 {
		return faults[0].String()
	}
	return faults[0].String() + ", and more: see errors"
}

// Class returns the error class of p, nil when it has none.
func (p Problem) Class() error {
	for _, k := range kinds() {
		if k.code == p.Code {
			return k.class
		}
	}
	return nil
}
