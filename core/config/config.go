// Package config is the daemon's own settings: their defaults, their flags and
// environment variables, their faults, and the files that it keeps in its data
// folder for clients on the same machine.
//
// A flag wins over its environment variable (--nats-listen: PATCHBAY_NATS_LISTEN),
// which wins over the default.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// Off is what turns a listener or a log off.
const Off = "off"

// What becomes of plugins when the daemon is told to stop.
const (
	Stop = "stop" // they are stopped: the default
	Keep = "keep" // those that are detached go on, for the next daemon
)

// Config is the daemon's settings.
type Config struct {
	DataDir          string
	SecretsDir       string
	Listen           string
	NATSListen       string
	NATSURL          string
	NATSCredentials  string
	AccessLog        string
	LogLevel         string
	LogFormat        string
	OTLPEndpoint     string
	InvocationEvents bool
	Metrics          bool
	OnExit           string
	ShutdownTimeout  time.Duration
	// AllowSource lists hosts and paths below them, as github.com/OWNER; Check makes it
	// of the flag.
	AllowSource []string
	allowSource string

	faults []error // of the environment
}

// Flags adds the settings to a flag set and returns where they will stand once it
// is parsed. The environment's values are the defaults that it shows.
func Flags(fs *pflag.FlagSet, dataDir string, getenv func(string) string) *Config {
	c := &Config{}
	env := func(flag, value string) string {
		return cmp.Or(getenv("PATCHBAY_"+strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))), value)
	}
	text := func(into *string, name, value, usage string) { fs.StringVar(into, name, env(name, value), usage) }
	text(&c.DataDir, "data-dir", dataDir, "folder for everything the daemon keeps")
	text(&c.SecretsDir, "secrets-dir", "", "folder of secrets, one file each, mode 0600 (default DATA-DIR/secrets)")
	text(&c.Listen, "listen", "127.0.0.1:7420", "address of the REST API; port 0 picks a free one")
	text(&c.NATSListen, "nats-listen", "127.0.0.1:7422", "address of the embedded NATS server for clients; port 0 picks a free one, off: none")
	text(&c.NATSURL, "nats-url", "", "use this NATS server with JetStream instead of the embedded one")
	text(&c.NATSCredentials, "nats-credentials", "", "credentials file for --nats-url")
	text(&c.AccessLog, "access-log", Off, "file for one JSON line per request, - for standard error, or off")
	text(&c.OnExit, "on-exit", Stop, "what becomes of plugins when the daemon is told to stop: stop, or keep: detached ones go on and the next daemon adopts them")
	text(&c.allowSource, "allow-source", "", "from where plugins may be downloaded and built: HOST or HOST/PATH, such as github.com/OWNER, commas between them (default nowhere)")
	text(&c.LogLevel, "log-level", "info", "debug, info, warn or error")
	text(&c.LogFormat, "log-format", "text", "text or json")
	fs.StringVar(&c.OTLPEndpoint, "otlp-endpoint", env("otlp-endpoint", getenv("OTEL_EXPORTER_OTLP_ENDPOINT")),
		"collector of OpenTelemetry that gets traces by OTLP over HTTP, such as http://127.0.0.1:4318 (default none)")
	value := func(name string) { // of another type than text
		if text := env(name, ""); text == "" {
			return
		} else if err := fs.Set(name, text); err != nil {
			c.faults = append(c.faults, fmt.Errorf("PATCHBAY_%s: %w", strings.ToUpper(strings.ReplaceAll(name, "-", "_")), err))
		}
	}
	fs.BoolVar(&c.InvocationEvents, "invocation-events", true, "publish what was invoked, packed")
	fs.BoolVar(&c.Metrics, "metrics", true, "count requests and invocations for /metrics")
	fs.DurationVar(&c.ShutdownTimeout, "shutdown-timeout", 30*time.Second, "most that stopping all plugins may take")
	value("invocation-events")
	value("metrics")
	value("shutdown-timeout")
	return c
}

