package caddyplugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

// resolver replaces placeholders such as {env.NAME} and {file./path} in
// settings, when a configuration is provisioned and never when it is adapted:
// secrets do not end up in the JSON.
type resolver struct {
	replacer *caddy.Replacer
	err      error
}

func newResolver() *resolver { return &resolver{replacer: caddy.NewReplacer()} }

func (r *resolver) text(what, value string) string {
	out, err := r.replacer.ReplaceOrErr(value, true, true)
	if err != nil {
		r.err = errors.Join(r.err, fmt.Errorf("capif: %s: %w", what, err))
		return ""
	}
	return out
}

func (r *resolver) texts(what string, values []string) []string {
	out := make([]string, 0, len(values))
	for _, value := range values {
		out = append(out, r.text(what, value))
	}
	return out
}

// loggers are the two faces of a module's logger.
type loggers struct {
	zap  *zap.Logger
	slog *slog.Logger
}

func newLoggers(ctx caddy.Context) loggers {
	return loggers{zap: ctx.Logger(), slog: ctx.Slogger()}
}

// logRelay is a slog handler for what outlives a configuration: it hands lines
// to the logger of the newest one.
type logRelay struct{ current atomic.Pointer[slog.Logger] }

func (r *logRelay) set(l *slog.Logger) { r.current.Store(l) }

// setFirst is set where nothing is set yet: a configuration that is only
// provisioned must not take the lines of the one that runs.
func (r *logRelay) setFirst(l *slog.Logger) { r.current.CompareAndSwap(nil, l) }

func (r *logRelay) handler() slog.Handler {
	l := r.current.Load()
	if l == nil {
		return slog.DiscardHandler
	}
	return l.Handler()
}

// Enabled implements slog.Handler.
func (r *logRelay) Enabled(ctx context.Context, level slog.Level) bool {
	return r.handler().Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (r *logRelay) Handle(ctx context.Context, record slog.Record) error {
	return r.handler().Handle(ctx, record)
}

// WithAttrs implements slog.Handler; nothing here gives a logger attributes.
func (r *logRelay) WithAttrs(attrs []slog.Attr) slog.Handler { return r.handler().WithAttrs(attrs) }

// WithGroup implements slog.Handler; nothing here gives a logger groups.
func (r *logRelay) WithGroup(name string) slog.Handler { return r.handler().WithGroup(name) }
