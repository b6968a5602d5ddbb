package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/patchbay-dev/patchbay/core/bus"
	"github.com/patchbay-dev/patchbay/core/logs"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// What the bare path packs and reads at once.
const (
	packedLines = 256
	pipeBytes   = 64 << 10
	asyncWindow = 4096
)

// The streams that hold the lines.
const (
	ourLines  = "PATCHBAY_LOGS"
	bareLines = "LINES"
)

// purge empties a stream before a turn: none shall reach its limit, where each
// message also removes one.
func purge(ctx context.Context, js jetstream.JetStream, name string) error {
	s, err := js.Stream(ctx, name)
	if err != nil {
		return err
	}
	return s.Purge(ctx)
}

// plainLine and jsonLine have 100 bytes with their ends, as a logger's do.
func plainLine() string {
	const head = "2026-11-22T10:00:00Z INFO request served path=/v1/things status=200 "
	return head + strings.Repeat("x", 99-len(head))
}

func jsonLine() string {
	const head, tail = `{"time":"2026-11-22T10:00:00Z","level":"INFO","msg":"request served","n":"`, `"}`
	return head + strings.Repeat("x", 99-len(head)-len(tail)) + tail
}

func logLines(ctx context.Context, h *harness) ([]row, error) {
	b, err := startBareStream(h.temp("bare-logs"))
	if err != nil {
		return nil, err
	}
	defer b.end()
	var rows []row
	for _, one := range []struct{ name, line string }{{"plain", plainLine()}, {"json", jsonLine()}} {
		o, err := h.openLogs(ctx, "logs-"+one.name)
		if err != nil {
			return rows, err
		}
		found, err := h.compareLogs(ctx, o, b, one.name, one.line)
		rows = append(rows, found...)
		o.bus.Close()
		if err != nil {
			return rows, err
		}
	}
	return rows, nil
}

func (h *harness) compareLogs(ctx context.Context, o *ourLogs, b *bareStream, kind, line string) ([]row, error) {
	ours := func(ctx context.Context, d time.Duration) (s sample, err error) {
		if err := purge(ctx, o.bus.JetStream(), ourLines); err != nil {
			return s, err
		}
		return o.ship(ctx, h.linesIn(d), line)
	}
	bare := func(ctx context.Context, d time.Duration) (s sample, err error) {
		if err := purge(ctx, b.js, bareLines); err != nil {
			return s, err
		}
		return b.ship(ctx, h.linesIn(d), line)
	}
	c, err := h.compare(ctx, ours, bare, rate)
	if err != nil {
		return nil, err
	}
	lost := absolute("logs "+kind+" lost", "lines", float64(o.written-o.stored.Load()+o.dropped.Load()), atMost(0))
	lost.note("of %d written", o.written)
	return []row{
		c.row("logs "+kind+" rate", "lines/s", rate, atLeast(0.80)),
		lost,
		c.row("logs "+kind+" host cpu", "us/line", cpuMicros, bar{}),
	}, nil
}

// linesIn is about what a writer without a buffer writes in that time.
func (h *harness) linesIn(d time.Duration) int {
	return max(packedLines, int(float64(h.lines)*d.Seconds()))
}

// ourLogs is core/logs on the bus, as in the daemon.
type ourLogs struct {
	bus     *bus.Bus
	hub     *logs.Hub
	dir     string
	runs    int
	written int64
	stored  atomic.Int64 // acknowledged by the stream
	dropped atomic.Int64 // told as lost
}

func (h *harness) openLogs(ctx context.Context, name string) (*ourLogs, error) {
	o := &ourLogs{dir: h.temp(name)}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if o.bus, err = bus.Open(ctx, bus.Options{Dir: filepath.Join(o.dir, "bus"), Node: "bench"}); err != nil {
		return nil, err
	}
	o.hub = logs.New(logs.Options{Publish: o.publish})
	return o, nil
}

// publish counts what the bus has taken.
func (o *ourLogs) publish(b plugin.LogBatch) (uint64, error) {
	sequence, err := o.bus.LogBatch(b)
	if err == nil {
		o.stored.Add(int64(len(b.Lines)))
		for i := range b.Lines {
			o.dropped.Add(int64(b.Lines[i].Dropped))
		}
	}
	return sequence, err
}

