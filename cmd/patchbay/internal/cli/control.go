package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

// control is a verb that changes what is wanted of plugins, and waits for it as
// systemctl does.
type control struct {
	verb, past, short string
	// ask asks the daemon and says when it is done.
	ask func(ctx context.Context, c *client.Client, before plugin.Resource) (func(plugin.Resource) (bool, error), error)
}

func (a *app) start() *cobra.Command {
	return a.controls(control{"start", "running", "Start plugins that were stopped or failed, and wait until they run",
		func(ctx context.Context, c *client.Client, before plugin.Resource) (func(plugin.Resource) (bool, error), error) {
			_, err := c.Start(ctx, before.Metadata.Name)
			return fresh(before, client.IsRunning), err
		}})
}

// fresh does not take an end from before for one of now.
func fresh(before plugin.Resource, done func(plugin.Resource) (bool, error)) func(plugin.Resource) (bool, error) {
	return func(r plugin.Resource) (bool, error) {
		switch r.Status.State {
		case plugin.Failed, plugin.Finished:
			if r.Status.Since.Equal(before.Status.Since) {
				return false, nil
			}
		}
		return done(r)
	}
}

func (a *app) stop() *cobra.Command {
	return a.controls(control{"stop", "stopped", "Stop plugins, and wait until they are gone",
		func(ctx context.Context, c *client.Client, before plugin.Resource) (func(plugin.Resource) (bool, error), error) {
			_, err := c.Stop(ctx, before.Metadata.Name)
			return client.IsStopped, err
		}})
}

func (a *app) restart() *cobra.Command {
	return a.controls(control{"restart", "restarted", "Replace running instances, and wait until the new ones run",
		func(ctx context.Context, c *client.Client, before plugin.Resource) (func(plugin.Resource) (bool, error), error) {
			_, err := c.Restart(ctx, before.Metadata.Name)
			return fresh(before, client.IsReplaced(before.Status)), err
		}})
}

func (a *app) reload() *cobra.Command {
	return a.controls(control{"reload", "reloaded", "Have new instances take the calls of running ones, which go on if the new ones fail",
		func(ctx context.Context, c *client.Client, before plugin.Resource) (func(plugin.Resource) (bool, error), error) {
			_, err := c.Reload(ctx, before.Metadata.Name)
			return client.IsReloaded(before.Status), err
		}})
}

func (a *app) controls(v control) *cobra.Command {
	var wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:               v.verb + " NAME...",
		Short:             v.short,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completePlugins,
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			for _, name := range names {
				if err := v.one(ctx, c, name, wait); err != nil {
					return err
				}
				done := v.past
				if !wait {
					done = v.verb + " asked for"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "plugin/%s %s\n", name, done)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", true, "wait until it is done")
	cmd.Flags().DurationVar(&timeout, "timeout", waitDefault, "how long to wait")
	return cmd
}

func (v control) one(ctx context.Context, c *client.Client, name string, wait bool) error {
	before, err := c.Plugin(ctx, name)
	if err != nil {
		return err
	}
	done, err := v.ask(ctx, c, before)
	if err != nil || !wait {
		return err
	}
	_, err = c.Wait(ctx, name, done)
	return err
}
