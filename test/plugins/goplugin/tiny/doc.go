// Package tiny holds what the two tiny go-plugin plugins share: the handshake, the
// generated gRPC types, and the operations' work. The plugins are for tests and
// examples; they use hashicorp/go-plugin's serving side, as any plugin does.
package tiny

import (
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-plugin"
)

// Name is the name to dispense.
const Name = "tiny"

// Handshake is the cookie of both plugins.
func Handshake() plugin.HandshakeConfig {
	return plugin.HandshakeConfig{ProtocolVersion: 1, MagicCookieKey: "PATCHBAY_TINY", MagicCookieValue: "3f2c"}
}

// exitDelay lets the answer leave before the process does.
const exitDelay = 20 * time.Millisecond

// Exit ends the process soon with the code given.
func Exit(code int) { time.AfterFunc(exitDelay, func() { os.Exit(code) }) }

// Print prints the text as a line.
func Print(text string) { fmt.Println(text) }

// Pause converts milliseconds.
func Pause(milliseconds int64) time.Duration { return time.Duration(milliseconds) * time.Millisecond }
