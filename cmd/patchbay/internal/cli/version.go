package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// versions is what the version verb prints.
type versions struct {
	Client string        `json:"client"`
	Daemon *wire.Version `json:"daemon,omitempty"`
}

func (a *app) versions() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Say the version of this program and of the daemon",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versions{Client: a.version}
			daemon, err := a.daemonVersion(cmd)
			if err == nil {
				v.Daemon = &daemon
			} else if !errors.Is(err, plugin.ErrUnavailable) {
				return err
			}
			switch output {
			case "json":
				return printJSON(cmd.OutOrStdout(), v)
			case "yaml":
				return printYAML(cmd.OutOrStdout(), v)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "patchbay %s\n", v.Client)
			if err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), message(err)) // no daemon is no fault here
				return nil
			}
			node := ""
			if daemon.Node != "" {
				node = ", node " + daemon.Node
			}
			fmt.Fprintf(cmd.OutOrStdout(), "daemon   %s (API %s%s)\n", daemon.Version, daemon.API, node)
			return nil
		},
	}
	outputFlag(cmd, &output, "text", "json", "yaml")
	return cmd
}

func (a *app) daemonVersion(cmd *cobra.Command) (wire.Version, error) {
	c, err := a.client()
	if err != nil {
		return wire.Version{}, err
	}
	return c.Version(cmd.Context())
}
