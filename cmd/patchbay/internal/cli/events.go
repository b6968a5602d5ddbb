package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

type eventsOptions struct {
	follow, types       bool
	since, kind, output string
}

func (a *app) events() *cobra.Command {
	var o eventsOptions
	cmd := &cobra.Command{
		Use:               "events [NAME]",
		Short:             "Show what happened, to all plugins or to one",
		Long:              "Show what happened. With -f it begins now, unless --since says otherwise.\nWith --types show which events there are; with -o json with the JSON Schema of their data.",
		Example:           "  patchbay events -f\n  patchbay events hello --since 1h -f\n  patchbay events --types",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completePlugins,
		RunE: func(cmd *cobra.Command, args []string) error {
			since, err := moment(o.since, time.Now())
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			if o.types {
				return o.printTypes(cmd, args, c)
			}
			query := client.EventOptions{Type: o.kind, Since: since, Follow: o.follow}
			found := c.Events(cmd.Context(), query)
			if len(args) == 1 {
				found = c.PluginEvents(cmd.Context(), args[0], query)
			}
			for e, err := range found {
				if err != nil {
					return err
				}
				if err := printEvent(cmd.OutOrStdout(), o.output, e); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on with what comes")
	cmd.Flags().StringVar(&o.since, "since", "", "begin at this time (RFC 3339) or so long ago (10m)")
	cmd.Flags().BoolVar(&o.types, "types", false, "show which events there are instead")
	cmd.Flags().StringVar(&o.kind, "type", "", "only events of this type, such as "+plugin.EventState)
	outputFlag(cmd, &o.output, "text", "json")
	return cmd
}

// printTypes shows the catalogue of Patchbay's own events.
func (o eventsOptions) printTypes(cmd *cobra.Command, args []string, c *client.Client) error {
	if len(args) > 0 || o.follow || o.since != "" || o.kind != "" {
		return usage("--types: it is of all events; leave out NAME, -f, --since and --type")
	}
	found, err := c.EventTypes(cmd.Context())
	if err != nil {
		return err
	}
	if o.output == "json" {
		return printJSON(cmd.OutOrStdout(), wire.EventTypeList{Items: found})
	}
	rows := [][]string{{"TYPE", "SINCE", "SUMMARY"}}
	for _, t := range found {
		rows = append(rows, []string{t.Type, t.Since, t.Summary})
	}
	return table(cmd.OutOrStdout(), rows)
}

func printEvent(out io.Writer, output string, e plugin.Event) error {
	if output == "json" {
		return printJSONLine(out, e)
	}
	_, err := fmt.Fprintf(out, "%s %-20s %s\n", e.Time.Local().Format(clock), e.Plugin, printable(eventText(e)))
	return err
}

// eventText says an event in words; one that is not the core's own is shown as it is.
func eventText(e plugin.Event) string {
	var text string
	switch e.Type {
	case plugin.EventState:
		text = stateText(e.Data)
	case plugin.EventApplied:
		text = changeText("applied", e.Data)
	case plugin.EventDeleted:
		text = changeText("deleted", e.Data)
	case plugin.EventStop:
		text = stoppedText(e.Data)
	case plugin.EventReload:
		text = reloadedText(e.Data)
	case plugin.EventInvocations:
		text = invocationsText(e.Data)
	case plugin.EventDropped:
		text = droppedText(e.Data)
	}
	if text == "" {
		text = e.Type + " " + string(e.Data)
	}
	return text
}

func stateText(data plugin.RawJSON) string {
	var c plugin.StateChange
	if json.Unmarshal(data, &c) != nil {
		return ""
	}
	text := fmt.Sprintf("%s -> %s: %s", c.From, c.To, c.Cause)
	if c.To == plugin.Running {
		return text
	}
	return text + client.Why(c.Status)
}

func stoppedText(data plugin.RawJSON) string {
	var stop plugin.Stop
	if json.Unmarshal(data, &stop) != nil {
		return ""
	}
	return "stop " + stopText(stop)
}

func reloadedText(data plugin.RawJSON) string {
	var r plugin.Reload
	if json.Unmarshal(data, &r) != nil {
		return ""
	}
	return "reload " + reloadText(r)
}

func changeText(verb string, data plugin.RawJSON) string {
	var c plugin.Change
	if json.Unmarshal(data, &c) != nil {
		return ""
	}
	text := fmt.Sprintf("%s: generation %d, revision %d, wanted %s", verb, c.Generation, c.Revision, c.Desired)
	if c.Pinned {
		text += ", pinned"
	}
	return text
}

func droppedText(data plugin.RawJSON) string {
	var d plugin.Dropped
	if json.Unmarshal(data, &d) != nil {
		return ""
	}
	return fmt.Sprintf("%d events before this one were lost: the bus was down for too long", d.Dropped)
}

// invocationsText sums up a pack of invocations by operation and outcome.
func invocationsText(data plugin.RawJSON) string {
	var records []plugin.InvocationRecord
	if json.Unmarshal(data, &records) != nil || len(records) == 0 {
		return ""
	}
	var order []string
	counts := map[string]int{}
	for _, r := range records {
		what := r.Operation + " " + r.Outcome
		if counts[what] == 0 {
			order = append(order, what)
		}
		counts[what]++
	}
	for i, what := range order {
		if counts[what] > 1 {
			order[i] = fmt.Sprintf("%s (%d times)", what, counts[what])
		}
	}
	return "invoked: " + strings.Join(order, ", ")
}
