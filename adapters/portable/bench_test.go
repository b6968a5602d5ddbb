package portable_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.nanomsg.org/mangos/v3"
	"go.nanomsg.org/mangos/v3/protocol/rep"
	_ "go.nanomsg.org/mangos/v3/transport/ipc"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/adapters/portable"
	"github.com/patchbay-dev/patchbay/adapters/portable/sp"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

// execCall is what a host sends for one call of 100 bytes.
var (
	argument = `["` + string(bytes.Repeat([]byte("x"), 100)) + `"]`
	execCall = `{"func":"Exec","arg":[` + argument[1:len(argument)-1] + `,"{\"ruleId\":\"r\",\"opId\":\"o\",\"instanceId\":0,\"funcId\":1}"]}`
)

// processorMicros is what pid has used so far; 0 is this process. The kernel
// counts others in steps of 10 ms: b.N must be large.
func processorMicros(b *testing.B, pid int) float64 {
	b.Helper()
	if pid == 0 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e3
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	var ticks float64
	for _, f := range fields[11:13] {
		n, _ := strconv.ParseFloat(string(f), 64)
		ticks += n
	}
	return ticks * 1e4
}

// measure runs op b.N times from that many callers, and reports the processor
// time of this process and of the plugin.
func measure(b *testing.B, pid, callers int, op func() error) {
	b.Helper()
	host, both := processorMicros(b, 0), processorMicros(b, pid)
	var left atomic.Int64
	left.Store(int64(b.N))
	var all sync.WaitGroup
	b.ResetTimer()
	for range callers {
		all.Go(func() { // ends with its share of b.N
			for left.Add(-1) >= 0 {
				if err := op(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
	host = processorMicros(b, 0) - host
	both = processorMicros(b, pid) - both + host
	b.ReportMetric(host/float64(b.N), "host-cpu-us/op")
	b.ReportMetric(both/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}

func BenchmarkInvoke(b *testing.B) {
	l := conformance.NewLaunch(b, tinyManifest(b))
	i, err := portable.New(portable.Options{}).Launch(b.Context(), l)
	if err != nil {
		b.Fatal(err)
	}
	defer i.Stop(context.Background())
	pid, _ := strconv.Atoi(i.(plugin.Inspector).Inspect()["pid"])
	op := func() error {
		ctx, cancel := context.WithTimeout(b.Context(), patience)
		defer cancel()
		_, err := i.Invoke(ctx, plugin.Invocation{Operation: "echo", Data: []byte(argument)})
		return err
	}
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) { measure(b, pid, callers, op) })
	}
}

// bare starts the plugin without the adapter: start runs once the control command
// has been sent.
func bare(b *testing.B, control func(dir string) func(command string)) int {
	b.Helper()
	dir, err := os.MkdirTemp("", "pb")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	command := control(dir)
	p, err := proc.Start(proc.Spec{Path: tiny, Args: []string{fakeArgument}, Dir: dir, PrivateTmp: dir})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		p.Kill()
		p.Wait()
	})
	arg, _ := json.Marshal(`{"symbolName":"echo","meta":{},"pluginType":"func"}`)
	command(`{"cmd":"start","arg":` + string(arg) + `}`)
	return p.Pid()
}

// BenchmarkBareMangos is a host like upstream's.
func BenchmarkBareMangos(b *testing.B) {
	listen := func(path string) mangos.Socket {
		s, err := rep.NewSocket()
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { s.Close() })
		if err := s.Listen("ipc://" + path); err != nil {
			b.Fatal(err)
		}
		return s
	}
	converse := func(s mangos.Socket, command string) ([]byte, error) {
		if err := s.Send([]byte(command)); err != nil {
			return nil, err
		}
		return s.Recv()
	}
	var function mangos.Socket
	pid := bare(b, func(dir string) func(string) {
		control := listen(dir + "/plugin_tiny.ipc")
		function = listen(dir + "/func_echo.ipc")
		return func(command string) {
			if _, err := control.Recv(); err != nil {
				b.Fatal(err)
			}
			if answer, err := converse(control, command); err != nil || string(answer) != "ok" {
				b.Fatal(string(answer), err)
			}
			if _, err := function.Recv(); err != nil {
				b.Fatal(err)
			}
		}
	})
	turn := make(chan struct{}, 1) // first come, first served, as with the adapter
	op := func() error {
		turn <- struct{}{}
		defer func() { <-turn }()
		answer, err := converse(function, execCall)
		if err != nil {
			return err
		}
		return decode(answer)
	}
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) { measure(b, pid, callers, op) })
	}
}

