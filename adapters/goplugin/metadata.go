package goplugin

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// binarySuffix ends the keys whose values are bytes; manifests, callers and answers
// have them in base64.
const binarySuffix = "-bin"

// withMetadata adds the manifest's metadata and the caller's to the call.
func (g *grpcLink) withMetadata(ctx context.Context, m *grpcMethod, given map[string]string) (context.Context, error) {
	if len(m.metadata) == 0 && len(given) == 0 {
		return ctx, nil
	}
	md := make(metadata.MD, len(m.metadata)+len(given))
	for key, value := range given {
		if !g.mayCarry(key) {
			return nil, fmt.Errorf("%s: %w: metadata %q: it is not in spec.goplugin.callerMetadata", m.full, plugin.ErrDenied, cut(key))
		}
		raw, err := carried(key, value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w: metadata %q: %w", m.full, plugin.ErrInvalid, cut(key), err)
		}
		md.Set(key, raw)
	}
	for key, value := range m.metadata { // the manifest's wins
		raw, err := carried(key, value)
		if err != nil { // compile has seen it
			return nil, fmt.Errorf("%s: %w: metadata %q: %w", m.full, plugin.ErrInvalid, key, err)
		}
		md.Set(key, raw)
	}
	return metadata.NewOutgoingContext(ctx, md), nil
}

// mayCarry reports whether callers may send a key. The trace's are Patchbay's own.
func (s *Spec) mayCarry(key string) bool {
	if len(s.CallerMetadata) == 0 || key == "traceparent" || key == "tracestate" {
		return true
	}
	for _, allowed := range s.CallerMetadata {
		if begin, wild := strings.CutSuffix(allowed, "*"); key == allowed || wild && strings.HasPrefix(key, begin) {
			return true
		}
	}
	return false
}

// carried is a pair as grpc takes it.
func carried(key, value string) (string, error) {
	switch {
	case !metadataPattern.MatchString(key) || strings.HasPrefix(key, "grpc-"):
		return "", fmt.Errorf("it cannot be a key: use a-z, 0-9, hyphen, dot and _, not beginning with grpc-")
	case strings.HasSuffix(key, binarySuffix):
		raw, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			return "", fmt.Errorf("the value of a key that ends in -bin is base64: %w", err)
		}
		return string(raw), nil
	case !printable(value):
		return "", fmt.Errorf("use printable ASCII for the value, or a key that ends in -bin")
	}
	return value, nil
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// flat is what a plugin told, without what grpc itself says.
func flat(md metadata.MD) map[string]string {
	told := make(map[string]string, len(md))
	for key, values := range md {
		if key == "content-type" || strings.HasPrefix(key, "grpc-") || strings.HasPrefix(key, ":") {
			continue
		}
		if strings.HasSuffix(key, binarySuffix) {
			coded := make([]string, len(values))
			for i, v := range values {
				coded[i] = base64.StdEncoding.EncodeToString([]byte(v))
			}
			values = coded
		}
		told[key] = strings.Join(values, ",")
	}
	return told
}
