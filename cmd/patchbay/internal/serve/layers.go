package serve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/patchbay-dev/patchbay/core/bus"
	"github.com/patchbay-dev/patchbay/core/config"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// layers are the daemon's long-lived parts, the lowest first. Each may use those
// below it, so they end from the top.
type layers []func(context.Context) error

// run runs all layers until ctx ends or one of them does, and then ends them one
// by one. What has not ended after most is given up, and named in the error.
func (l layers) run(ctx context.Context, most time.Duration) error {
	ended := make(chan error, len(l)) // a place for each: no layer waits
	ends := make([]context.CancelFunc, len(l))
	done := make([]chan struct{}, len(l))
	for i, layer := range l {
		own, end := context.WithCancel(context.WithoutCancel(ctx))
		defer end()
		ends[i], done[i] = end, make(chan struct{})
		go func() { // ends with own: waited for below
			defer close(done[i])
			ended <- layer(own)
		}()
	}
	var why error
	select {
	case <-ctx.Done():
	case err := <-ended:
		why = cmp.Or(err, errors.New("a part of the daemon ended by itself"))
	}
	deadline := time.After(most)
	for i := len(l) - 1; i >= 0; i-- {
		ends[i]()
		select {
		case <-done[i]:
		case <-deadline:
			return errors.Join(why, fmt.Errorf("not everything was stopped within %s (--shutdown-timeout)", most))
		}
	}
	for range len(ended) {
		why = cmp.Or(why, <-ended)
	}
	return why
}

// warnOfTheWorld says what an operator has asked for who listens beyond loopback.
func warnOfTheWorld(log *slog.Logger, c *config.Config) {
	for flag, address := range map[string]string{"--listen": c.Listen, "--nats-listen": c.NATSListen} {
		if address != config.Off && !config.Loopback(address) {
			log.Warn("listening beyond this machine without TLS: tokens can be read on the way", "flag", flag, "address", address)
		}
	}
}

// sweep removes what an earlier daemon on this data folder left behind.
func sweep(ctx context.Context, all []plugin.Adapter, node string, log *slog.Logger) {
	for _, a := range all {
		s, ok := a.(plugin.Sweeper)
		if !ok {
			continue
		}
		removed, err := s.Sweep(ctx, node)
		if err != nil {
			log.Warn("what an earlier daemon left could not be looked for", "adapter", a.Name(), "error", err)
		}
		for _, name := range removed {
			log.Info("removed what an earlier daemon left", "adapter", a.Name(), "name", name)
		}
	}
}

// advertise writes down where clients on this machine find the daemon.
func advertise(folder *config.Folder, listener net.Listener, b *bus.Bus) error {
	files := map[string]string{config.APIAddressFile: "http://" + listener.Addr().String()}
	if b.Addr() != "" {
		files[config.NATSAddressFile], files[config.NATSTokenFile] = "nats://"+b.Addr(), b.Token()
	}
	for name, line := range files {
		if err := folder.Write(name, line); err != nil {
			return fmt.Errorf("data folder: %w", err)
		}
	}
	return nil
}
