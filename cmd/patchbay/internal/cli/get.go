package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

// pageSize is how many plugins are asked for at once: the most that the daemon gives.
const pageSize = 1000

func (a *app) get() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get",
		Short: "Show plugins, or the operations of one",
	}
	kindsOnly(cmd, "plugins [NAME...], operations NAME, instances NAME, revisions NAME, health")
	cmd.AddCommand(a.getPlugins(), a.getOperations(), a.getInstances(), a.getRevisions(), a.getHealth())
	return cmd
}

type getOptions struct {
	output, selector string
	watch            bool
}

func (a *app) getPlugins() *cobra.Command {
	var o getOptions
	cmd := &cobra.Command{
		Use:               "plugins [NAME...]",
		Aliases:           []string{"plugin"},
		Short:             "List plugins, or show those named",
		Example:           "  patchbay get plugins -l team=edge -o wide\n  patchbay get plugin hello -o yaml\n  patchbay get plugins -w",
		ValidArgsFunction: a.completePlugins,
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			if o.selector != "" && len(names) > 0 {
				return usage("give names or --selector, not both")
			}
			g := getter{client: c, o: o, names: names, out: cmd.OutOrStdout(), paint: painter(terminal(cmd.OutOrStdout()))}
			if o.watch {
				return g.watch(cmd.Context())
			}
			return g.list(cmd.Context(), cmd.ErrOrStderr())
		},
	}
	outputFlag(cmd, &o.output, "table", "wide", "json", "yaml", "name")
	cmd.Flags().StringVarP(&o.selector, "selector", "l", "", "labels that must hold: k=v, k!=v, k, !k, with commas between")
	cmd.Flags().BoolVarP(&o.watch, "watch", "w", false, "go on with what changes")
	return cmd
}

// getter is one run of get plugins.
type getter struct {
	client *client.Client
	o      getOptions
	names  []string
	out    io.Writer
	paint  painter
}

func (g getter) list(ctx context.Context, err io.Writer) error {
	items, e := g.items(ctx)
	if e != nil {
		return e
	}
	if len(items) == 0 && (g.o.output == "table" || g.o.output == "wide") {
		fmt.Fprintln(err, "no plugins; apply one with patchbay apply -f FILE")
		return nil
	}
	return g.print(items)
}

func (g getter) items(ctx context.Context) ([]plugin.Resource, error) {
	items := []plugin.Resource{}
	for _, name := range g.names {
		r, err := g.client.Plugin(ctx, name)
		if err != nil {
			return nil, err
		}
		items = append(items, r)
	}
	if len(g.names) > 0 {
		return items, nil
	}
	for r, err := range g.client.AllPlugins(ctx, client.ListOptions{Selector: g.o.selector, Limit: pageSize}) {
		if err != nil {
			return nil, err
		}
		items = append(items, r)
	}
	return items, nil
}

func (g getter) print(items []plugin.Resource) error {
	var whole any = wire.PluginList{Items: items}
	if len(g.names) == 1 {
		whole = items[0] // what one asks for by name is not a list
	}
	switch g.o.output {
	case "json":
		return printJSON(g.out, whole)
	case "yaml":
		return printYAML(g.out, whole)
	case "name":
		for _, r := range items {
			fmt.Fprintln(g.out, "plugin/"+r.Metadata.Name)
		}
		return nil
	}
	rows := [][]string{g.heading()}
	for _, r := range items {
		rows = append(rows, g.row(r.Metadata.Name, r.Status, strconv.FormatInt(r.Generation, 10), r.Desired))
	}
	return table(g.out, rows)
}

func (g getter) heading() []string {
	head := []string{"NAME", "ADAPTER", "STATE", "AGE", "RESTARTS"}
	if g.o.output == "wide" {
		head = append(head, "WANTED", "GENERATION", "INSTANCES", "READY", "LIVE", "INSTANCE", "FACTS")
	}
	return append(head, "REASON")
}

func (g getter) row(name string, s plugin.Status, generation string, wanted plugin.Desired) []string {
	row := []string{name, orDash(s.Adapter), g.paint.state(s.State), age(s.Since, time.Now()), strconv.Itoa(s.Restarts)}
	if g.o.output == "wide" {
		row = append(row, orDash(string(wanted)), generation, readyOf(s), condition(s, plugin.ConditionReady), condition(s, plugin.ConditionLive), orDash(s.Instance), orDash(facts(s)))
	}
	return append(row, orDash(reason(s)))
}

// readyOf says how many instances are ready, of how many.
func readyOf(s plugin.Status) string {
	if s.Instances == 0 {
		return "-" // one of several, in an event
	}
	return fmt.Sprintf("%d/%d", s.Ready, s.Instances)
}

// condition is a condition's answer in a table.
func condition(s plugin.Status, of plugin.ConditionType) string {
	c, _ := s.Condition(of)
	return orDash(string(c.Status))
}

// reason is the word, and on a failure the sentence with it.
func reason(s plugin.Status) string {
	if s.Message == "" || s.State == plugin.Running {
		return s.Reason
	}
	return strings.TrimPrefix(oneLine(s.Reason+": "+s.Message), ": ")
}

func facts(s plugin.Status) string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(s.Facts)) {
		all = append(all, key+"="+oneLine(s.Facts[key]))
	}
	return strings.Join(all, ",")
}

