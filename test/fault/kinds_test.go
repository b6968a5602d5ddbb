package fault

import "fmt"

// habits is the environment of a tiny plugin: how long it starts, how often it
// prints a counted line (test/plugins/habit). Empty is not at all.
type habits struct{ start, count string }

func (h habits) env() string {
	if h.start == "" {
		h.start = "0s"
	}
	if h.count == "" {
		h.count = "0s"
	}
	return fmt.Sprintf("{TINY_START: %s, TINY_COUNT: %s}", h.start, h.count)
}

// kind is one way to run a tiny plugin.
type kind struct {
	name string
	// block is the adapter's part of the manifest.
	block string
	// echo and slow are operations and their arguments; slow takes some 2 s.
	echo, echoData, slow, slowData string
	// detached ones are processes or containers, and are adopted.
	detached, container bool
}

// manifest is a document of a multi-document file.
func (k kind) manifest(h habits) string {
	env := "  env: " + h.env() + "\n"
	if !k.detached {
		env = ""
	}
	return fmt.Sprintf("---\napiVersion: patchbay/v1\nkind: Plugin\nmetadata: {name: %s}\nspec:\n%s%s", k.name, k.block, env)
}

func processKinds() []kind {
	const handshake = "    handshake: {key: PATCHBAY_TINY, value: 3f2c, versions: [1]}\n"
	grpc := "  goplugin:\n    command: [" + program("grpc") + "]\n" + handshake + "    transport: grpc\n"
	return []kind{
		{
			name: "netrpc", detached: true,
			block: "  goplugin:\n    command: [" + program("netrpc") + "]\n" + handshake + `    transport: netrpc
    plugin: tiny
    describe:
      methods: {Echo: {args: Text, reply: Text}, Slow: {args: Wait, reply: Text}}
      types: {Text: {fields: {Text: string}}, Wait: {fields: {Milliseconds: int64}}}
`,
			echo: "Echo", echoData: `{"Text":"x"}`, slow: "Slow", slowData: `{"Milliseconds": 2000}`,
		},
		{name: "grpc", detached: true, block: grpc, echo: "Echo", echoData: `{"text":"x"}`, slow: "Slow", slowData: `{"milliseconds": "2000"}`},
		{name: "grpctls", detached: true, block: grpc + "    tls: auto\n", echo: "Echo", echoData: `{"text":"x"}`, slow: "Slow", slowData: `{"milliseconds": "2000"}`},
		{
			name: "portable", detached: true,
			block: "  portable: {language: go, name: tiny, functions: [echo, slow], executable: " + program("portable") + "}\n",
			echo:  "echo", echoData: `["x"]`, slow: "slow", slowData: `[2000]`,
		},
		{
			name: "provider", detached: true,
			block: "  provider:\n    command: [" + program("provider") + "]\n    params: {demo/step: 1}\n",
			echo:  "echo", echoData: `{"message":"x"}`, slow: "slow", slowData: `{"milliseconds": 2000}`,
		},
		starlarkKind("starlark", ""),
	}
}

// starlarkKind begins with the work given, at the top of its module.
func starlarkKind(name, begin string) kind {
	return kind{
		name: name,
		block: `  starlark:
    source: |
      def echo(value):
          return value
      def slow(ms):
          work = range(100000)
          for _ in range(ms):
              list(work)
          return ms
      ` + begin + "\n",
		echo: "echo", echoData: `"x"`, slow: "slow", slowData: `2000`,
	}
}

func containerKind() kind {
	return kind{
		name: "container", detached: true, container: true,
		block: "  container: {image: 'patchbay-test/echo:latest', pull: never, port: 8080, health: /health, operations: [{name: echo}, {name: slow}]}\n",
		echo:  "echo", echoData: `{"message":"x"}`, slow: "slow", slowData: `{"ms": 2000}`,
	}
}
