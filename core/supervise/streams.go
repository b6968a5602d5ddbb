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

// streamHealthy is how long a stream runs before a break is its first again: the
// longest wait.
const streamHealthy = time.Minute

// stream is one declared stream of the running instance.
type stream struct {
	spec plugin.Stream

	mu      sync.Mutex
	state   plugin.State
	message string
	pipe    Pipe

	messages, dropped uint64 // of the pipes before
}

func (s *stream) status() plugin.StreamStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := plugin.StreamStatus{Name: s.spec.Source, Kind: "source", State: s.state, Message: s.message}
	if s.spec.Sink != "" {
		out.Name, out.Kind = s.spec.Sink, "sink"
	}
	out.Messages, out.Dropped = s.counts()
	return out
}

func (s *stream) set(state plugin.State, message string, pipe Pipe) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.message = state, message
	if pipe != nil {
		s.messages, s.dropped = s.counts()
		s.pipe = pipe
	}
}

// counts are those of all pipes so far. The caller holds mu.
func (s *stream) counts() (messages, dropped uint64) {
	if s.pipe != nil {
		messages, dropped = s.pipe.Counts()
	}
	return s.messages + messages, s.dropped + dropped
}

// startStreams runs every declared stream beside the instance. The function it
// returns ends them and waits, for at most overtimeMax.
func (p *Plugin) startStreams(phase context.Context, one *living) (end func() (outcome string)) {
	declared := one.want.Manifest.Spec.Streams
	if len(declared) == 0 {
		p.have(nil) // those of an earlier manifest are gone
		return func() string { return stepDone }
	}
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.WithoutCancel(phase))
	var streams []*stream
	for _, spec := range declared {
		s := &stream{spec: spec, state: plugin.Starting}
		streams = append(streams, s)
		running.Go(func() { p.keepStream(ctx, one, s) }) // ends with ctx
	}
	p.have(streams)
	return func() string {
		cancel()
		ended := make(chan struct{})
		go func() { // ends with the streams
			running.Wait()
			close(ended)
		}()
		if !closedWithin(ended, overtimeMax) {
			p.deps.Log.Error("an adapter does not return from a stream that has ended", "plugin", p.name, "instance", one.id)
			return stepLate
		}
		return stepDone
	}
}

func (p *Plugin) have(streams []*stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.streams = streams
}

// keepStream runs one stream, again and again, until ctx ends.
func (p *Plugin) keepStream(ctx context.Context, one *living, s *stream) {
	streamer, ok := one.instance.(plugin.Streamer)
	if !ok {
		s.set(plugin.Failed, "the "+one.adapter.Name()+" adapter has no streams", nil)
		return
	}
	for inARow := 1; ctx.Err() == nil; inARow++ {
		began := time.Now()
		err := p.runStream(ctx, streamer, s)
		if time.Since(began) >= streamHealthy {
			inARow = 1
		}
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

func (p *Plugin) runStream(ctx context.Context, streamer plugin.Streamer, s *stream) (err error) {
	defer p.survive("stream", &err)
	pipe, err := p.deps.OpenPipe(s.spec)
	if err != nil {
		return err
	}
	defer func() { _ = pipe.Close() }() // an unsubscribe on a link that may be gone
	s.set(plugin.Running, "", pipe)
	return streamer.Stream(ctx, s.spec, pipe)
}
