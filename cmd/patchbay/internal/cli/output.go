package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// outputFlag adds -o with the formats that a verb has; the first is the default.
func outputFlag(cmd *cobra.Command, into *string, formats ...string) {
	cmd.Flags().StringVarP(into, "output", "o", formats[0], "one of "+strings.Join(formats, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)) // fails for an unknown flag only
	check := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if !slices.Contains(formats, *into) {
			return usage("--output: %q is not one of %s", *into, strings.Join(formats, ", "))
		}
		if check != nil {
			return check(cmd, args)
		}
		return nil
	}
}

func printJSON(to io.Writer, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(to, "%s\n", readable(text))
	return err
}

// printJSONLine writes v as one line.
func printJSONLine(to io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = to.Write(append(readable(text), '\n'))
	return err
}

// readable writes <, > and & as they are: Go escapes them for web pages, also in
// what the daemon passes on as it is. It changes text in place.
func readable(text []byte) []byte {
	to := text[:0]
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			to = append(to, text[i])
			continue
		}
		if i+6 <= len(text) {
			if c := unescaped(string(text[i : i+6])); c != 0 {
				to = append(to, c)
				i += 5
				continue
			}
		}
		to = append(to, text[i], text[i+1]) // so that an escaped backslash begins nothing
		i++
	}
	return to
}

func unescaped(sequence string) byte {
	switch strings.ToLower(sequence) {
	case `\u003c`:
		return '<'
	case `\u003e`:
		return '>'
	case `\u0026`:
		return '&'
	}
	return 0
}

// printYAML writes what printJSON writes, in the same order, as YAML.
func printYAML(to io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var node yaml.Node
	if err := yaml.Unmarshal(text, &node); err != nil { // JSON is YAML
		return err
	}
	block(&node)
	encoder := yaml.NewEncoder(to)
	encoder.SetIndent(2)
	if err := encoder.Encode(&node); err != nil {
		return err
	}
	return encoder.Close()
}

// block drops the braces and quotes that JSON has and YAML does not need.
func block(n *yaml.Node) {
	n.Style = 0
	for _, child := range n.Content {
		block(child)
	}
}

// table writes rows in columns. Colours take no width.
func table(to io.Writer, rows [][]string) error {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], width(cell))
		}
	}
	var text strings.Builder
	for _, row := range rows {
		for i, cell := range row {
			text.WriteString(cell)
			if i < len(row)-1 {
				text.WriteString(strings.Repeat(" ", widths[i]-width(cell)+columnGap))
			}
		}
		text.WriteByte('\n')
	}
	_, err := io.WriteString(to, text.String())
	return err
}

// columnGap is between two columns, as in kubectl's tables.
const columnGap = 3

// width counts the characters that are seen.
func width(cell string) int {
	if rest, ok := strings.CutPrefix(cell, "\x1b["); ok {
		_, rest, _ = strings.Cut(rest, "m")
		cell, _, _ = strings.Cut(rest, "\x1b[")
	}
	return utf8.RuneCountInString(cell)
}

// age says how long ago, in one or two units.
func age(at, now time.Time) string {
	if at.IsZero() {
		return "-"
	}
	d := max(now.Sub(at), 0)
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// oneLine keeps a plugin's text from breaking a table, or the terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// painter colours states on a terminal.
type painter bool

func (p painter) state(s plugin.State) string {
	if !p {
		return string(s)
	}
	colour := "33" // yellow: on its way
	switch s {
	case plugin.Running, plugin.Finished:
		colour = "32"
	case plugin.Failed:
		colour = "31"
	case plugin.Stopped:
		colour = "90"
	}
	return "\x1b[" + colour + "m" + string(s) + "\x1b[0m"
}

// ended is a line that ends: a result gets a newline if it has none.
func ended(text []byte) []byte {
	if len(text) == 0 || bytes.HasSuffix(text, []byte("\n")) {
		return text
	}
	return append(bytes.Clone(text), '\n')
}
