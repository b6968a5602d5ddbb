package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// checkMax bounds one Check, so that readyz answers in time.
	checkMax = 2 * time.Second
	// checkEvery: callers within it share one answer, so that many probes do
	// not become many syncs of the disk.
	checkEvery = time.Second
)

// checks keep the last answer.
type checks struct {
	mu   sync.Mutex
	at   time.Time
	last error
}

// Check writes to every stream and reads back what it wrote, within two seconds.
// The error names each stream that failed and why. Answers are at most a second old.
func (b *Bus) Check(ctx context.Context) error {
	b.checks.mu.Lock()
	defer b.checks.mu.Unlock()
	if time.Since(b.checks.at) < checkEvery {
		return b.checks.last
	}
	// An impatient caller must not make the answer of the others.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkMax)
	defer cancel()
	var faults []error
	for _, name := range []string{streamStatus, streamEvents, streamLogs} {
		faults = append(faults, b.checkStream(ctx, name))
	}
	b.checks.last, b.checks.at = errors.Join(faults...), time.Now()
	return b.checks.last
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
