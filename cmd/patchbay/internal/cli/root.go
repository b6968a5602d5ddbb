// Package cli is the command line: every verb but serve, which is handed in. Each
// verb calls the control plane through sdk/go/client, prints its result on stdout
// and everything else on stderr, asks no question, and ends with an exit code that
// tells what happened ([Main] lists them).
//
// It owns no state but the flags of one run and reads one file besides the
// daemon's data folder: $XDG_CONFIG_HOME/patchbay/config.yaml, for contexts.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// The exit codes.
const (
	exitOK       = 0
	exitError    = 1 // also: the plugin refused, it failed
	exitUsage    = 2 // the command line or the manifest is wrong
	exitDiffers  = 3 // diff found a difference; something is not ready or cannot be reached
	exitNotFound = 4
	exitConflict = 5
	exitDenied   = 6
	exitTimeout  = 7
	exitCanceled = 130 // interrupted, as shells say it
)

const exitCodesHelp = `Exit codes:
  0  done
  1  it went wrong: the plugin refused, or failed
  2  the command line or a manifest is wrong
  3  diff found a difference, or something is not ready or cannot be reached
  4  not found
  5  conflict: somebody else changed it
  6  denied
  7  it took too long`

// app is one run of the command line.
type app struct {
	version string
	// where the daemon is; empty: as find says.
	context, url, dataDir, tokenFile string
	// entered turns true when a verb begins: errors before are of usage.
	entered bool
	// errs is where it is said that the daemon is gone, and back.
	errs io.Writer
}

// link says once that a stream lost its daemon, and once that it is back.
func (a *app) link(why error) {
	if why == nil {
		fmt.Fprintln(a.errs, "the daemon is back")
		return
	}
	fmt.Fprintf(a.errs, "the link to the daemon is gone, looking for it again: %s\n", oneLine(why.Error()))
}

// gap says that a stream came back to less than it left.
func (a *app) gap(detail string) { fmt.Fprintln(a.errs, oneLine(detail)) }

// Given is what the command line does not know itself.
type Given struct {
	// Serve is the daemon's command; nil leaves it out.
	Serve *cobra.Command
	// Imports are what the import verb reads.
	Imports Imports
}

// Root makes the command line.
func Root(version string, given Given) *cobra.Command {
	return (&app{version: version, errs: os.Stderr}).root(given)
}

func (a *app) root(given Given) *cobra.Command {
	root := &cobra.Command{
		Use:   "patchbay",
		Short: "Run, supervise, call and observe plugins of five protocols",
		Long: `Patchbay runs, supervises, calls and observes plugins, from one manifest, through
one control plane. "patchbay serve" is the daemon; every other verb talks to it.

The daemon is found by --url or --data-dir, else by --context, else by
PATCHBAY_URL or PATCHBAY_DATA_DIR, else by the context named by PATCHBAY_CONTEXT or
current in the configuration file, else in the default data folder.

` + exitCodesHelp,
		SilenceUsage: true, SilenceErrors: true,
		Version: a.version,
		PersistentPreRun: func(cmd *cobra.Command, _ []string) {
			a.entered = true
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.context, "context", "", "context of the configuration file to use")
	flags.StringVar(&a.url, "url", "", "URL of the daemon, such as http://127.0.0.1:7420")
	flags.StringVar(&a.dataDir, "data-dir", "", "data folder of the daemon, where its address and token are")
	flags.StringVar(&a.tokenFile, "token-file", "", "file that holds the token")
	root.AddCommand(
		a.apply(), a.get(), a.describe(), a.remove(), a.start(), a.stop(), a.restart(), a.reload(), a.rollback(), a.pin(), a.unpin(), a.wait(), a.invoke(),
		a.logs(), a.events(), a.diff(), a.validate(), a.importing(given.Imports), a.gc(), a.versions(),
	)
	if given.Serve != nil {
		root.AddCommand(given.Serve)
	}
	return root
}

// Main runs the command line with args and returns the exit code: 0 done, 1 error
// or refusal, 2 usage, 3 differs or not ready, 4 not found, 5 conflict, 6 denied, 7
// timeout. It leaves signals alone: one ends the process, as it should.
func Main(version string, given Given, args []string, in io.Reader, out, err io.Writer) int {
	return run(context.Background(), version, given, args, streams{in, out, err})
}

// streams are what a run reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

func run(ctx context.Context, version string, given Given, args []string, s streams) int {
	a := &app{version: version, errs: s.err}
	root := a.root(given)
	root.SetArgs(args)
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if text := message(err); text != "" {
		fmt.Fprintln(s.err, text)
	}
	if !a.entered {
		fmt.Fprintln(s.err, "Try 'patchbay --help'.")
		return exitUsage
	}
	return exitCode(err)
}

// quiet is an error whose code says all.
type quiet struct{ code int }

func (q quiet) Error() string { return fmt.Sprintf("exit code %d", q.code) }

// message says err in one line or more. A refusal is the plugin's own word and
// does not look like a fault of ours.
func message(err error) string {
	if _, ok := errors.AsType[quiet](err); ok {
		return ""
	}
	if refusal, ok := errors.AsType[*plugin.Refusal](err); ok {
		text := refusal.Error()
		if len(refusal.Details) > 0 {
			text += "\n" + string(refusal.Details)
		}
		return text
	}
	if errors.Is(err, context.Canceled) {
		return ""
	}
	return "patchbay: " + strings.TrimSpace(err.Error())
}

func exitCode(err error) int {
	if q, ok := errors.AsType[quiet](err); ok {
		return q.code
	}
	for _, c := range []struct {
		class error
		code  int
	}{
		{context.Canceled, exitCanceled}, {plugin.ErrDeadline, exitTimeout}, {plugin.ErrInvalid, exitUsage}, {plugin.ErrDenied, exitDenied},
		{plugin.ErrNotFound, exitNotFound}, {plugin.ErrConflict, exitConflict}, {plugin.ErrUnavailable, exitDiffers},
	} {
		if errors.Is(err, c.class) {
			return c.code
		}
	}
	return exitError
}

// terminal reports whether w is one, and colours are wanted there.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// kindsOnly makes a verb that needs a kind say which there are.
func kindsOnly(cmd *cobra.Command, kinds string) {
	cmd.Args = cobra.ArbitraryArgs
	cmd.FParseErrWhitelist.UnknownFlags = true // they are the kind's, and it is what is wrong
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usage("say what to %s: %s", cmd.Name(), kinds)
		}
		return usage("%s: %q is not one of: %s", cmd.Name(), args[0], kinds)
	}
}

// usage is an error of the command line that only a verb can find.
func usage(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{plugin.ErrInvalid}, args...)...)
}