// watch shows the list, and then each plugin whose state changes. The events are
// asked for from the time before the list, so that nothing falls between.
func (g getter) watch(ctx context.Context) error {
	if g.o.output == "json" || g.o.output == "yaml" {
		return usage("--watch shows a table or names; patchbay events -f -o json follows events")
	}
	began := time.Now()
	items, err := g.items(ctx)
	if err != nil {
		return err
	}
	if err := g.print(items); err != nil {
		return err
	}
	for e, err := range g.client.Events(ctx, client.EventOptions{Since: began, Follow: true}) {
		if err != nil {
			return err
		}
		if err := g.changed(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

func (g getter) changed(ctx context.Context, e plugin.Event) error {
	if len(g.names) > 0 && !slices.Contains(g.names, e.Plugin) {
		return nil
	}
	switch e.Type {
	case plugin.EventDeleted:
		fmt.Fprintf(g.out, "%s   deleted\n", e.Plugin)
	case plugin.EventState:
		return g.showChange(ctx, e)
	}
	return nil
}

func (g getter) showChange(ctx context.Context, e plugin.Event) error {
	var change plugin.StateChange
	if err := json.Unmarshal(e.Data, &change); err != nil {
		return fmt.Errorf("event %s: %w: %w", e.ID, plugin.ErrUnavailable, err)
	}
	if g.o.selector != "" && !g.selected(ctx, e.Plugin) {
		return nil
	}
	if g.o.output == "name" {
		fmt.Fprintln(g.out, "plugin/"+e.Plugin)
		return nil
	}
	row := g.row(e.Plugin, change.Status, strconv.FormatInt(change.Status.Generation, 10), "")
	return table(g.out, [][]string{row})
}

// selected asks the daemon, which alone reads selectors.
func (g getter) selected(ctx context.Context, name string) bool {
	for r, err := range g.client.AllPlugins(ctx, client.ListOptions{Selector: g.o.selector, Limit: pageSize}) {
		if err == nil && r.Metadata.Name == name {
			return true
		}
	}
	return false
}

func (a *app) getOperations() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:               "operations NAME",
		Aliases:           []string{"operation", "ops"},
		Short:             "List what a plugin offers",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completePlugins,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			found, err := c.Operations(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return printOperations(cmd.OutOrStdout(), output, found)
		},
	}
	outputFlag(cmd, &output, "table", "json", "yaml", "name")
	return cmd
}

func printOperations(out io.Writer, output string, found []plugin.Operation) error {
	switch output {
	case "json":
		return printJSON(out, wire.OperationList{Items: found})
	case "yaml":
		return printYAML(out, wire.OperationList{Items: found})
	}
	rows := [][]string{{"NAME", "STREAMS", "INPUT", "SUMMARY"}}
	for _, o := range found {
		if output == "name" {
			fmt.Fprintln(out, o.Name)
			continue
		}
		rows = append(rows, []string{o.Name, inParts(o), arguments(o.Input), orDash(oneLine(o.Summary))})
	}
	if output == "name" {
		return nil
	}
	return table(out, rows)
}

// inParts says what of an operation comes in parts.
func inParts(o plugin.Operation) string {
	switch {
	case o.Streams && o.TakesStream:
		return "both"
	case o.Streams:
		return "answer"
	case o.TakesStream:
		return "argument"
	}
	return "no"
}

// arguments names the fields of an argument's schema.
func arguments(schema plugin.RawJSON) string {
	var s struct {
		Type       any                       `json:"type"`
		Properties map[string]plugin.RawJSON `json:"properties"`
	}
	if len(schema) == 0 || json.Unmarshal(schema, &s) != nil {
		return "-"
	}
	if len(s.Properties) > 0 {
		return "{" + strings.Join(slices.Sorted(maps.Keys(s.Properties)), ", ") + "}"
	}
	if kind, ok := s.Type.(string); ok {
		return kind
	}
	return "any"
}

func (a *app) getInstances() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:               "instances NAME",
		Aliases:           []string{"instance"},
		Short:             "List the running copies of a plugin",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completePlugins,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			found, err := c.Instances(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return printInstances(cmd.OutOrStdout(), output, found)
		},
	}
	outputFlag(cmd, &output, "table", "json", "yaml", "name")
	return cmd
}

func printInstances(out io.Writer, output string, found []plugin.Status) error {
	switch output {
	case "json":
		return printJSON(out, wire.InstanceList{Items: found})
	case "yaml":
		return printYAML(out, wire.InstanceList{Items: found})
	}
	paint := painter(terminal(out))
	rows := [][]string{{"INSTANCE", "STATE", "AGE", "IN FLIGHT", "FACTS"}}
	for _, s := range found {
		if output == "name" {
			fmt.Fprintln(out, s.Instance)
			continue
		}
		rows = append(rows, []string{s.Instance, paint.state(s.State), age(s.Since, time.Now()), strconv.Itoa(s.InFlight), orDash(facts(s))})
	}
	if output == "name" {
		return nil
	}
	return table(out, rows)
}

// completePlugins completes a name, for shells.
func (a *app) completePlugins(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	c, err := a.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completeMax)
	defer cancel()
	var names []string
	for r, err := range c.AllPlugins(ctx, client.ListOptions{Limit: pageSize}) {
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		if strings.HasPrefix(r.Metadata.Name, prefix) {
			names = append(names, r.Metadata.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeMax is what somebody who pressed Tab waits.
const completeMax = time.Second
