package goplugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// handleBytesMax bounds a handle: two certificates of a few KiB at most, a key
// and an address.
const handleBytesMax = 64 << 10

// A handle is what an instance is found by again.
type handle struct {
	Process  proc.Handle `json:"process"`
	Greeting announced   `json:"greeting"`
	// Cookie is the value that the plugin accepted.
	Cookie string `json:"cookie,omitempty"`
	// Identity is the daemon's own, when there is TLS.
	Identity *keys `json:"identity,omitempty"`
}

// announced is a greeting as it is stored.
type announced struct {
	Version     int    `json:"version"`
	Network     string `json:"network"`
	Address     string `json:"address"`
	Protocol    string `json:"protocol"`
	Certificate []byte `json:"certificate,omitempty"` // DER
}

func writeHandle(child proc.Handle, g greeting, cookie string, own *identity) (plugin.RawJSON, error) {
	h := handle{Process: child, Greeting: announced{g.version, g.network, g.address, g.protocol, g.certificate}, Cookie: cookie}
	if own != nil {
		var err error
		if h.Identity, err = own.keys(); err != nil {
			return nil, err
		}
	}
	text, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("handle: %w: %w", plugin.ErrInvalid, err)
	}
	return text, nil
}

// readHandle decodes the handle of l's instance. One of another instance is
// refused here, before anything is done by it.
func readHandle(text plugin.RawJSON, l plugin.Launch) (handle, error) {
	var h handle
	if len(text) > handleBytesMax {
		return h, fmt.Errorf("handle: it has %d bytes, at most %d", len(text), handleBytesMax)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&h); err != nil {
		return h, fmt.Errorf("handle: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return h, errors.New("handle: something follows it")
	}
	if !h.Process.Bears(l) {
		return h, fmt.Errorf("handle: it is of %q, not of %q", cut(h.Process.Mark), proc.Mark(l))
	}
	return h, nil
}

// resume makes an instance of an adopted process. The executable on disk is not
// looked at: it may have been replaced by the next version.
func (p *process) resume(ctx context.Context, h handle) (*instance, error) {
	c, faults, err := interpret(p.launch.Manifest)
	if err := errors.Join(err, faults.Err()); err != nil {
		return nil, err
	}
	p.compiled, p.connected, p.cookie = c, true, h.Cookie
	p.Beside = proc.NewBeside(p.launch.Manifest, proc.Spec{Env: c.environ(p.launch, nil), Dir: p.launch.Dir})
	if err := p.recallDescriptors(); err != nil {
		return nil, err
	}
	if err := p.recallCalls(); err != nil {
		return nil, err
	}
	g, err := p.recall(h)
	if err != nil {
		return nil, err
	}
	return p.join(ctx, g)
}

// recall puts back what the launch knew, and checks it as it did then.
func (p *process) recall(h handle) (greeting, error) {
	a := h.Greeting
	g := greeting{a.Version, a.Network, a.Address, a.Protocol, a.Certificate}
	if err := g.check(); err != nil {
		return g, fmt.Errorf("handle: %w: %w", plugin.ErrInvalid, err)
	}
	if (h.Identity != nil) != (p.TLS == tlsAuto) {
		return g, fmt.Errorf("handle: %w: spec.goplugin.tls is another than at the launch", plugin.ErrInvalid)
	}
	if h.Identity != nil {
		var err error
		if p.own, err = h.Identity.identity(); err != nil {
			return g, fmt.Errorf("handle: %w: %w", plugin.ErrInvalid, err)
		}
	}
	return g, p.agree(&g)
}
