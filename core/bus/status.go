package bus

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// statusesAtOnce are sent before their answers are awaited.
const statusesAtOnce = 512

// statusQueue holds the newest status per subject; nil means forget it. It is
// bounded by the number of instances.
type statusQueue struct {
	mu    sync.Mutex
	dirty map[string][]byte
	// known is what a server must be told again when it lost its memory.
	known map[string][]byte
	wake  chan struct{}
}

func (q *statusQueue) init() {
	q.dirty, q.known, q.wake = map[string][]byte{}, map[string][]byte{}, make(chan struct{}, 1)
}

func (q *statusQueue) put(subject string, data []byte) {
	q.mu.Lock()
	q.dirty[subject] = data
	if q.known[subject] = data; data == nil {
		delete(q.known, subject)
	}
	q.mu.Unlock()
	q.poke()
}

func (q *statusQueue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take removes everything that waits.
func (q *statusQueue) take() map[string][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.dirty
	q.dirty = make(map[string][]byte)
	return all
}

// back puts what could not be sent back, unless there is newer.
func (q *statusQueue) back(subject string, data []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, newer := q.dirty[subject]; !newer {
		q.dirty[subject] = data
	}
}

func (q *statusQueue) republish() {
	q.mu.Lock()
	for subject, data := range q.known {
		if _, newer := q.dirty[subject]; !newer {
			q.dirty[subject] = data
		}
	}
	q.mu.Unlock()
	q.poke()
}

// Status publishes the last known state of an instance. It returns at once; of
// several for one instance only the newest may be sent.
func (b *Bus) Status(s plugin.Status) {
	data, err := json.Marshal(s)
	if err == nil && len(data) > plugin.EventDataBytesMax {
		s.LastWords = nil // they are in the log
		data, err = json.Marshal(s)
	}
	if err != nil || len(data) > plugin.EventDataBytesMax {
		b.o.Log.Error("status cannot be published", "plugin", s.Plugin, "bytes", len(data), "why", err)
		return
	}
	b.statuses.put(statusSubject(s.Plugin, s.Instance), data)
}

// Forget removes the status of an instance that is no more.
func (b *Bus) Forget(name, instance string) {
	b.statuses.put(statusSubject(name, instance), nil)
}

// publishStatuses sends what is queued. It ends with stopping.
func (b *Bus) publishStatuses() {
	for {
		select {
		case <-b.statuses.wake:
			b.flushStatuses()
		case <-b.stopping:
			b.flushStatuses()
			return
		}
	}
}

func (b *Bus) flushStatuses() {
	for {
		failed := b.sendStatuses(b.statuses.take())
		if failed == nil {
			return
		}
		timer := time.NewTimer(retryEvery)
		select {
		case <-timer.C:
			if !b.conns[control].IsConnected() {
				b.statuses.poke()
				return
			}
			b.ensureStatusStream(failed)
		case <-b.stopping:
			timer.Stop()
			return
		}
	}
}

func (b *Bus) ensureStatusStream(why error) {
	ctx, cancel := context.WithTimeout(b.ctx, requestMax)
	defer cancel()
	if _, err := b.ensureStream(ctx, b.streams()[0]); err != nil {
		b.o.Log.Warn("statuses wait", "why", why, "stream", err)
	}
}

type sentStatus struct {
	subject string
	data    []byte
	ack     jetstream.PubAckFuture
}

// sendStatuses returns why some were put back.
func (b *Bus) sendStatuses(all map[string][]byte) (failed error) {
	sent := make([]sentStatus, 0, min(len(all), statusesAtOnce))
	for subject, data := range all {
		if data == nil {
			if err := b.purgeStatus(subject); err != nil {
				b.statuses.back(subject, nil)
				failed = err
			}
			continue
		}
		ack, err := b.js[control].PublishMsgAsync(&nats.Msg{Subject: subject, Data: data})
		if err != nil {
			b.statuses.back(subject, data)
			failed = err
			continue
		}
		if sent = append(sent, sentStatus{subject, data, ack}); len(sent) == statusesAtOnce {
			failed = b.awaitStatuses(sent, failed)
			sent = sent[:0]
		}
	}
	return b.awaitStatuses(sent, failed)
}

func (b *Bus) awaitStatuses(sent []sentStatus, failed error) error {
	ctx, cancel := context.WithTimeout(b.ctx, requestMax)
	defer cancel()
	for _, s := range sent {
		var err error
		select {
		case <-s.ack.Ok():
			continue
		case err = <-s.ack.Err():
		case <-ctx.Done():
			err = ctx.Err()
		}
		b.statuses.back(s.subject, s.data)
		failed = err
	}
	return failed
}

func (b *Bus) purgeStatus(subject string) error {
	ctx, cancel := context.WithTimeout(b.ctx, requestMax)
	defer cancel()
	s, err := b.js[control].Stream(ctx, streamStatus)
	if err != nil {
		return err
	}
	return s.Purge(ctx, jetstream.WithPurgeSubject(subject))
}
