package goplugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	// textBytesMax bounds the text of an error, and detailBytesMax its details in JSON:
	// both travel as headers, of which Patchbay takes 1 MiB.
	textBytesMax   = 16 << 10
	detailBytesMax = 256 << 10
)

// A Refusal is an operation's no that says more than its text.
type Refusal struct {
	// Code is what callers see as the refusal's code: codes.NotFound is NotFound. The
	// preset patchbay gives the usual ones their HTTP status; Unavailable, Canceled
	// and Unimplemented say that the plugin cannot be asked.
	Code    codes.Code
	Message string
	// Details are shown as JSON; nil: none.
	Details any
}

// Refuse makes a refusal of a code and a text.
func Refuse(code codes.Code, format string, arguments ...any) *Refusal {
	return &Refusal{Code: code, Message: fmt.Sprintf(format, arguments...)}
}

// With returns a copy that has details, which encoding/json has to be able to write.
func (r *Refusal) With(details any) *Refusal {
	return &Refusal{r.Code, r.Message, details}
}

func (r *Refusal) Error() string { return r.Message }

// GRPCStatus is the refusal as it travels: details are a google.protobuf.Struct if they
// are an object, else a Value.
func (r *Refusal) GRPCStatus() *status.Status {
	s := status.New(r.Code, cut(r.Message)).Proto()
	if r.Code == codes.OK {
		s.Code = int32(codes.Unknown)
	}
	if r.Details != nil {
		detail, err := detailOf(r.Details)
		if err != nil {
			s.Message += fmt.Sprintf(" (its details are left out: %v)", err)
		} else {
			s.Details = append(s.Details, detail)
		}
	}
	return status.FromProto(s)
}

func detailOf(details any) (*anypb.Any, error) {
	text, err := json.Marshal(details)
	if err != nil {
		return nil, err
	}
	if len(text) > detailBytesMax {
		return nil, fmt.Errorf("%d bytes; at most %d", len(text), detailBytesMax)
	}
	value := &structpb.Value{}
	if err := protojson.Unmarshal(text, value); err != nil {
		return nil, err
	}
	if object := value.GetStructValue(); object != nil {
		return anypb.New(object)
	}
	return anypb.New(value)
}

// An argumentError is about what the caller sent.
type argumentError struct{ error }

// An answerError is about what the method returned.
type answerError struct{ error }

// asStatus sorts what a method returned.
func asStatus(ctx context.Context, name string, err error) error {
	var argument *argumentError
	var answer *answerError
	var no *Refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &argument):
		return status.Error(codes.InvalidArgument, cut(fmt.Sprintf("argument: %v", argument.error)))
	case errors.As(err, &answer):
		return status.Error(codes.Internal, cut(fmt.Sprintf("%s: the answer: %v", name, answer.error)))
	case errors.As(err, &no):
		if no.Message != err.Error() { // it is wrapped
			no = &Refusal{no.Code, err.Error(), no.Details}
		}
		return no.GRPCStatus().Err()
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return status.FromContextError(ctx.Err()).Err()
	}
	if s, ok := status.FromError(err); ok {
		return s.Err()
	}
	return status.Error(codes.Unknown, cut(err.Error()))
}

// cut keeps a text sendable.
func cut(text string) string {
	if len(text) > textBytesMax {
		text = text[:textBytesMax] + "..."
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
