package cli

import (
	"context"
	"io"
	"os"
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
}

func (a *app) invoke() *cobra.Command {
	var o invokeOptions
	cmd := &cobra.Command{
		Use:   "invoke NAME OPERATION",
		Short: "Invoke an operation of a plugin",
		Long: `Invoke an operation of a plugin and print its answer on stdout as it is. The answer
of an operation that streams is printed part by part, a line each.

A plugin's own no is printed on stderr as "refused: ...", with exit code 1; that it
could not be asked as "patchbay: ...", with exit code 3 when it cannot answer now, 7
when it did not answer in time, 4 when there is no such plugin or operation.`,
		Example: `  patchbay invoke hello greet --data '{"name": "you"}'
  patchbay invoke hello greet --data @request.json --timeout 2s
  echo '{"name": "you"}' | patchbay invoke hello greet --data -`,
		Args: cobra.ExactArgs(2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return a.completePlugins(cmd, args, prefix)
			}
			return a.completeOperations(cmd, args[0], prefix)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := o.invocation(cmd, args)
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
	cmd.Flags().StringVar(&o.stream, "stream", "auto", "take the answer in parts: auto, always, never")
	return cmd
}

func (o invokeOptions) invocation(cmd *cobra.Command, args []string) (client.Invocation, error) {
	in := client.Invocation{
		Plugin: args[0], Operation: args[1], ContentType: o.contentType, Metadata: o.metadata, Timeout: o.timeout,
	}
	if o.timeout < 0 {
		return in, usage("--timeout: %s is less than nothing", o.timeout)
	}
	switch o.stream {
	case "auto", "always", "never":
	default:
		return in, usage("--stream: %q is not one of auto, always, never", o.stream)
	}
	var err error
	in.Data, err = argument(cmd.InOrStdin(), o.data)
	return in, err
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
	out := cmd.OutOrStdout()
	if o.stream == "always" || o.stream == "auto" && inParts(cmd, c, in) {
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

// inParts asks whether the operation answers in parts. A plugin that does not say
// what it offers is invoked all the same.
func inParts(cmd *cobra.Command, c *client.Client, in client.Invocation) bool {
	ctx, cancel := context.WithTimeout(cmd.Context(), describeMax)
	defer cancel()
	found, err := c.Operations(ctx, in.Plugin)
	if err != nil {
		return false
	}
	for _, operation := range found {
		if operation.Name == in.Operation {
			return operation.Streams
		}
	}
	return false
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
