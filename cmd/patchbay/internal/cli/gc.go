package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/patchbay-dev/patchbay/core/api/wire"
)

func (a *app) gc() *cobra.Command {
	var dryRun bool
	var output string
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove what earlier daemons left behind and nobody keeps",
		Long: `Remove strays: processes, containers, folders, sockets and statuses on the bus that
earlier daemons of this data folder left behind. The daemon does so when it starts;
this is for what could not be removed then. Each is proved to be one before it is
touched: what cannot be proved is left alone.`,
		Example: "  patchbay gc --dry-run\n  patchbay gc",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only list them")
	outputFlag(cmd, &output, "table", "json", "yaml")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		ask, done := c.Sweep, "removed"
		if dryRun {
			ask, done = c.Strays, "would be removed"
		}
		list, err := ask(cmd.Context())
		if err != nil {
			return err
		}
		if err := printStrays(cmd.OutOrStdout(), output, list); err != nil {
			return err
		}
		if output == "table" {
			fmt.Fprintf(cmd.ErrOrStderr(), "%d %s\n", len(list.Items), done)
		}
		for _, why := range list.Unknown {
			fmt.Fprintf(cmd.ErrOrStderr(), "not looked at: %s\n", oneLine(why))
		}
		if len(list.Problems) > 0 {
			return errors.New(strings.Join(list.Problems, "\n"))
		}
		return nil
	}
	return cmd
}

func printStrays(to io.Writer, output string, list wire.StrayList) error {
	switch output {
	case "json":
		return printJSON(to, list)
	case "yaml":
		return printYAML(to, list)
	}
	if len(list.Items) == 0 {
		return nil
	}
	rows := [][]string{{"KIND", "NAME", "INSTANCE", "DETAIL"}}
	for _, s := range list.Items {
		rows = append(rows, []string{s.Kind, oneLine(s.Name), orDash(oneLine(s.Instance)), orDash(oneLine(s.Detail))})
	}
	return table(to, rows)
}
