package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

const (
	// describeMax bounds the question to the plugin itself, which may hang.
	describeMax = 2 * time.Second
	// recentEvents are shown, of the last recentMax.
	recentEvents = 10
	recentMax    = time.Hour
)

func (a *app) describe() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "describe",
		Short: "Tell all about a plugin",
	}
	kindsOnly(cmd, "plugin NAME")
	cmd.AddCommand(&cobra.Command{
		Use:               "plugin NAME",
		Aliases:           []string{"plugins"},
		Short:             "Tell all about a plugin: what was applied, how it is, what it offers, what happened",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completePlugins,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return describePlugin(cmd.Context(), cmd.OutOrStdout(), c, args[0])
		},
	})
	return cmd
}

func describePlugin(ctx context.Context, out io.Writer, c *client.Client, name string) error {
	r, err := c.Plugin(ctx, name)
	if err != nil {
		return err
	}
	if err := describeStatus(out, r); err != nil {
		return err
	}
	fmt.Fprintln(out, "\nSpec:")
	var spec strings.Builder
	if err := printYAML(&spec, r.Spec); err != nil {
		return err
	}
	fmt.Fprint(out, indent(spec.String()))
	if r.Status.Asleep() { // to ask would be its first call
		fmt.Fprintln(out, "\nOperations: not known: it starts at its first call")
	} else {
		describeOperations(ctx, out, c, name)
	}
	describeEvents(ctx, out, c, name)
	return nil
}

func describeStatus(out io.Writer, r plugin.Resource) error {
	s := r.Status
	paint := painter(terminal(out))
	rows := [][]string{
		{"Name:", r.Metadata.Name},
		{"Adapter:", r.Spec.Adapter},
		{"State:", paint.state(s.State) + oneLine(client.Why(s))},
		{"Since:", s.Since.Local().Format(time.DateTime) + " (" + age(s.Since, time.Now()) + ")"},
		{"Wanted:", string(r.Desired)},
		{"Generation:", fmt.Sprintf("%d (running: %d, revision %d)", r.Generation, s.Generation, r.Revision)},
		{"Instances:", readyOf(s) + " ready"},
		{"Instance:", orDash(s.Instance)},
		{"Restarts:", strconv.Itoa(s.Restarts)},
		{"In flight:", strconv.Itoa(s.InFlight)},
	}
	if r.Pin != nil {
		rows = append(rows, []string{"Pinned:", fmt.Sprintf("generation %d, %s", r.Pin.Generation, cmp.Or(r.Pin.Digest, "no digest"))})
	}
	if s.RetryAt != nil {
		rows = append(rows, []string{"Next try:", s.RetryAt.Local().Format(time.DateTime)})
	}
	if s.LastExit != nil {
		rows = append(rows, []string{"Last exit:", oneLine(s.LastExit.String()) + ", " + age(s.LastExit.At, time.Now()) + " ago"})
	}
	rows = append(rows, pairs("Facts:", s.Facts)...)
	rows = append(rows, pairs("Labels:", r.Metadata.Labels)...)
	rows = append(rows, pairs("Notes:", r.Metadata.Annotations)...)
	if r.Metadata.Source != "" {
		rows = append(rows, []string{"Source:", r.Metadata.Source})
	}
	if err := table(out, rows); err != nil {
		return err
	}
	if err := describeHealth(out, s); err != nil {
		return err
	}
	for _, st := range s.Streams {
		fmt.Fprintf(out, "Stream:      %s %s %s, %d messages, %d dropped", st.Kind, st.Name, st.State, st.Messages, st.Dropped)
		if st.Message != "" {
			fmt.Fprint(out, " ", oneLine(st.Message))
		}
		fmt.Fprintln(out)
	}
	if len(s.LastWords) > 0 {
		fmt.Fprintln(out, "\nLast words:")
		for _, line := range s.LastWords {
			fmt.Fprintln(out, "  "+printable(line))
		}
	}
	return nil
}