// Check completes the settings and returns every fault at once, each with its
// flag.
func (c *Config) Check() error {
	faults := slices.Clone(c.faults)
	fault := func(flag, format string, args ...any) {
		faults = append(faults, fmt.Errorf("--%s: "+format, append([]any{flag}, args...)...))
	}
	if dir, err := filepath.Abs(c.DataDir); c.DataDir == "" {
		fault("data-dir", "give a folder: without HOME there is no default")
	} else if err != nil {
		fault("data-dir", "%q is not a folder's path", c.DataDir)
	} else {
		c.DataDir = dir
	}
	c.SecretsDir = cmp.Or(c.SecretsDir, filepath.Join(c.DataDir, "secrets"))
	for flag, address := range map[string]string{"listen": c.Listen, "nats-listen": c.NATSListen} {
		if _, _, err := net.SplitHostPort(address); err != nil && (address != Off || flag == "listen") {
			fault(flag, "%q is not an address; write HOST:PORT, such as 127.0.0.1:0", address)
		}
	}
	if !slices.Contains([]string{Stop, Keep}, c.OnExit) {
		fault("on-exit", "%q is neither stop nor keep", c.OnExit)
	}
	if !slices.Contains([]string{"text", "json"}, c.LogFormat) {
		fault("log-format", "%q is neither text nor json", c.LogFormat)
	}
	if err := new(slog.LevelVar).UnmarshalText([]byte(c.LogLevel)); err != nil {
		fault("log-level", "%q is none of debug, info, warn, error", c.LogLevel)
	}
	if c.NATSCredentials != "" && c.NATSURL == "" {
		fault("nats-credentials", "is for --nats-url, which is not given")
	}
	if u, err := url.Parse(c.OTLPEndpoint); c.OTLPEndpoint != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		fault("otlp-endpoint", "%q is not a collector's URL; write http://HOST:PORT, such as http://127.0.0.1:4318", c.OTLPEndpoint)
	}
	for one := range strings.SplitSeq(c.allowSource, ",") {
		one = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(one), "https://"), "/")
		switch {
		case one != "" && !strings.ContainsAny(one, " *?#@%") && !strings.Contains(one, "://") && one[0] != '/':
			c.AllowSource = append(c.AllowSource, one)
		case c.allowSource != "":
			fault("allow-source", "%q is not HOST or HOST/PATH, such as github.com/OWNER", one)
		}
	}
	if c.ShutdownTimeout <= 0 {
		fault("shutdown-timeout", "%s is not more than 0", c.ShutdownTimeout)
	}
	if err := errors.Join(faults...); err != nil {
		return &usage{err}
	}
	return nil
}

// usage is what was wrong with flags and environment: an ErrInvalid in its own
// words.
type usage struct{ error }

// Is makes usage an ErrInvalid.
func (u *usage) Is(target error) bool { return target == plugin.ErrInvalid }

// Logger makes the daemon's own log, which goes to standard error.
func (c *Config) Logger() *slog.Logger {
	var level slog.LevelVar
	_ = level.UnmarshalText([]byte(c.LogLevel)) // Check has seen it
	options := &slog.HandlerOptions{Level: &level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}

// Loopback reports whether only this machine can reach an address.
func Loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// WarnOfTheWorld says what an operator has asked for who listens beyond loopback.
func (c *Config) WarnOfTheWorld(log *slog.Logger) {
	for flag, address := range map[string]string{"--listen": c.Listen, "--nats-listen": c.NATSListen} {
		if address != Off && !Loopback(address) {
			log.Warn("listening beyond this machine without TLS: tokens can be read on the way", "flag", flag, "address", address)
		}
	}
}

// OpenAccessLog opens the access log; nil when it is off.
func (c *Config) OpenAccessLog() (io.Writer, error) {
	switch c.AccessLog {
	case Off:
		return nil, nil
	case "-":
		return os.Stderr, nil
	}
	file, err := os.OpenFile(c.AccessLog, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--access-log: %w", err)
	}
	return file, nil
}

// NATSAddress is --nats-listen, empty when it is off.
func (c *Config) NATSAddress() string {
	if c.NATSListen == Off {
		return ""
	}
	return c.NATSListen
}
