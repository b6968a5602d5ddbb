package cli

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// Imports read other hosts' configurations, by the host's name: the text of a file that
// lies in folder in, manifests out, with notes on what is not as it was.
type Imports map[string]func(text []byte, folder string) (manifests []any, notes []string, err error)

// importing is the import verb, which needs no daemon.
func (a *app) importing(from Imports) *cobra.Command {
	hosts := slices.Sorted(maps.Keys(from))
	var output string
	cmd := &cobra.Command{
		Use:   "import HOST FILE",
		Short: "Print the manifests that another host's configuration amounts to",
		Long: "Print the manifests that another host's configuration amounts to; what could not be taken over stands on standard error.\n" +
			"Nothing is applied and no daemon is asked: read them, then patchbay apply -f them. Run it where the plugins are, because what a path is\n" +
			"is looked up. FILE is - for standard input.\n\n" +
			"  reva  TOML of revad: the services userprovider and authprovider whose driver is a plugin",
		Example:   "  patchbay import reva /etc/revad/revad.toml > reva.yaml",
		Args:      cobra.ExactArgs(2),
		ValidArgs: hosts,
		RunE: func(cmd *cobra.Command, args []string) error {
			read, ok := from[args[0]]
			if !ok {
				return usage("%q is no host whose configuration can be read; it can be %s", args[0], strings.Join(hosts, ", "))
			}
			text, folder, err := toImport(cmd.InOrStdin(), args[1])
			if err != nil {
				return err
			}
			manifests, notes, err := read(text, folder)
			if err != nil {
				return fmt.Errorf("%s: %w", args[1], err)
			}
			for _, note := range notes {
				fmt.Fprintln(cmd.ErrOrStderr(), "note: "+oneLine(note))
			}
			if output == "json" {
				return printJSON(cmd.OutOrStdout(), manifests)
			}
			for i, m := range manifests {
				if i > 0 {
					fmt.Fprintln(cmd.OutOrStdout(), "---")
				}
				if err := printYAML(cmd.OutOrStdout(), m); err != nil {
					return err
				}
			}
			return nil
		},
	}
	outputFlag(cmd, &output, "yaml", "json")
	return cmd
}

// toImport reads the file, and says where its relative paths start.
func toImport(in io.Reader, path string) (text []byte, folder string, err error) {
	if path == "-" {
		folder, err = os.Getwd()
		if err != nil {
			return nil, "", err
		}
		text, err = bounded(in, "standard input")
		return text, folder, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, "", usage("%s", err)
	}
	defer f.Close() // it was only read
	if folder, err = filepath.Abs(filepath.Dir(path)); err != nil {
		return nil, "", err
	}
	text, err = bounded(f, path)
	return text, folder, err
}
