// Command bench measures what Patchbay costs: each row is the house's own path
// against the bare protocol, or against a limit, in the same run on the same
// machine. `make bench` runs it; ONLY=regexp chooses.
//
// How it measures (harness.go): pairs A,B,A,B; an A/A pass first, and a
// calibration before and after, which mark a row as noisy, never as failed; the
// median of the pairs' ratios. Processor time counts more than wall time: on a
// shared machine it moves by a few percent where wall time moves by half.
//
// Everything is on loopback, bounded, and ends with the command: daemons and
// plugins are its children, files are in one temporary folder.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/patchbay-dev/patchbay/adapters"
)

func main() {
	adapters.Child()
	child()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// command measures as the flags say. Its error is about what could not be
// measured; a row that falls short is a result.
func command(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := fs.String("only", ".", "run the benchmarks whose name matches this regexp")
	file := fs.String("json", "", "write the rows here, too")
	list := fs.Bool("list", false, "print the names and what they measure")
	profile := fs.String("cpuprofile", "", "write a profile of this process here: bare and ours are both in it")
	smoke := fs.Bool("smoke", false, "run each path once, briefly: the figures mean nothing")
	bin := fs.String("bin", "", "folder with patchbay and plugins/ (default: bin of the repository)")
	full := fullEffort()
	fs.IntVar(&full.pairs, "pairs", full.pairs, "pairs A,B of each comparison")
	fs.DurationVar(&full.turn, "for", full.turn, "how long each side of a pair runs")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *list {
		for _, b := range benchmarks() {
			fmt.Fprintf(out, "%-20s %s\n", b.name, b.about)
		}
		return nil
	}
	pattern, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	e := full
	if *smoke {
		e = smokeEffort()
	}
	if e.pairs < 1 || e.turn <= 0 {
		return errors.New("-pairs and -for must be more than 0")
	}
	if *profile != "" {
		stop, err := profiled(*profile)
		if err != nil {
			return err
		}
		defer stop()
	}
	return measure(ctx, e, pattern, places{bin: *bin, json: *file}, out)
}

// profiled begins a profile; stop ends it.
func profiled(path string) (stop func(), err error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		_ = file.Close()
	}, nil
}

// places are where things are read from and written to.
type places struct{ bin, json string }

// measure runs what matches and reports it. What was measured before an error is
// reported, too.
func measure(ctx context.Context, e effort, pattern *regexp.Regexp, at places, out io.Writer) error {
	h, err := newHarness(e, at.bin, out)
	if err != nil {
		return err
	}
	defer h.close()
	r := report{Machine: thisMachine(ctx)}
	r.Machine.print(out)
	began := time.Now()
	for _, b := range benchmarks() {
		if ctx.Err() != nil || !pattern.MatchString(b.name) {
			continue
		}
		rows, failed := h.run(ctx, b)
		r.Rows = append(r.Rows, rows...)
		err = errors.Join(err, failed)
	}
	r.print(out)
	fmt.Fprintf(out, "\nmeasured in %s; calibration %.0f to %.0f MB/s of sha256 in two threads\n",
		time.Since(began).Round(time.Second), h.slowest, h.fastest)
	if at.json != "" {
		err = errors.Join(err, r.write(at.json))
	}
	return errors.Join(err, ctx.Err())
}

// benchmark measures one thing and gives its rows.
type benchmark struct {
	name, about string
	run         func(ctx context.Context, h *harness) ([]row, error)
}

// benchmarks are all of them, in the order in which they run.
func benchmarks() []benchmark {
	return []benchmark{
		{"rest-starlark", "no-op Starlark through REST, against an echo handler of the same shape", restStarlark},
		{"rest-observed", "the same with events, metrics and access log on, against all of them off", restObserved},
		{"rest-goplugin", "net/rpc and gRPC plugin through REST, against an echo handler that makes the same call", restGoPlugin},
		{"goplugin-netrpc", "net/rpc call through dispatch, against hashicorp/go-plugin's client", goPluginNetRPC},
		{"goplugin-grpc", "gRPC call through dispatch, against go-plugin's and grpc-go's client", goPluginGRPC},
		{"goplugin-described", "net/rpc call of nested types with JSON in and out by description, against a host that has the types", goPluginDescribed},
		{"portable", "function call through dispatch, against mangos", portableFunction},
		{"provider", "action through dispatch, against net/http on the same kind of socket", providerAction},
		{"starlark", "call through dispatch with JSON in and out, against bare starlark.Call", starlarkCall},
		{"container", "service call through dispatch, against net/http to the same port", containerCall},
		{"logs", "lines of a process to the bus, against pipe -> packed -> JetStream", logLines},
		{"fanout", "one event to 1,000 SSE clients of the REST API", fanOut},
		{"start", "start of the daemon to its first answer, and its memory when idle", daemonStart},
		{"many", "10,000 applied Starlark plugins: restart, memory, pages", manyPlugins},
		{"kill", "kill -9 of a plugin to its event on the bus; start of a plugin, against the bare protocol", killAndStart},
		{"recover", "restarts, stops of frozen plugins, cold starts, and a daemon that adopts 100 plugins", recovery},
	}
}
