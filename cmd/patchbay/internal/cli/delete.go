package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

func (a *app) remove() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete",
		Short: "Stop plugins and forget them",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return fmt.Errorf("%q is not one of: plugin NAME..., -f FILE", args[0])
		},
	}
	cmd.AddCommand(a.deletePlugins())
	var files []string
	fileFlag(cmd, &files)
	cmd.Example = "  patchbay delete plugin hello\n  patchbay delete -f manifests/examples/"
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		found, err := manifests(cmd, files)
		if err != nil {
			return err
		}
		c, err := a.client()
		if err != nil {
			return err
		}
		names, err := namesIn(cmd, c, found)
		if err != nil {
			return err
		}
		return deleteAll(cmd, c, names)
	}
	return cmd
}

// namesIn asks the daemon for the plugins of manifests, which must be valid.
func namesIn(cmd *cobra.Command, c *client.Client, files []wire.File) ([]string, error) {
	names, err := c.Validate(cmd.Context(), files)
	if err != nil {
		return nil, manifestError(err)
	}
	return names, nil
}

func (a *app) deletePlugins() *cobra.Command {
	return &cobra.Command{
		Use:               "plugin NAME...",
		Aliases:           []string{"plugins"},
		Short:             "Stop the plugins named and forget them",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completePlugins,
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return deleteAll(cmd, c, names)
		},
	}
}

// deleteAll deletes all that it can, and ends with the first error.
func deleteAll(cmd *cobra.Command, c *client.Client, names []string) error {
	var first error
	for _, name := range names {
		err := c.Delete(cmd.Context(), name, client.Expect{})
		if err == nil {
			fmt.Fprintf(cmd.OutOrStdout(), "plugin/%s deleted\n", name)
			continue
		}
		if first == nil {
			first = err
		} else {
			fmt.Fprintln(cmd.ErrOrStderr(), message(err))
		}
	}
	return first
}
