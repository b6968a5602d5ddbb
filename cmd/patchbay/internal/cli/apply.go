package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

// waitDefault is how long verbs that wait do so: a start takes 15 s at most by
// default, and one retry is worth waiting for.
const waitDefault = time.Minute

type applyOptions struct {
	files   []string
	dryRun  bool
	wait    bool
	timeout time.Duration
	output  string
}

func (a *app) apply() *cobra.Command {
	var o applyOptions
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Apply manifests: all are checked before any is stored",
		Long: `Apply manifests: YAML or JSON files with one or more documents each, folders with
all that is below, or standard input. All are checked before any is stored.

Relative paths in a manifest start from the manifest's own folder. What is stored
is told; that it also runs is told with --wait.`,
		Example: "  patchbay apply -f manifests/examples/\n  patchbay apply -f hello.yaml --dry-run",
		Args:    filesOnly,
		RunE: func(cmd *cobra.Command, _ []string) error {
			files, err := manifests(cmd, o.files)
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			return o.run(cmd, c, files)
		},
	}
	fileFlag(cmd, &o.files)
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "change nothing, say what would")
	cmd.Flags().BoolVar(&o.wait, "wait", false, "wait until every applied plugin runs")
	cmd.Flags().DurationVar(&o.timeout, "timeout", waitDefault, "how long --wait waits")
	outputFlag(cmd, &o.output, "table", "json", "yaml", "name")
	return cmd
}

func (o applyOptions) run(cmd *cobra.Command, c *client.Client, files []wire.File) error {
	mode := client.ForReal
	if o.dryRun {
		mode = client.DryRun
	}
	result, err := c.Apply(cmd.Context(), files, mode)
	if len(result.Items) > 0 {
		if e := o.print(cmd.OutOrStdout(), cmd.ErrOrStderr(), result); e != nil {
			return e
		}
	}
	if err != nil {
		return manifestError(err)
	}
	if !o.wait || o.dryRun {
		return nil
	}
	return o.await(cmd, c, result)
}

// manifestError tells faults as compilers do, a line each.
func manifestError(err error) error {
	if faults, ok := errors.AsType[plugin.Faults](err); ok {
		count := fmt.Sprintf("%d faults", len(faults))
		if len(faults) == 1 {
			count = "1 fault"
		}
		return fmt.Errorf("%s; nothing was changed\n%w", count, faults)
	}
	return err
}

func (o applyOptions) print(out, errs io.Writer, result wire.ApplyResult) error {
	switch o.output {
	case "json":
		return printJSON(out, result)
	case "yaml":
		return printYAML(out, result)
	}
	for _, item := range result.Items {
		switch {
		case item.Problem != nil:
			fmt.Fprintf(errs, "plugin/%s: not applied: %s\n", item.Name, item.Problem.Detail)
		case o.output == "name":
			fmt.Fprintln(out, "plugin/"+item.Name)
		default:
			fmt.Fprintln(out, applied(item, o.dryRun))
		}
	}
	return nil
}

func applied(item wire.Applied, dryRun bool) string {
	text := "plugin/" + item.Name + " " + string(item.Action)
	if item.Restarts {
		text += ", restarts"
	}
	if dryRun {
		text += " (dry run)"
	}
	return text
}

func (o applyOptions) await(cmd *cobra.Command, c *client.Client, result wire.ApplyResult) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
	defer cancel()
	var first error
	for _, item := range result.Items {
		if _, err := c.Wait(ctx, item.Name, client.IsRunning); err != nil {
			why := strings.TrimPrefix(err.Error(), item.Name+": ") // it is said once
			fmt.Fprintf(cmd.ErrOrStderr(), "plugin/%s: %s\n", item.Name, why)
			if first == nil {
				first = err
			}
		}
	}
	if first == nil {
		return nil
	}
	if code := exitCode(first); code != exitError {
		return quiet{code}
	}
	return quiet{exitDiffers}
}

func (a *app) validate() *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use:   "validate -f FILE",
		Short: "Check manifests and tell every fault; the daemon's adapters do the checking",
		Args:  filesOnly,
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := manifests(cmd, files)
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			names, err := c.Validate(cmd.Context(), found)
			if err != nil {
				return manifestError(err)
			}
			for _, name := range names {
				fmt.Fprintf(cmd.OutOrStdout(), "plugin/%s valid\n", name)
			}
			return nil
		},
	}
	fileFlag(cmd, &files)
	return cmd
}

func (a *app) diff() *cobra.Command {
	var files []string
	var output string
	cmd := &cobra.Command{
		Use:   "diff -f FILE",
		Short: "Show what apply would change, and which plugins it restarts; exit code 3 if anything",
		Args:  filesOnly,
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := manifests(cmd, files)
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			plan, err := c.Apply(cmd.Context(), found, client.DryRun)
			if err != nil {
				return manifestError(err)
			}
			if err := printPlan(cmd.OutOrStdout(), output, plan); err != nil {
				return err
			}
			return differs(plan)
		},
	}
	fileFlag(cmd, &files)
	outputFlag(cmd, &output, "table", "json", "yaml")
	return cmd
}

func differs(plan wire.ApplyResult) error {
	for _, item := range plan.Items {
		if item.Action != wire.Unchanged {
			return quiet{exitDiffers}
		}
	}
	return nil
}

func printPlan(out io.Writer, output string, plan wire.ApplyResult) error {
	switch output {
	case "json":
		return printJSON(out, plan)
	case "yaml":
		return printYAML(out, plan)
	}
	for _, item := range plan.Items {
		if item.Action == wire.Unchanged {
			continue
		}
		fmt.Fprintln(out, applied(item, false))
		for _, c := range item.Changes {
			printChange(out, c)
		}
	}
	return nil
}

func printChange(out io.Writer, c wire.Change) {
	note := ""
	if c.Restarts {
		note = "   (restarts)"
	}
	switch {
	case c.Old == "":
		fmt.Fprintf(out, "  + %s: %s%s\n", c.Path, c.New, note)
	case c.New == "":
		fmt.Fprintf(out, "  - %s: %s%s\n", c.Path, c.Old, note)
	default:
		fmt.Fprintf(out, "  ~ %s: %s -> %s%s\n", c.Path, c.Old, c.New, note)
	}
}
