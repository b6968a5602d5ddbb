package goplugin

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// coreVersion is go-plugin's own; there has never been another.
	coreVersion = 1
	// noiseLinesMax and noiseBytesMax bound what may stand before the handshake
	// line: a greeting of a runtime or wrapper, not an endless print. Less than
	// the MiB of the file that the core keeps readable.
	noiseLinesMax = 100
	noiseBytesMax = 256 << 10
	// lastWordsMax is how much of the end of stderr an error quotes.
	lastWordsMax = 1 << 10
	// certificateMin is upstream's bound: a shorter sixth field is a
	// placeholder of old plugins, no certificate.
	certificateMin = 51
)

// A greeting is a parsed handshake line: core|app|network|address|protocol|cert|mux.
type greeting struct {
	version  int    // of the application's protocol
	network  string // unix or tcp
	address  string
	protocol string // netrpc or grpc
	// certificate is the plugin's own in DER, when TLS was asked for.
	certificate []byte
}

// parseHandshake reads one line of stdout. found is false for noise; an error
// says what is wrong with a line that is meant to be a handshake.
func parseHandshake(line []byte) (g greeting, found bool, err error) {
	line = bytes.TrimRight(line, "\r")
	fields := strings.Split(string(line), "|")
	if len(fields) < 4 {
		return g, false, nil
	}
	for i := range fields {
		fields[i] = strings.TrimSpace(fields[i])
	}
	core, errCore := strconv.Atoi(fields[0])
	app, errApp := strconv.Atoi(fields[1])
	if errCore != nil || errApp != nil {
		return g, false, nil
	}
	g = greeting{version: app, network: fields[2], address: fields[3], protocol: transportNetRPC}
	if len(fields) > 4 && fields[4] != "" {
		g.protocol = fields[4]
	}
	switch {
	case core != coreVersion:
		return g, true, fmt.Errorf("the plugin speaks core version %d of go-plugin; only %d is known", core, coreVersion)
	case len(fields) > 7:
		return g, true, fmt.Errorf("the line has %d fields; at most 7 are known", len(fields))
	}
	if err := g.check(); err != nil {
		return g, true, err
	}
	if len(fields) > 5 && len(fields[5]) >= certificateMin {
		// What is not base64 is no certificate; whether one is needed is
		// asked where TLS is on.
		g.certificate, _ = base64.RawStdEncoding.DecodeString(strings.TrimRight(fields[5], "="))
	}
	return g, true, nil
}

// check reports what no plugin may announce.
func (g greeting) check() error {
	switch {
	case g.network != "unix" && g.network != "tcp":
		return fmt.Errorf("%q is not a network; want unix or tcp", cut(g.network))
	case g.address == "":
		return fmt.Errorf("the address is empty")
	case g.protocol != transportNetRPC && g.protocol != transportGRPC:
		return fmt.Errorf("%q is not a protocol; want netrpc or grpc", cut(g.protocol))
	}
	return nil
}

// cut keeps texts of a plugin in errors short.
func cut(s string) string {
	if len(s) > 100 {
		return s[:100] + "..."
	}
	return s
}

// greet reads stdout until the handshake line, and checks it against the manifest.
func (p *process) greet(ctx context.Context) (greeting, error) {
	var g greeting
	var found bool
	var fault error
	lines, size := 0, 0
	err := proc.Follow(ctx, p.stdout, p.Done(), func(line []byte) bool {
		g, found, fault = parseHandshake(line)
		lines++
		size += len(line)
		return !found && lines < noiseLinesMax && size < noiseBytesMax
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return g, fmt.Errorf("handshake: %w: %w: no handshake line on stdout in time; is it a go-plugin?%s", plugin.ErrUnavailable, plugin.ErrDeadline, p.lastWords())
	case err != nil:
		return g, startFailed("handshake", err)
	case fault != nil:
		return g, fmt.Errorf("handshake: %w: %w", plugin.ErrInvalid, fault)
	case found:
		return g, p.agree(&g)
	case lines >= noiseLinesMax || size >= noiseBytesMax:
		return g, fmt.Errorf("handshake: %w: %d lines on stdout, and none is a handshake; is it a go-plugin?", plugin.ErrInvalid, lines)
	}
	return g, p.diedEarly()
}

// agree compares what the plugin announced with what the manifest allows.
func (p *process) agree(g *greeting) error {
	switch {
	case !slices.Contains(p.Handshake.Versions, g.version):
		return fmt.Errorf("handshake: %w: the plugin speaks protocol version %d, handshake.versions allows %v", plugin.ErrInvalid, g.version, p.Handshake.Versions)
	case p.Transport != transportAuto && p.Transport != g.protocol:
		return fmt.Errorf("handshake: %w: the plugin speaks %s, spec.goplugin.transport asks for %s", plugin.ErrInvalid, g.protocol, p.Transport)
	case p.own != nil && g.certificate == nil:
		return fmt.Errorf("handshake: %w: the plugin answers without a certificate: it does not know AutoMTLS; set spec.goplugin.tls to off", plugin.ErrInvalid)
	}
	if g.network == "unix" && !filepath.IsAbs(g.address) {
		g.address = filepath.Join(p.launch.Dir, g.address)
	}
	if g.network == "tcp" {
		return onLoopback(g.address)
	}
	return nil
}

// onLoopback keeps a plugin from pointing the daemon at another machine.
func onLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("handshake: %w: the address %q is not on loopback", plugin.ErrInvalid, cut(address))
	}
	return nil
}

// cookieRefusal is what go-plugin prints when the cookie is not the one it wants.
const cookieRefusal = "This binary is a plugin"

// errCookie: another value may be the right one.
var errCookie = errors.New("the plugin refused the cookie")

// diedEarly says why a process ended before its handshake.
func (p *process) diedEarly() error {
	exit, words := p.Wait(), p.lastWords()
	if strings.Contains(words, cookieRefusal) {
		return fmt.Errorf("handshake: %w: %w %s; check spec.goplugin.%s%s", plugin.ErrInvalid, errCookie, p.Handshake.Key, p.cookieFrom(), words)
	}
	return fmt.Errorf("handshake: %w: the process ended before its handshake: %s%s", plugin.ErrUnavailable, exit, words)
}

// cookieFrom is the field to blame for the cookie.
func (p *process) cookieFrom() string {
	if p.Preset != "" {
		return "preset"
	}
	return "handshake"
}

// lastWords quotes the end of stderr for an error, without secrets.
func (p *process) lastWords() string {
	f, err := os.Open(p.stderr.Path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return ""
	}
	if _, err := f.Seek(max(p.stderr.From, size-lastWordsMax), io.SeekStart); err != nil {
		return ""
	}
	text, _ := io.ReadAll(io.LimitReader(f, lastWordsMax))
	words := strings.ToValidUTF8(string(bytes.TrimSpace(bytes.Trim(text, "\x00"))), "\uFFFD")
	for name, value := range p.launch.Manifest.Spec.Env {
		if secret := p.launch.Env[name]; value.Secret != "" && secret != "" {
			words = strings.ReplaceAll(words, secret, "***")
		}
	}
	if words == "" {
		return ""
	}
	return "; stderr: " + words
}
