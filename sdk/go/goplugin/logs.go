package goplugin

import (
	"context"
	"io"
	"log/slog"
	"strings"

	"google.golang.org/grpc/metadata"
)

// levelTrace is hclog's level below debug.
const levelTrace = slog.LevelDebug - 4

// stampLayout is the only one that go-plugin's own client reads.
const stampLayout = "2006-01-02T15:04:05.000000Z07:00"

// NewLogHandler returns a handler that writes lines as hosts of go-plugin read them: hclog's
// JSON. [Serve] has made one already, and slog's default of it.
func NewLogHandler(w io.Writer, least slog.Leveler) slog.Handler {
	return &logHandler{slog.NewJSONHandler(w, &slog.HandlerOptions{Level: least, ReplaceAttr: renamed})}
}

// renamed gives slog's own attributes the names and forms of hclog.
func renamed(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch level, isLevel := a.Value.Any().(slog.Level); {
	case a.Key == slog.LevelKey && isLevel:
		return slog.String("@level", levelName(level))
	case a.Key == slog.MessageKey && a.Value.Kind() == slog.KindString:
		return slog.String("@message", a.Value.String())
	case a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime:
		return slog.String("@timestamp", a.Value.Time().Format(stampLayout))
	}
	return a
}

func levelName(l slog.Level) string {
	switch {
	case l <= levelTrace:
		return "trace"
	case l < slog.LevelInfo:
		return "debug"
	case l < slog.LevelWarn:
		return "info"
	case l < slog.LevelError:
		return "warn"
	}
	return "error"
}

// logHandler adds what is known of the call.
type logHandler struct{ slog.Handler }

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		r = r.Clone()
		r.AddAttrs(slog.String("operation", c.operation))
		if trace := traceOf(ctx); trace != "" {
			r.AddAttrs(slog.String("trace_id", trace))
		}
	}
	return h.Handler.Handle(ctx, r)
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logHandler{h.Handler.WithAttrs(attrs)}
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	return &logHandler{h.Handler.WithGroup(name)}
}

// traceOf is the trace's id in W3C's traceparent, 00-TRACE-SPAN-FLAGS, which the call came
// with.
func traceOf(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	for _, parent := range md.Get("traceparent") {
		if parts := strings.Split(parent, "-"); len(parts) >= 4 && len(parts[1]) == 32 {
			return parts[1]
		}
	}
	return ""
}

var _ slog.Handler = (*logHandler)(nil)
