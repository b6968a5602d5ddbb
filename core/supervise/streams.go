package supervise

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// streamRetry is the wait between two tries of a broken stream: the same bounds
// as a plugin's default, since a sink's far end is as likely to be down.
var streamRetry = plugin.BackoffBounds{Min: plugin.Duration(250 * time.Millisecond), Max: plugin.Duration(time.Minute)}

// stream is one declared stream of the running instance.
type stream struct {
	spec plugin.Stream

	mu      sync.Mutex
	state   plugin.State
	message string
	pipe    Pipe
}

func (s *stream) status() plugin.StreamStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := plugin.StreamStatus{Name: s.spec.Source, Kind: "source", State: s.state, Message: s.message}
	if s.spec.Sink != "" {
		out.Name, out.Kind = s.spec.Sink, "sink"
	}
	if s.pipe != nil {
		out.Messages, out.Dropped = s.pipe.Counts()
	}
	return out
}

func (s *stream) set(state plugin.State, message string, pipe Pipe) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.message = state, message
	if pipe != nil {
		s.pipe = pipe
	}
}

// startStreams runs every declared stream beside the instance. The function it
// returns ends them and waits; so does the instance's end.
func (p *Plugin) startStreams(phase context.Context, one *living, want *Want) (*sync.WaitGroup, func()) {
	var running sync.WaitGroup
	if len(want.Manifest.Spec.Streams) == 0 {
		return &running, func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(phase))
	streams := make([]*stream, len(want.Manifest.Spec.Streams))
	for i, spec := range want.Manifest.Spec.Streams {
		streams[i] = &stream{spec: spec, state: plugin.Starting}
		running.Go(func() { p.keepStream(ctx, one, streams[i]) }) // ends with ctx
	}
	p.mu.Lock()
	p.streams = streams
	p.mu.Unlock()
	return &running, func() { cancel(); running.Wait() }
}

// keepStream runs one stream, again and again, until ctx ends.
func (p *Plugin) keepStream(ctx context.Context, one *living, s *stream) {
	streamer, ok := one.instance.(plugin.Streamer)
	if !ok {
		s.set(plugin.Failed, "the "+one.adapter.Name()+" adapter has no streams", nil)
		return
	}
	for inARow := 1; ctx.Err() == nil; inARow++ {
		err := p.runStream(ctx, streamer, s)
		switch {
		case ctx.Err() != nil:
			s.set(plugin.Stopped, "", nil)
			return
		case err == nil:
			err = errors.New("it ended by itself")
		case errors.Is(err, plugin.ErrInvalid) || errors.Is(err, plugin.ErrNotFound):
			s.set(plugin.Failed, err.Error(), nil)
			return
		}
		s.set(plugin.Backoff, err.Error(), nil)
		p.deps.Log.Warn("a stream broke", "plugin", p.name, "instance", one.id, "stream", s.status().Name, "error", err)
		select {
		case <-time.After(fullJitter(ceiling(inARow, streamRetry))):
		case <-ctx.Done():
		}
	}
}

func (p *Plugin) runStream(ctx context.Context, streamer plugin.Streamer, s *stream) error {
	pipe, err := p.deps.OpenPipe(s.spec)
	if err != nil {
		return err
	}
	defer func() { _ = pipe.Close() }() // an unsubscribe on a link that may be gone
	s.set(plugin.Running, "", pipe)
	return streamer.Stream(ctx, s.spec, pipe)
}