// describeHealth shows what has parts of its own: conditions, limits, the last stop.
func describeHealth(out io.Writer, s plugin.Status) error {
	now := time.Now()
	if len(s.Conditions) > 0 {
		rows := [][]string{{"  TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"}}
		for _, c := range s.Conditions {
			rows = append(rows, []string{"  " + string(c.Type), string(c.Status), age(c.LastTransitionTime, now), c.Reason, orDash(oneLine(c.Message))})
		}
		fmt.Fprintln(out, "\nConditions:")
		if err := table(out, rows); err != nil {
			return err
		}
	}
	if len(s.Limits) > 0 {
		rows := [][]string{{"  LIMIT", "KEPT BY", "MESSAGE"}}
		for _, l := range s.Limits {
			rows = append(rows, []string{"  " + l.Name, orDash(l.By), orDash(oneLine(l.Message))})
		}
		fmt.Fprintln(out, "\nLimits:")
		if err := table(out, rows); err != nil {
			return err
		}
	}
	if s.LastStop != nil {
		fmt.Fprintf(out, "\nLast stop:   %s ago: %s\n", age(s.LastStop.At, now), oneLine(stopText(*s.LastStop)))
	}
	if s.LastReload != nil {
		fmt.Fprintf(out, "\nLast reload: %s ago: %s\n", age(s.LastReload.At, now), oneLine(reloadText(*s.LastReload)))
	}
	return nil
}

// stopText says a stop in a line: how long it took, and each step.
func stopText(stop plugin.Stop) string {
	return fmt.Sprintf("took %s: %s", millis(stop.DurationMillis), stepsText(stop.Steps))
}

func stepsText(steps []plugin.StopStep) string {
	var all []string
	for _, step := range steps {
		all = append(all, fmt.Sprintf("%s %s %s", step.Name, step.Outcome, millis(step.DurationMillis)))
	}
	return strings.Join(all, ", ")
}

// reloadText says a reload in a line: where it stands, of what, why, and each step.
func reloadText(r plugin.Reload) string {
	text := fmt.Sprintf("%s, %s -> %s (generation %d)", r.Outcome, r.From, orDash(r.To), r.Generation)
	if r.Message != "" {
		text += ": " + r.Message
	}
	if len(r.Steps) > 0 {
		text += "; " + stepsText(r.Steps)
	}
	return text
}

func millis(n int64) string { return (time.Duration(n) * time.Millisecond).String() }

func pairs(head string, all map[string]string) [][]string {
	var rows [][]string
	for _, key := range slices.Sorted(maps.Keys(all)) {
		rows = append(rows, []string{head, key + "=" + oneLine(all[key])})
		head = ""
	}
	return rows
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n  ") + "\n"
}

// describeOperations asks the plugin; that it cannot say is no reason to stop.
func describeOperations(ctx context.Context, out io.Writer, c *client.Client, name string) {
	ctx, cancel := context.WithTimeout(ctx, describeMax)
	defer cancel()
	found, err := c.Operations(ctx, name)
	if err != nil {
		fmt.Fprintf(out, "\nOperations: not known: %s\n", oneLine(err.Error()))
		return
	}
	var text strings.Builder
	_ = printOperations(&text, "table", found) // a builder takes everything
	fmt.Fprint(out, "\nOperations:\n", indent(text.String()))
}

func describeEvents(ctx context.Context, out io.Writer, c *client.Client, name string) {
	var last []plugin.Event
	for e, err := range c.PluginEvents(ctx, name, client.EventOptions{Since: time.Now().Add(-recentMax)}) {
		if err != nil {
			fmt.Fprintf(out, "\nEvents: not known: %s\n", oneLine(err.Error()))
			return
		}
		if last = append(last, e); len(last) > recentEvents {
			last = last[1:]
		}
	}
	fmt.Fprintln(out, "\nEvents:")
	for _, e := range last {
		fmt.Fprintf(out, "  %s %s\n", e.Time.Local().Format(clock), printable(eventText(e)))
	}
}
