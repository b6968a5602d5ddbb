// Command patchbay deploys, supervises, calls and observes plugins that speak
// five protocols. `patchbay serve` is the daemon; every other verb talks to one.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/patchbay-dev/patchbay/adapters"
	"github.com/patchbay-dev/patchbay/cmd/patchbay/internal/cli"
	"github.com/patchbay-dev/patchbay/cmd/patchbay/internal/serve"
	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/config"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

// version is set by the linker.
var version = "dev"

// gcPercent trades a little work for memory: a daemon that waits most of the time
// should be small. GOGC overrides it.
const gcPercent = 50

func main() {
	adapters.Child()
	os.Exit(cli.Main(version, cli.Given{Serve: serveCommand(), Imports: adapters.Imports()}, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the daemon until it is told to stop",
		Long: "Run the daemon: the REST API, the embedded NATS server, and every plugin that is applied.\n" +
			"SIGINT, SIGTERM and SIGHUP stop it in order, a second one at once; the addresses in use and the token stand in the data folder.",
		Args: cobra.NoArgs,
	}
	settings := config.Flags(cmd.Flags(), client.DefaultDataDir(), os.Getenv)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := settings.Check(); err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		context.AfterFunc(ctx, stop) // a second signal ends it at once
		// Whoever read our standard error may go away; the daemon does not. It is
		// caught, not ignored: what is ignored stays so in every child.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(gcPercent)
		}
		return serve.Run(ctx, settings, wire.Version{Version: version})
	}
	return cmd
}