func decode(answer []byte) error {
	var a struct {
		State  bool
		Result json.RawMessage
	}
	if err := json.Unmarshal(answer, &a); err != nil || !a.State {
		return fmt.Errorf("%s: %w", answer, err)
	}
	return nil
}

// BenchmarkBareSP is the least that a host can do: write, read, on one goroutine.
func BenchmarkBareSP(b *testing.B) {
	accept := func(l *net.UnixListener) *sp.Conn {
		c, err := l.AcceptUnix()
		if err != nil {
			b.Fatal(err)
		}
		conn, err := sp.Greet(c, sp.Rep, 1<<20)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { conn.Close() })
		return conn
	}
	listen := func(path string) *net.UnixListener {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { l.Close() })
		return l
	}
	var conn *sp.Conn
	var id, buf []byte
	receive := func(c *sp.Conn) ([]byte, error) {
		payload, err := c.Recv(buf)
		if err != nil {
			return nil, err
		}
		buf = payload
		var body []byte
		id, body, err = sp.SplitRequest(payload)
		return body, err
	}
	pid := bare(b, func(dir string) func(string) {
		controls, functions := listen(dir+"/plugin_tiny.ipc"), listen(dir+"/func_echo.ipc")
		return func(command string) {
			control := accept(controls)
			if _, err := receive(control); err != nil {
				b.Fatal(err)
			}
			if err := control.Send(id, []byte(command)); err != nil {
				b.Fatal(err)
			}
			conn = accept(functions)
			if _, err := receive(conn); err != nil {
				b.Fatal(err)
			}
		}
	})
	op := func() error {
		if err := conn.Send(id, []byte(execCall)); err != nil {
			return err
		}
		answer, err := receive(conn)
		if err != nil {
			return err
		}
		return decode(answer)
	}
	measure(b, pid, 1, op)
}

// BenchmarkSource is how many tuples a second the host takes from one source that
// sends as fast as it can; the plugin's end is one write per tuple.
func BenchmarkSource(b *testing.B) {
	l := conformance.NewLaunch(b, tinyManifest(b))
	i, err := portable.New(portable.Options{}).Launch(b.Context(), l)
	if err != nil {
		b.Fatal(err)
	}
	defer i.Stop(context.Background())
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	count := &counter{want: int64(b.N), done: make(chan struct{})}
	begin := processorMicros(b, 0)
	b.ResetTimer()
	go i.(plugin.Streamer).Stream(ctx, plugin.Stream{Source: "ticker", Config: plugin.RawJSON(`{"interval":-1,"value":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}`)}, count)
	<-count.done
	b.StopTimer()
	b.ReportMetric((processorMicros(b, 0)-begin)/float64(b.N), "host-cpu-us/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tuples/s")
}

// counter is a pipe that counts.
type counter struct {
	plugin.Pipe
	seen, want int64
	done       chan struct{}
}

func (c *counter) Publish([]byte) error {
	if c.seen++; c.seen == c.want {
		close(c.done)
	}
	return nil
}

// BenchmarkLaunch is from nothing to the first answer, and to the end.
func BenchmarkLaunch(b *testing.B) {
	for range b.N {
		l := conformance.NewLaunch(b, tinyManifest(b))
		begin := time.Now()
		i, err := portable.New(portable.Options{}).Launch(b.Context(), l)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(begin).Microseconds())/1e3, "last-launch-ms")
		if err := i.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
