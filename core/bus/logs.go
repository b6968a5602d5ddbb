package bus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// ndjson and linesHeader describe a log message: one LogLine as JSON per
	// line, and how many.
	ndjson      = "application/x-ndjson"
	linesHeader = "Patchbay-Lines"
	// uptoHeader is how far the stream's file is read once the message is stored.
	uptoHeader = "Patchbay-Upto"
	// encodedMax is the largest encoding buffer that is kept for the next batch.
	encodedMax = 512 << 10
)

// LogBatch stores lines of one instance's stream as one message, and returns its
// sequence: line i, from 1, is then known as "SEQUENCE.i". It waits for the
// acknowledgement, which promises no more than that the lines are on their way to
// the disk: a daemon that is killed within milliseconds, or a power cut of this
// second, may take them.
func (b *Bus) LogBatch(l plugin.LogBatch) (uint64, error) {
	if len(l.Lines) == 0 {
		return 0, nil
	}
	buf, _ := b.buffers.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	*buf = appendLines((*buf)[:0], l.Plugin, l.Instance, l.Stream, l.Lines)
	defer func() {
		if cap(*buf) <= encodedMax {
			b.buffers.Put(buf)
		}
	}()
	m := &nats.Msg{Subject: logSubject(l.Plugin, l.Instance, l.Stream), Data: *buf, Header: nats.Header{
		ceContentType: []string{ndjson}, linesHeader: []string{strconv.Itoa(len(l.Lines))},
	}}
	if l.Upto > 0 {
		m.Header[uptoHeader] = []string{strconv.FormatInt(l.Upto, 10)}
	}
	ack, err := b.storeLogs(m, l.Keep.MaxAge.Std())
	if err != nil {
		return 0, unavailable("log", err)
	}
	if b.counters.logBatches.Add(1)%(b.o.logSubjects/crowdLooks) == 0 {
		b.retention.look()
	}
	b.counters.logLines.Add(uint64(len(l.Lines)))
	b.retention.stored(l.Plugin, ack.Sequence, len(*buf), int64(l.Keep.MaxSize))
	return ack.Sequence, nil
}

// LastLog tells where an instance's stream ends in the log: the sequence of its
// last stored line, and how far its file is read with it. Both are 0 when nothing
// is kept. After a crash of the daemon the embedded server may have lost the
// batches of the last moments although it acknowledged them: the answer then is
// what is really there.
func (b *Bus) LastLog(ctx context.Context, name, instance string, stream plugin.LogStream) (sequence uint64, upto int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestMax)
	defer cancel()
	s, err := b.js[control].Stream(ctx, streamLogs)
	if errors.Is(err, jetstream.ErrStreamNotFound) { // somebody deleted it
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, unavailable("last log line", err)
	}
	m, err := s.GetLastMsgForSubject(ctx, logSubject(name, instance, stream))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, unavailable("last log line", err)
	}
	upto, _ = strconv.ParseInt(m.Header.Get(uptoHeader), 10, 64) // absent: no file
	return lastSequence(m.Data), max(0, upto), nil
}

// lastSequence is that of the last line of a batch, 0 when it is none of ours.
func lastSequence(data []byte) uint64 {
	data = bytes.TrimRight(data, "\n")
	var last struct {
		Sequence uint64 `json:"seq"`
	}
	if json.Unmarshal(data[bytes.LastIndexByte(data, '\n')+1:], &last) != nil {
		return 0
	}
	return last.Sequence
}

// storeLogs stores a message that lives for age; 0: as long as the stream keeps it.
func (b *Bus) storeLogs(m *nats.Msg, age time.Duration) (*jetstream.PubAck, error) {
	ctx, cancel := context.WithTimeout(b.ctx, requestMax)
	defer cancel()
	once := []jetstream.PublishOpt{jetstream.WithRetryAttempts(0)}
	if age > 0 && b.ages.Load() {
		once = append(once, jetstream.WithMsgTTL(age.Truncate(time.Second)))
	}
	ack, err := b.js[logging].PublishMsg(ctx, m, once...)
	if !errors.Is(err, jetstream.ErrNoStreamResponse) {
		return ack, err
	}
	if _, made := b.ensureStream(ctx, b.streams()[2]); made != nil { // somebody deleted it
		return nil, err
	}
	return b.js[logging].PublishMsg(ctx, m, once...)
}

func newLogMessage(m jetstream.Msg, at uint64) logMessage {
	one := logMessage{sequence: at, data: m.Data()}
	if one.lines, _ = strconv.Atoi(m.Headers().Get(linesHeader)); one.lines <= 0 {
		one.lines = bytes.Count(one.data, []byte{'\n'})
	}
	return one
}

// eachLine decodes the lines of a batch but for the first skip. What is not a
// LogLine is shown as it is.
func eachLine(m logMessage, skip int, yield func(plugin.LogLine) bool) bool {
	number := 0
	for text := range bytes.Lines(m.data) {
		if number++; number <= skip {
			continue
		}
		var l plugin.LogLine
		if json.Unmarshal(text, &l) != nil {
			l.Message = strings.ToValidUTF8(string(bytes.TrimSpace(text)), "\uFFFD")
		}
		l.ID = LogID(m.sequence, number)
		if !yield(l) {
			return false
		}
	}
	return true
}

// LogID names a stored line: its batch's sequence and its number in it, from 1.
func LogID(sequence uint64, line int) string {
	return strconv.FormatUint(sequence, 10) + "." + strconv.Itoa(line)
}

func parseLogID(id string) (sequence uint64, line int, err error) {
	if id == "" {
		return 0, 0, nil
	}
	s, l, _ := strings.Cut(id, ".")
	if sequence, err = strconv.ParseUint(s, 10, 64); err == nil {
		line, err = strconv.Atoi(l)
	}
	if err != nil || line < 0 {
		return 0, 0, fmt.Errorf("log id %q: %w: want SEQUENCE.LINE", id, plugin.ErrInvalid)
	}
	return sequence, line, nil
}
