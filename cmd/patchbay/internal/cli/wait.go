package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

type waitOptions struct {
	goal, selector string
	timeout        time.Duration
}

func (a *app) wait() *cobra.Command {
	var o waitOptions
	cmd := &cobra.Command{
		Use:   "wait NAME... | -l SELECTOR",
		Short: "Wait until plugins are in a state, or a condition of theirs holds",
		Long: `Wait until every named plugin is running, stopped, failed, finished or deleted, or
until a condition of it (Started, Ready, Live, LimitsEnforced) has a status, True
unless another one is given. A restart of the daemon meanwhile does not matter.

It ends with 7 when the time is over, 4 when there is no such plugin, and 3 as soon
as it can no longer come true by itself: a plugin that has failed will not be
running. Deleted means that the daemon knows it no more; what ran of it may still
be on its way out.`,
		Example:           "  patchbay wait hello\n  patchbay wait -l team=edge --for=condition=Ready --timeout 2m\n  patchbay wait hello --for=stopped",
		ValidArgsFunction: a.completePlugins,
		RunE: func(cmd *cobra.Command, names []string) error {
			return o.run(cmd, a, names)
		},
	}
	cmd.Flags().StringVar(&o.goal, "for", string(plugin.Running), "running, stopped, failed, finished, deleted, or condition=TYPE[=STATUS]")
	goals := []string{"running", "stopped", "failed", "finished", "deleted"}
	for _, of := range plugin.ConditionTypes() {
		goals = append(goals, "condition="+string(of))
	}
	_ = cmd.RegisterFlagCompletionFunc("for", cobra.FixedCompletions(goals, cobra.ShellCompDirectiveNoFileComp)) // fails for an unknown flag only
	cmd.Flags().StringVarP(&o.selector, "selector", "l", "", "labels that must hold, when the wait begins: k=v, k!=v, k, !k, with commas between")
	cmd.Flags().DurationVar(&o.timeout, "timeout", waitDefault, "how long to wait")
	return cmd
}

func (o waitOptions) run(cmd *cobra.Command, a *app, names []string) error {
	goal, err := client.ParseGoal(o.goal)
	if err != nil {
		return fmt.Errorf("--for: %w", err)
	}
	if (len(names) > 0) == (o.selector != "") {
		return usage("give names or --selector, and not both")
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
	defer cancel()
	if o.selector != "" {
		if names, err = selectedNames(ctx, c, o.selector); err != nil {
			return err
		}
		if len(names) == 0 && !goal.Deleted() {
			return fmt.Errorf("--selector %s: %w: no plugin matches", o.selector, plugin.ErrNotFound)
		}
	}
	return c.Await(ctx, names, goal, func(name string) {
		fmt.Fprintf(cmd.OutOrStdout(), "plugin/%s %s\n", name, goal)
	})
}

func selectedNames(ctx context.Context, c *client.Client, selector string) ([]string, error) {
	var names []string
	for r, err := range c.AllPlugins(ctx, client.ListOptions{Selector: selector, Limit: pageSize}) {
		if err != nil {
			return nil, err
		}
		names = append(names, r.Metadata.Name)
	}
	return names, nil
}
