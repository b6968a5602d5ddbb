package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

func (a *app) rollback() *cobra.Command {
	var to int64
	cmd := a.controls(control{"rollback", "rolled back", "Apply the manifest of an earlier generation anew, and wait until it runs",
		func(ctx context.Context, c *client.Client, before plugin.Resource) (func(plugin.Resource) (bool, error), error) {
			after, err := c.Rollback(ctx, before.Metadata.Name, to)
			if after.Desired == plugin.DesiredStopped {
				return client.IsStopped, err
			}
			return fresh(before, client.IsRunning), err
		}})
	cmd.Flags().Int64Var(&to, "to", 0, "generation to go back to, as get revisions lists them; the one before when it is not given")
	return cmd
}

func (a *app) pin() *cobra.Command {
	return a.holds("pin", "Hold plugins to their spec and to what they run: no apply, reload or restart brings another",
		func(ctx context.Context, c *client.Client, name string) (string, error) {
			r, err := c.Pin(ctx, name)
			if err != nil || r.Pin == nil {
				return "", err
			}
			text := fmt.Sprintf("pinned to generation %d", r.Pin.Generation)
			if r.Pin.Digest == "" {
				return text + ", by no digest: nothing runs, or its adapter cannot tell", nil
			}
			return text + ", " + r.Pin.Digest, nil
		})
}

func (a *app) unpin() *cobra.Command {
	return a.holds("unpin", "Let plugins be changed again",
		func(ctx context.Context, c *client.Client, name string) (string, error) {
			_, err := c.Unpin(ctx, name)
			return "unpinned", err
		})
}

// holds is a verb that is done at once; do says what was done.
func (a *app) holds(verb, short string, do func(ctx context.Context, c *client.Client, name string) (string, error)) *cobra.Command {
	return &cobra.Command{
		Use:               verb + " NAME...",
		Short:             short,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completePlugins,
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			for _, name := range names {
				done, err := do(cmd.Context(), c, name)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "plugin/%s %s\n", name, done)
			}
			return nil
		},
	}
}

func (a *app) getRevisions() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:               "revisions NAME",
		Aliases:           []string{"revision"},
		Short:             "List what was applied to a plugin, newest first; rollback goes back to one",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completePlugins,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			all, err := c.Revisions(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return printRevisions(cmd.OutOrStdout(), output, all)
		},
	}
	outputFlag(cmd, &output, "table", "json", "yaml", "name")
	return cmd
}

func printRevisions(out io.Writer, output string, all []plugin.Revision) error {
	switch output {
	case "json":
		return printJSON(out, wire.RevisionList{Items: all})
	case "yaml":
		return printYAML(out, wire.RevisionList{Items: all})
	}
	rows := [][]string{{"GENERATION", "APPLIED", "CURRENT", "FAULT"}}
	for _, one := range all {
		generation := strconv.FormatInt(one.Generation, 10)
		if output == "name" {
			fmt.Fprintln(out, generation)
			continue
		}
		rows = append(rows, []string{generation, age(one.Applied, time.Now()) + " ago", yesNo(one.Current), orDash(oneLine(one.Fault))})
	}
	if output == "name" {
		return nil
	}
	return table(out, rows)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
