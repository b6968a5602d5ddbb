package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// checkMax bounds one Check, so that readyz answers in time.
const checkMax = 2 * time.Second

// Check writes to every stream and reads back what it wrote, within two seconds.
// The error names each stream that failed and why. core/health keeps it from
// being asked too often.
func (b *Bus) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkMax)
	defer cancel()
	var faults []error
	for _, name := range []string{streamStatus, streamEvents, streamLogs} {
		faults = append(faults, b.checkStream(ctx, name))
	}
	err := errors.Join(faults...)
	if err != nil {
		b.ill()
	}
	return err
}

// checkStream keeps one message per stream: each replaces the one before.
func (b *Bus) checkStream(ctx context.Context, name string) error {
	text := strconv.FormatInt(time.Now().UnixNano(), 10)
	m := &nats.Msg{Subject: checkSubject(name), Data: []byte(text), Header: nats.Header{jetstream.MsgRollup: []string{jetstream.MsgRollupSubject}}}
	ack, err := b.js[control].PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
	if err != nil {
		return unavailable("write to "+name, err)
	}
	s, err := b.js[control].Stream(ctx, name)
	if err != nil {
		return unavailable("read of "+name, err)
	}
	back, err := s.GetMsg(ctx, ack.Sequence)
	if err != nil {
		// Another daemon's check may have replaced ours.
		if back, err = s.GetLastMsgForSubject(ctx, checkSubject(name)); err != nil {
			return unavailable("read of "+name, err)
		}
	}
	if back.Sequence == ack.Sequence && string(back.Data) != text {
		return fmt.Errorf("read of %s: %w: got another message than was written", name, plugin.ErrUnavailable)
	}
	return nil
}
