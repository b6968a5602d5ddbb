package goplugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// failed sorts a status: what grpc itself says, the end of our time, a broken
// line, or the plugin's own no, which keeps its code whatever that is.
func (g *grpcLink) failed(ctx context.Context, operation string, err error) error {
	s := status.Convert(err)
	switch code := s.Code(); {
	case code == codes.DeadlineExceeded && isOver(ctx):
		return fmt.Errorf("%s: %w: %s", operation, plugin.ErrDeadline, s.Message())
	case ctx.Err() != nil || code == codes.Unavailable || code == codes.Canceled:
		return broken(ctx, operation, errors.New(s.Message()))
	case code == codes.Unimplemented:
		return fmt.Errorf("%s: %w: %s", operation, plugin.ErrNotFound, s.Message())
	case code == codes.ResourceExhausted && strings.Contains(s.Message(), overLimit):
		return fmt.Errorf("%s: %w: over spec.limits.payload or the plugin's own limit: %s", operation, plugin.ErrInvalid, s.Message())
	}
	no := &plugin.Refusal{Code: s.Code().String(), Message: s.Message()}
	if details := s.Proto().GetDetails(); len(details) > 0 {
		no.Details = g.details(details)
	}
	return no
}

// isOver reports that the deadline has passed, which the plugin may notice
// before the timer of ctx does.
func isOver(ctx context.Context) bool {
	end, ok := ctx.Deadline()
	return ok && !time.Now().Before(end)
}

// details writes a status's details as a JSON array. One of a type that nobody
// describes, or that is not what its type says, keeps its bytes, in base64.
func (t *transcoder) details(all []*anypb.Any) plugin.RawJSON {
	list := []byte{'['}
	for i, detail := range all {
		if i > 0 {
			list = append(list, ',')
		}
		data, err := t.out.Marshal(detail)
		if err != nil {
			data, _ = json.Marshal(struct { // a text and bytes always marshal
				Type  string `json:"@type"`
				Value []byte `json:"value"`
			}{detail.GetTypeUrl(), detail.GetValue()})
		}
		list = append(list, data...)
	}
	return append(list, ']')
}

// messageTypes are the plugin's, and behind them the well-known ones and the usual
// details of a status, which a plugin need not describe.
type messageTypes struct{ *dynamicpb.Types }

// FindMessageByURL is what protojson asks for an Any.
func (t messageTypes) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	return t.FindMessageByName(protoreflect.FullName(url[strings.LastIndexByte(url, '/')+1:]))
}

// FindMessageByName looks among the plugin's first.
func (t messageTypes) FindMessageByName(name protoreflect.FullName) (protoreflect.MessageType, error) {
	if known, err := t.Types.FindMessageByName(name); err == nil && !known.Descriptor().IsPlaceholder() {
		return known, nil
	}
	if name.Parent() == usualDetails || name.Parent() == "google.protobuf" {
		return protoregistry.GlobalTypes.FindMessageByName(name)
	}
	return nil, protoregistry.NotFound
}

// usualDetails is their package; naming one of them links all.
var usualDetails = (*errdetails.ErrorInfo)(nil).ProtoReflect().Descriptor().FullName().Parent()
