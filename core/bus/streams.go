package bus

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// The streams: few, with a subject per plugin. A stream per plugin would cost
// 0.7 GB and 10 s of restart at 10,000 plugins.
const (
	streamStatus = "PATCHBAY_STATUS"
	streamEvents = "PATCHBAY_EVENTS"
	streamLogs   = "PATCHBAY_LOGS"
)

const (
	eventsAgeMax   = 30 * 24 * time.Hour
	eventsBytesMax = 512 << 20
	logsAgeMax     = plugin.LogsAgeMax
	logsBytesMax   = plugin.LogsSizeMax
	// logsPerSubjectMax keeps one plugin from pushing out all others: at most
	// 16,384 batches of one instance's stream.
	logsPerSubjectMax = 16384
	// logsSubjectsMax bounds the subjects of the log, up to three of each instance: the
	// server keeps 200 to 450 bytes of memory for each, 60 MiB at most in all, however
	// short the log is. A job that is called every few seconds gets there in a week.
	logsSubjectsMax = 1 << 17
	// duplicateWindow is how long an event's id is remembered: longer than a
	// restart of the server, after which what was kept is sent again.
	duplicateWindow = 30 * time.Second
	// stampKey marks a stream with the hash of the settings we gave it: equal
	// means nothing to do, and an operator's own changes stay.
	stampKey = "patchbay.settings"
)

func (b *Bus) streams() []jetstream.StreamConfig {
	status := jetstream.StreamConfig{
		Name: streamStatus, Description: "Last status of each instance.",
		Subjects: []string{statusPrefix + ">", checkSubject(streamStatus)}, Storage: jetstream.MemoryStorage,
		MaxMsgsPerSubject: 1, AllowDirect: true, AllowRollup: true,
	}
	events := jetstream.StreamConfig{
		Name: streamEvents, Description: "CloudEvents of the core and of plugins.",
		Subjects: []string{eventPrefix + ">", checkSubject(streamEvents)}, Storage: jetstream.FileStorage,
		MaxAge: eventsAgeMax, MaxBytes: eventsBytesMax, Duplicates: duplicateWindow,
		AllowDirect: true, AllowRollup: true, AllowAtomicPublish: true,
	}
	logs := jetstream.StreamConfig{
		Name: streamLogs, Description: "Lines that plugins printed, packed.",
		Subjects: []string{logPrefix + ">", checkSubject(streamLogs)}, Storage: jetstream.FileStorage,
		MaxAge: logsAgeMax, MaxBytes: logsBytesMax, MaxMsgsPerSubject: logsPerSubjectMax,
		Compression: jetstream.S2Compression, AllowDirect: true, AllowRollup: true, AllowMsgTTL: true,
	}
	if b.server != nil {
		logs.PersistMode = jetstream.AsyncPersistMode // one replica only; the others are synced
	}
	all := []jetstream.StreamConfig{status, events, logs}
	for i := range all {
		all[i].Replicas = max(1, b.o.Replicas)
	}
	return all
}

// ensureStreams creates or updates what is missing or differs, and learns what
// the server can do.
func (b *Bus) ensureStreams(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectMax+requestMax)
	defer cancel()
	for _, want := range b.streams() {
		info, err := b.ensureStream(ctx, want)
		if err != nil {
			return err
		}
		b.beginnings[want.Name].Store(info.State.LastSeq)
		switch want.Name {
		case streamEvents:
			b.atomicBatch.Store(info.Config.AllowAtomicPublish)
			b.hub.startAt(info.State.LastSeq)
		case streamLogs:
			if b.ages.Store(info.Config.AllowMsgTTL); !info.Config.AllowMsgTTL {
				b.o.Log.Warn("spec.logs.maxAge is not kept: the NATS server is older than 2.11")
			}
		}
	}
	return nil
}

func (b *Bus) ensureStream(ctx context.Context, want jetstream.StreamConfig) (*jetstream.StreamInfo, error) {
	js := b.js[control]
	stamped(&want)
	s, err := js.Stream(ctx, want.Name)
	if err == nil && s.CachedInfo().Config.Metadata[stampKey] == want.Metadata[stampKey] {
		return s.CachedInfo(), nil
	}
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, unavailable("stream "+want.Name, err)
	}
	if s, err = js.CreateOrUpdateStream(ctx, want); err != nil {
		return nil, unavailable("stream "+want.Name, err)
	}
	return s.CachedInfo(), b.Sync()
}

func stamped(c *jetstream.StreamConfig) { c.Metadata = stamp(c) }

// stamp is the mark of settings that are ours.
func stamp(settings any) map[string]string {
	text, _ := json.Marshal(settings) // plain data
	sum := sha256.Sum256(text)
	return map[string]string{stampKey: hex.EncodeToString(sum[:8])}
}

// Sync makes a stream or bucket that was just created or changed survive a power
// cut: the embedded server syncs messages but not definitions. An external
// server's disks are its operator's.
func (b *Bus) Sync() error {
	if b.server == nil {
		return nil
	}
	return b.server.sync()
}

// KeyValue opens a bucket, and creates it, with the bus's replicas, or updates it
// where it differs; then it is synced. Its requests use the control connection.
func (b *Bus) KeyValue(ctx context.Context, want jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	want.Replicas = max(1, b.o.Replicas)
	want.Metadata = stamp(want)
	js := b.js[control]
	kv, err := js.KeyValue(ctx, want.Bucket)
	if err == nil {
		status, err := kv.Status(ctx)
		if err == nil && status.Metadata()[stampKey] == want.Metadata[stampKey] {
			return kv, nil
		}
	} else if !errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, unavailable("bucket "+want.Bucket, err)
	}
	if kv, err = js.CreateOrUpdateKeyValue(ctx, want); err != nil {
		return nil, unavailable("bucket "+want.Bucket, err)
	}
	return kv, b.Sync()
}

// gone is the error of a reader whose place the stream no longer has.
func gone(stream string, after, first uint64) error {
	return fmt.Errorf("%s after %d: %w: the oldest kept is %d; start without a place", stream, after, plugin.ErrNotFound, first)
}
