package cli

import (
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-dev/patchbay/core/api/wire"
)

func (a *app) getHealth() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Show what the daemon needs and whether it works",
		Long: "Show what the daemon needs and whether it works, each adapter among it. The exit code is 3 when\n" +
			"the daemon is not ready. What is advisory, such as an adapter, may be missing all the same.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			found, err := c.Health(cmd.Context())
			if err != nil {
				return err
			}
			if err := printHealth(cmd.OutOrStdout(), output, found); err != nil {
				return err
			}
			if !found.Ready {
				return quiet{exitDiffers}
			}
			return nil
		},
	}
	outputFlag(cmd, &output, "table", "json", "yaml")
	return cmd
}

func printHealth(out io.Writer, output string, found wire.Readiness) error {
	switch output {
	case "json":
		return printJSON(out, found)
	case "yaml":
		return printYAML(out, found)
	}
	rows := [][]string{{"COMPONENT", "STATE", "SINCE", "LATENCY", "DETAIL"}}
	for _, c := range found.Components {
		since := "-"
		if c.Since != nil {
			since = age(*c.Since, time.Now())
		}
		latency := (time.Duration(c.LatencyMicros) * time.Microsecond).String()
		rows = append(rows, []string{c.Name, healthWord(c), since, latency, orDash(oneLine(c.Detail))})
	}
	return table(out, rows)
}

func healthWord(c wire.Component) string {
	switch {
	case c.Ready:
		return "ready"
	case c.Advisory:
		return "not available"
	}
	return "not ready"
}
