package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

// tailDefault is what is shown when nothing else is asked for: a few screens.
const tailDefault = 500

// clock is how times of today are written.
const clock = "15:04:05.000"

type logsOptions struct {
	follow bool
	since  string
	tail   int
	output string
}

func (a *app) logs() *cobra.Command {
	var o logsOptions
	cmd := &cobra.Command{
		Use:               "logs NAME",
		Short:             "Show what a plugin printed",
		Example:           "  patchbay logs hello -f\n  patchbay logs hello --since 10m -o json",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completePlugins,
		RunE: func(cmd *cobra.Command, args []string) error {
			query, err := o.query(cmd, time.Now())
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			for line, err := range c.Logs(cmd.Context(), args[0], query) {
				if err != nil {
					return err
				}
				if err := printLine(cmd.OutOrStdout(), o.output, line); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on with what comes")
	cmd.Flags().StringVar(&o.since, "since", "", "begin at this time (RFC 3339) or so long ago (10m)")
	cmd.Flags().IntVar(&o.tail, "tail", tailDefault, "the last so many lines; -1: all that are kept")
	outputFlag(cmd, &o.output, "text", "raw", "json")
	return cmd
}

func (o logsOptions) query(cmd *cobra.Command, now time.Time) (client.LogOptions, error) {
	q := client.LogOptions{Follow: o.follow, Tail: o.tail}
	switch {
	case o.tail == 0 || o.tail < -1:
		return q, usage("--tail: give a number above 0, or -1 for all")
	case o.tail == -1, o.since != "" && !cmd.Flags().Changed("tail"):
		q.Tail = 0
	}
	var err error
	q.Since, err = moment(o.since, now)
	return q, err
}

// moment reads --since.
func moment(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return at, nil
	}
	ago, err := time.ParseDuration(text)
	if err != nil || ago <= 0 {
		return time.Time{}, usage("--since: %q is neither a time, such as 2026-01-31T12:00:00Z, nor how long ago, such as 10m", text)
	}
	return now.Add(-ago), nil
}

func printLine(out io.Writer, output string, l plugin.LogLine) error {
	switch output {
	case "json":
		return printJSONLine(out, l)
	case "raw":
		_, err := fmt.Fprintln(out, l.Message)
		return err
	}
	_, err := fmt.Fprintln(out, lineText(l))
	return err
}

// lineText is a log line for people: time, stream, level, message, fields.
func lineText(l plugin.LogLine) string {
	var b strings.Builder
	if l.Dropped > 0 {
		fmt.Fprintf(&b, "... %d lines were lost here\n", l.Dropped)
	}
	fmt.Fprintf(&b, "%s %-6s %-5s %s", l.Time.Local().Format(clock), l.Stream, strings.ToUpper(l.Level), printable(l.Message))
	b.WriteString(fieldsText(l.Fields))
	if l.Truncated {
		b.WriteString(" ... (cut)")
	}
	return b.String()
}

// fieldsText writes the fields of a structured line as key=value, sorted.
func fieldsText(raw plugin.RawJSON) string {
	var fields map[string]plugin.RawJSON
	if len(raw) == 0 || json.Unmarshal(raw, &fields) != nil {
		return ""
	}
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		fmt.Fprintf(&b, " %s=%s", printable(key), printable(string(fields[key])))
	}
	return b.String()
}

// printable keeps a plugin's text from steering the terminal. Tabs stay.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return '\uFFFD'
		}
		return r
	}, s)
}
