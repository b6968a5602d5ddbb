package bus

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// The headers of invocations in parts. No header of a request that begins with
// ownPrefix is metadata.
const (
	ownPrefix = "patchbay-"
	// streamHeader says in a request what comes in parts, in other messages what they
	// are; those without it are parts, and acknowledgements when they are empty.
	streamHeader   = "Patchbay-Stream"
	windowHeader   = "Patchbay-Window"
	sequenceHeader = "Patchbay-Sequence"
	// statusHeader with noResponders is the server's word that nobody listens.
	statusHeader, noResponders = "Status", "503"
)

// The values of streamHeader.
const (
	streamAnswer   = "answer"   // of a request
	streamArgument = "argument" // of a request
	streamBoth     = "both"     // of a request
	streamOpen     = "open"     // the argument goes to the reply subject
	streamEnd      = "end"      // of either direction
	streamCancel   = "cancel"   // from the caller
)

const (
	// aheadMax is how many parts of an argument may wait for the plugin.
	aheadMax = 16
	// windowMax is how many parts of an answer may wait for their acknowledgement.
	windowMax = 1024
	// ackMax is how long the next acknowledgement may take.
	ackMax = 30 * time.Second
)

var (
	errGone   = fmt.Errorf("answer: %w: nobody listens", plugin.ErrUnavailable)
	errCancel = fmt.Errorf("answer: %w: the caller cancelled it", plugin.ErrUnavailable)
	errAhead  = fmt.Errorf("argument: %w: %d parts wait already; wait for the answer to each", plugin.ErrBusy, aheadMax)
)

// talk is one invocation in parts.
type talk struct {
	request  *nats.Msg
	nc       *nats.Conn
	subject  string // where the caller sends
	told     *told
	cancel   context.CancelCauseFunc
	parts    chan *nats.Msg // of the argument, nil behind the last; nil: it is a whole
	ended    bool           // the argument; for receive
	credits  chan struct{}  // one per part that may be sent now; nil: any number
	sequence int            // of the answer's parts
}

// talk invokes in parts. Unless there is an error it has told the end.
func (d *door) talk(m *nats.Msg, in plugin.Invocation, told *told) error {
	t := &talk{request: m, nc: d.nc, subject: talkSubject(m.Subject, in.ID), told: told}
	kind := m.Header.Get(streamHeader)
	if err := t.prepare(kind); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(d.ctx)
	defer cancel(nil)
	t.cancel = cancel
	sub, err := d.nc.Subscribe(t.subject, t.receive)
	if err != nil {
		return unavailable("stream", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails when the link is closed, and with it the subscription
	if t.parts != nil {
		in.Data, in.Parts = nil, t.next
		if err := t.publish(nil, nats.Header{streamHeader: []string{streamOpen}}); err != nil {
			return err
		}
	}
	var last plugin.Result
	if kind == streamArgument {
		last, err = d.services.Invoke(ctx, in)
	} else {
		err = d.services.InvokeStream(ctx, in, func(part []byte) error { return t.send(ctx, part) })
	}
	if cause := context.Cause(ctx); err != nil && (cause == errAhead || cause == errCancel || cause == errGone) {
		return cause
	}
	if err != nil {
		return err
	}
	return d.answer(m, last, t.header(streamEnd))
}

// prepare reads what the request asks for.
func (t *talk) prepare(kind string) error {
	switch kind {
	case streamAnswer:
	case streamArgument, streamBoth:
		t.parts = make(chan *nats.Msg, aheadMax+1) // and the end
		if len(t.request.Data) > 0 {
			t.parts <- &nats.Msg{Data: t.request.Data}
		}
	default:
		return fmt.Errorf("%s: %w: %.40q is not one of %s, %s, %s", streamHeader, plugin.ErrInvalid, kind, streamAnswer, streamArgument, streamBoth)
	}
	if t.request.Reply == "" {
		return fmt.Errorf("%s: %w: there is no reply subject", streamHeader, plugin.ErrInvalid)
	}
	text := t.request.Header.Get(windowHeader)
	if text == "" {
		return nil
	}
	window, err := strconv.Atoi(text)
	if err != nil || window < 1 || window > windowMax {
		return fmt.Errorf("%s: %w: %.40q is not a number from 1 to %d", windowHeader, plugin.ErrInvalid, text, windowMax)
	}
	t.credits = make(chan struct{}, window)
	for range window {
		t.credits <- struct{}{}
	}
	return nil
}

// receive takes what the caller, or the server about it, says. It never waits.
func (t *talk) receive(m *nats.Msg) {
	kind := m.Header.Get(streamHeader)
	switch {
	case len(m.Data) == 0 && m.Header.Get(statusHeader) == noResponders:
		t.cancel(errGone)
	case kind == streamCancel:
		t.cancel(errCancel)
	case len(m.Data) > 0 || kind == streamEnd:
		t.argue(m, kind == streamEnd)
	default:
		select {
		case t.credits <- struct{}{}:
		default: // there is no window, or it is open
		}
	}
}

// argue keeps a part of the argument, and its end.
func (t *talk) argue(m *nats.Msg, last bool) {
	if t.parts == nil || t.ended {
		return
	}
	if len(m.Data) > 0 {
		if len(t.parts) >= aheadMax {
			t.cancel(errAhead)
			return
		}
		t.parts <- m
	}
	if last {
		t.ended = true
		t.parts <- nil
	}
}

// next is plugin.Invocation.Parts. That a part is taken is the answer to it.
func (t *talk) next(ctx context.Context) ([]byte, error) {
	select {
	case m := <-t.parts:
		if m == nil {
			return nil, io.EOF
		}
		if m.Reply != "" {
			_ = m.Respond(nil) // the caller that does not get it sends no more
		}
		return m.Data, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("argument: %w", context.Cause(ctx))
	}
}

// send sends a part when there is room in the window.
func (t *talk) send(ctx context.Context, part []byte) error {
	if t.credits != nil {
		late := time.NewTimer(ackMax)
		defer late.Stop()
		select {
		case <-t.credits:
		case <-late.C:
			return fmt.Errorf("answer: %w: the caller acknowledged none of %d parts within %s", plugin.ErrUnavailable, cap(t.credits), ackMax)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	t.sequence++
	h := t.header("")
	h[sequenceHeader] = []string{strconv.Itoa(t.sequence)}
	return t.publish(part, h)
}

func (t *talk) header(kind string) nats.Header {
	h := nats.Header{}
	if kind != "" {
		h[streamHeader] = []string{kind}
	}
	t.told.into(h)
	return h
}

func (t *talk) publish(data []byte, h nats.Header) error {
	err := t.nc.PublishMsg(&nats.Msg{Subject: t.request.Reply, Reply: t.subject, Data: data, Header: h})
	if err != nil {
		return unavailable("part of "+strconv.Itoa(len(data))+" bytes", err)
	}
	return nil
}
