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
	follow, previous   bool
	since, level, grep string
	selector, instance string
	tail               int
	output             string
	several            bool // more than one plugin may be shown
}

func (a *app) logs() *cobra.Command {
	var o logsOptions
	cmd := &cobra.Command{
		Use:   "logs [NAME ...]",
		Short: "Show what plugins printed",
		Long: "Show what plugins printed: those that are named, and those whose labels match -l\n(-l '' chooses all), in the order in which it came. " +
			"-f goes on over restarts of\nplugins and of the daemon, each line once.",
		Example:           "  patchbay logs hello -f\n  patchbay logs hello world --since 10m -o json\n  patchbay logs -l team=edge --level warn --grep 'timeout|refused'\n  patchbay logs hello --previous",
		ValidArgsFunction: a.completePlugins,
		RunE: func(cmd *cobra.Command, args []string) error {
			query, err := o.query(cmd, args, time.Now())
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			lines := c.MergedLogs(cmd.Context(), query)
			if !o.several {
				lines = c.Logs(cmd.Context(), args[0], query)
			}
			print := linePrinter{out: cmd.OutOrStdout(), errs: cmd.ErrOrStderr(), output: o.output, several: o.several}
			for line, err := range lines {
				if err != nil {
					return err
				}
				if err := print.line(line); err != nil {
					return err
				}
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.follow, "follow", "f", false, "go on with what comes")
	flags.StringVar(&o.since, "since", "", "begin at this time (RFC 3339) or so long ago (10m)")
	flags.IntVar(&o.tail, "tail", tailDefault, "the last so many lines of those that are chosen; -1: all that are kept")
	flags.StringVarP(&o.selector, "selector", "l", "", "plugins whose labels hold: k=v, k!=v, k, !k, with commas between")
	flags.StringVar(&o.level, "level", "", "the least level: trace, debug, info, warn or error; lines without one count as info")
	flags.StringVar(&o.grep, "grep", "", "only lines whose message or fields match this regular expression (RE2)")
	flags.BoolVar(&o.previous, "previous", false, "the instance before the current one")
	flags.StringVar(&o.instance, "instance", "", "only this instance")
	outputFlag(cmd, &o.output, "text", "raw", "json")
	return cmd
}

func (o *logsOptions) query(cmd *cobra.Command, args []string, now time.Time) (client.LogOptions, error) {
	q := client.LogOptions{
		Follow: o.follow, Tail: o.tail, Level: o.level, Grep: o.grep, Instance: o.instance, Previous: o.previous,
		Plugins: args, Selector: o.selector,
	}
	byLabel := cmd.Flags().Changed("selector")
	o.several = byLabel || len(args) > 1
	switch {
	case len(args) == 0 && !byLabel:
		return q, usage("logs: name plugins, or choose some by -l; -l '' chooses all")
	case len(args) > 0 && byLabel && o.selector == "":
		return q, usage("--selector: chooses all plugins; leave out the names")
	case o.instance != "" && o.several:
		return q, usage("--instance: name the one plugin whose instance it is")
	case o.previous && (o.follow || o.instance != ""):
		return q, usage("--previous: does not go with --follow and --instance")
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

// linePrinter writes log lines.
type linePrinter struct {
	out, errs io.Writer
	output    string
	several   bool
	width     int // of the longest name so far
}

func (p *linePrinter) line(l plugin.LogLine) error {
	switch p.output {
	case "json":
		return printJSONLine(p.out, l)
	case "raw":
		if l.Dropped > 0 {
			if _, err := fmt.Fprintf(p.errs, "... %d lines of %s dropped\n", l.Dropped, l.Plugin); err != nil {
				return err
			}
		}
		_, err := fmt.Fprintln(p.out, l.Message)
		return err
	}
	prefix := ""
	if p.several {
		p.width = max(p.width, len(l.Plugin))
		prefix = fmt.Sprintf("%-*s ", p.width, l.Plugin)
	}
	_, err := fmt.Fprintln(p.out, lineText(prefix, l))
	return err
}

// lineText is a log line for people: time, stream, level, message, fields. The
// lines of a stack trace stand below each other.
func lineText(prefix string, l plugin.LogLine) string {
	var b strings.Builder
	if l.Dropped > 0 {
		fmt.Fprintf(&b, "%s... %d lines dropped\n", prefix, l.Dropped)
	}
	message := strings.Split(l.Message, "\n")
	fmt.Fprintf(&b, "%s%s %-6s %-5s %s", prefix, l.Time.Local().Format(clock), l.Stream, strings.ToUpper(l.Level), printable(message[0]))
	for _, more := range message[1:] {
		fmt.Fprintf(&b, "\n%s%s", prefix, printable(more))
	}
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
