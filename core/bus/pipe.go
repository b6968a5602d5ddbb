package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// sinkQueueMax messages wait for a slow sink; newer ones are dropped and counted.
const sinkQueueMax = 4096

// Pipe joins one stream of a plugin to the bus, by plain NATS: nothing is kept.
// It is safe for concurrent use.
type Pipe struct {
	nc      *nats.Conn
	subject string             // of a source
	sub     *nats.Subscription // of a sink
	queue   chan *nats.Msg
	closed  chan struct{}
	once    sync.Once

	messages, dropped atomic.Uint64
}

var _ plugin.Pipe = (*Pipe)(nil)

// Pipe opens the bus's end of a declared stream. The caller closes it.
func (b *Bus) Pipe(s plugin.Stream) (*Pipe, error) {
	p := &Pipe{nc: b.conns[data], closed: make(chan struct{})}
	var err error
	if s.Publish != "" {
		if p.subject, err = dataSubject(s.Publish); err != nil {
			return nil, err
		}
	}
	if s.Subscribe == "" {
		return p, nil
	}
	pattern, err := dataPattern(s.Subscribe)
	if err != nil {
		return nil, err
	}
	p.queue = make(chan *nats.Msg, sinkQueueMax)
	if p.sub, err = p.nc.ChanSubscribe(pattern, p.queue); err != nil {
		return nil, unavailable("subscribe", err)
	}
	// When Pipe returns the sink misses nothing; a bus that is down is told later.
	_ = p.nc.FlushTimeout(requestMax)
	return p, nil
}

// Publish sends one message of a source. It fails only when that message can
// never be sent; what the bus cannot take now is dropped and counted.
func (p *Pipe) Publish(data []byte) error {
	if p.subject == "" {
		return fmt.Errorf("publish: %w: this stream is a sink", plugin.ErrInvalid)
	}
	select {
	case <-p.closed:
		return fmt.Errorf("publish: %w: the stream is closed", plugin.ErrUnavailable)
	default:
	}
	switch err := p.nc.Publish(p.subject, data); {
	case err == nil:
		p.messages.Add(1)
	case errors.Is(err, nats.ErrMaxPayload):
		p.dropped.Add(1)
		return fmt.Errorf("publish: %w: %d bytes; the bus takes %d", plugin.ErrInvalid, len(data), p.nc.MaxPayload())
	default:
		p.dropped.Add(1)
	}
	return nil
}

// Next waits for the next message for a sink, or for ctx.
func (p *Pipe) Next(ctx context.Context) ([]byte, error) {
	if p.sub == nil {
		return nil, fmt.Errorf("next: %w: this stream is a source", plugin.ErrInvalid)
	}
	select {
	case m := <-p.queue:
		p.messages.Add(1)
		return m.Data, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.closed:
		return nil, fmt.Errorf("next: %w: the stream is closed", plugin.ErrUnavailable)
	}
}

// Counts says how many messages went through, and how many the bus, or a slow
// sink, could not take.
func (p *Pipe) Counts() (messages, dropped uint64) {
	dropped = p.dropped.Load()
	if p.sub != nil {
		if slow, err := p.sub.Dropped(); err == nil {
			dropped += uint64(slow)
		}
	}
	return p.messages.Load(), dropped
}

// Close ends the pipe; whoever waits in Next gets an error. Closing twice is
// harmless, and it never fails.
func (p *Pipe) Close() error {
	p.once.Do(func() {
		if p.sub != nil {
			if slow, err := p.sub.Dropped(); err == nil {
				p.dropped.Add(uint64(slow)) // cannot be asked once unsubscribed
			}
			_ = p.sub.Unsubscribe()
		}
		close(p.closed)
	})
	return nil
}
