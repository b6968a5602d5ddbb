package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

type invokeOptions struct {
	data, contentType, stream string
	timeout                   time.Duration
	metadata                  map[string]string
	told                      bool
}

// How an invocation goes in parts: the values of --stream.
const (
	streamAuto   = "auto"   // as the operation says
	streamBoth   = "both"   // the argument and the answer; --stream alone
	streamAlways = "always" // the answer
	streamNever  = "never"
)

func (a *app) invoke() *cobra.Command {
	var o invokeOptions
	cmd := &cobra.Command{
		Use:   "invoke NAME OPERATION",
		Short: "Invoke an operation of a plugin",
		Long: `Invoke an operation of a plugin and print its answer on stdout as it is. The answer
of an operation that streams is printed part by part, a line each. The argument of an
operation that takes a stream is read from --data, or without it from standard input:
JSON values, each sent as soon as it is read. --stream does so without asking the plugin
what its operation takes.

A plugin's own no is printed on stderr as "refused: ...", with exit code 1; that it
could not be asked as "patchbay: ...", with exit code 3 when it cannot answer now, 7
when it did not answer in time, 4 when there is no such plugin or operation.`,
		Example: `  patchbay invoke hello greet --data '{"name": "you"}'
  patchbay invoke hello greet --data @request.json --timeout 2s
  echo '{"name": "you"}' | patchbay invoke hello greet --data -
  tail -f readings.ndjson | patchbay invoke meter watch --stream`,
		Args: cobra.ExactArgs(2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return a.completePlugins(cmd, args, prefix)
			}
			return a.completeOperations(cmd, args[0], prefix)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := o.invocation(args)
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			return o.run(cmd, c, in)
		},
	}
	cmd.Flags().StringVarP(&o.data, "data", "d", "", "argument: JSON, @FILE, or - for standard input")
	cmd.Flags().StringVar(&o.contentType, "content-type", "", "what the argument is, when it is not JSON")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 0, "answer within this (default: the manifest's)")
	cmd.Flags().StringToStringVar(&o.metadata, "metadata", nil, "key=value that travels beside the argument")
	cmd.Flags().BoolVar(&o.told, "show-metadata", false, "print what the plugin says beside its answer on stderr")
	cmd.Flags().StringVar(&o.stream, "stream", streamAuto, "in parts: auto, both, always (the answer) or never")
	cmd.Flags().Lookup("stream").NoOptDefVal = streamBoth
	return cmd
}

func (o invokeOptions) invocation(args []string) (client.Invocation, error) {
	in := client.Invocation{
		Plugin: args[0], Operation: args[1], ContentType: o.contentType, Metadata: o.metadata, Timeout: o.timeout,
	}
	if o.timeout < 0 {
		return in, usage("--timeout: %s is less than nothing", o.timeout)
	}
	switch o.stream {
	case streamAuto, streamAlways, streamNever:
	case streamBoth:
		if o.contentType != "" {
			return in, usage("--content-type: an argument in parts is JSON; leave it out")
		}
	default:
		return in, usage("--stream: %q is not one of auto, both, always, never", o.stream)
	}
	return in, nil
}

// argument reads --data.
func argument(stdin io.Reader, data string) ([]byte, error) {
	if data == "-" {
		return payload(stdin, "standard input")
	}
	name, isFile := strings.CutPrefix(data, "@")
	if !isFile {
		return []byte(data), nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, usage("--data: %s", err)
	}
	defer f.Close()
	return payload(f, name)
}

func payload(from io.Reader, name string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(from, plugin.PayloadBytesMax+1))
	if err != nil {
		return nil, usage("--data: %s: %s", name, err)
	}
	if len(data) > plugin.PayloadBytesMax {
		return nil, usage("--data: %s: has more than %d bytes, the most that an argument may have", name, plugin.PayloadBytesMax)
	}
	return data, nil
}

func (o invokeOptions) run(cmd *cobra.Command, c *client.Client, in client.Invocation) error {
	takes, answers := o.stream == streamBoth, o.stream == streamBoth || o.stream == streamAlways
	if o.stream == streamAuto {
		offered := offered(cmd, c, in)
		takes, answers = offered.TakesStream && o.contentType == "", offered.Streams
	}
	if o.told {
		in.Told = func(metadata map[string]string) {
			for _, key := range slices.Sorted(maps.Keys(metadata)) {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", key, metadata[key])
			}
		}
	}
	if takes {
		from, closes, err := source(cmd.InOrStdin(), o.data)
		if err != nil {
			return err
		}
		defer closes()
		in.Parts = partsOf(from)
	} else {
		var err error
		if in.Data, err = argument(cmd.InOrStdin(), o.data); err != nil {
			return err
		}
	}
	out := cmd.OutOrStdout()
	if answers {
		return c.InvokeStream(cmd.Context(), in, func(part []byte) error {
			_, err := out.Write(ended(part))
			return err
		})
	}
	result, err := c.Invoke(cmd.Context(), in)
	if err != nil {
		return err
	}
	if result.ContentType == "" {
		result.Data = ended(result.Data)
	}
	_, err = out.Write(result.Data)
	return err
}

// offered asks what the plugin says of the operation. One of a plugin that does not say
// what it offers is invoked all the same.
func offered(cmd *cobra.Command, c *client.Client, in client.Invocation) plugin.Operation {
	ctx, cancel := context.WithTimeout(cmd.Context(), describeMax)
	defer cancel()
	found, err := c.Operations(ctx, in.Plugin)
	if err != nil {
		return plugin.Operation{}
	}
	for _, operation := range found {
		if operation.Name == in.Operation {
			return operation
		}
	}
	return plugin.Operation{}
}

func (a *app) completeOperations(cmd *cobra.Command, name, prefix string) ([]string, cobra.ShellCompDirective) {
	c, err := a.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	found, err := c.Operations(cmd.Context(), name)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, o := range found {
		if strings.HasPrefix(o.Name, prefix) {
			names = append(names, o.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