// ship runs the writer with its output in a file, and returns when the stream has
// all of it.
func (o *ourLogs) ship(ctx context.Context, n int, line string) (s sample, err error) {
	o.runs++
	dir := filepath.Join(o.dir, strconv.Itoa(o.runs))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return s, err
	}
	defer os.RemoveAll(dir)
	log := o.hub.Open("bench", "bench-"+strconv.Itoa(o.runs), dir, 0)
	file, err := log.File(plugin.Stdout)
	if err != nil {
		return s, err
	}
	cmd := part(ctx, logWriter, strconv.Itoa(n), line)
	cmd.Stdout = file
	o.written += int64(n)
	return timed(n, func() error {
		err := cmd.Run()
		_ = file.Close()
		// Close waits no longer than a daemon may take to stop: a backlog is for us to
		// wait for. It ships a last batch that is not full.
		want := o.written - packedLines
		if err == nil {
			err = poll(ctx, startMost, time.Millisecond, "all lines are stored", func() bool { return o.stored.Load()+o.dropped.Load() >= want })
		}
		log.Close()
		return err
	})
}

// timed measures one turn with this process's own processor time.
func timed(n int, run func() error) (s sample, err error) {
	before, err := processorTime(self)
	if err != nil {
		return s, err
	}
	began := time.Now()
	if err := run(); err != nil {
		return s, err
	}
	s.ops, s.wall = n, time.Since(began)
	after, err := processorTime(self)
	s.cpu = after - before
	return s, err
}

// bareStream is the least that can be done: an embedded server with one stream.
type bareStream struct {
	server *server.Server
	conn   *nats.Conn
	js     jetstream.JetStream
}

func startBareStream(dir string) (*bareStream, error) {
	s, err := server.NewServer(&server.Options{
		ServerName: "bare", DontListen: true, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
		DisableJetStreamBanner: true, SyncAlways: true, SyncInterval: time.Second,
	})
	if err != nil {
		return nil, err
	}
	b := &bareStream{server: s}
	go s.Start() // ends with Shutdown
	if !s.ReadyForConnections(startMost) {
		b.end()
		return nil, errors.New("bare nats-server: not ready")
	}
	if b.conn, err = nats.Connect("", nats.InProcessServer(s)); err == nil {
		b.js, err = jetstream.New(b.conn, jetstream.WithPublishAsyncMaxPending(asyncWindow))
	}
	if err == nil {
		_, err = b.js.CreateStream(context.Background(), jetstream.StreamConfig{
			Name: bareLines, Subjects: []string{"lines"}, Storage: jetstream.FileStorage, PersistMode: jetstream.AsyncPersistMode,
		})
	}
	if err != nil {
		b.end()
		return nil, err
	}
	return b, nil
}

func (b *bareStream) end() {
	if b.conn != nil {
		b.conn.Close()
	}
	b.server.Shutdown()
	b.server.WaitForShutdown()
}

// ship runs the writer with its output in a pipe, and returns when the stream has
// acknowledged all of it.
func (b *bareStream) ship(ctx context.Context, n int, line string) (s sample, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return s, err
	}
	defer r.Close()
	cmd := part(ctx, logWriter, strconv.Itoa(n), line)
	cmd.Stdout = w
	return timed(n, func() error {
		err := cmd.Start()
		_ = w.Close()
		if err != nil {
			return err
		}
		got, err := b.pump(ctx, r)
		if err == nil && got != n {
			err = fmt.Errorf("bare pipe: %d lines of %d", got, n)
		}
		return errors.Join(err, cmd.Wait())
	})
}

func (b *bareStream) pump(ctx context.Context, r io.Reader) (lines int, err error) {
	from := bufio.NewReaderSize(r, pipeBytes)
	var packed []byte
	held := 0
	send := func() error {
		if held == 0 {
			return nil
		}
		_, err := b.js.PublishAsync("lines", packed, jetstream.WithStallWait(bareWait))
		packed, held = make([]byte, 0, cap(packed)), 0 // the library keeps what it sends
		return err
	}
	for {
		text, failed := from.ReadSlice('\n')
		if failed != nil {
			if failed != io.EOF {
				return lines, failed
			}
			break
		}
		packed = append(packed, text...)
		lines++
		if held++; held == packedLines {
			if err := send(); err != nil {
				return lines, err
			}
		}
	}
	if err := send(); err != nil {
		return lines, err
	}
	select {
	case <-b.js.PublishAsyncComplete():
		return lines, nil
	case <-ctx.Done():
		return lines, ctx.Err()
	}
}
