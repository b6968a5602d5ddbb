// Package goplugin runs hashicorp/go-plugin processes, over net/rpc and over
// gRPC, without the plugin's Go types: calls are JSON in and JSON out. It does
// not use go-plugin's own client, which a plugin can crash or hang.
//
// It owns, per instance, one process (of adapters/internal/proc), one connection
// to it and the goroutines that drain it; all end with the process, or when it is
// left for the next daemon. It promises
// that what a plugin prints, answers or announces can neither panic the daemon
// nor use memory beyond spec.limits.payload and the constants of this package,
// and that every wait ends with its context.
//
// A launch is: start (cookie and versions in the environment, stdout and stderr
// to files), one handshake line on stdout ([parseHandshake]), dial (the process
// at the other end of the socket must be the plugin), and then
//
//   - net/rpc: yamux, control and output streams, a stream dispensed per call
//     under way; arguments and answers by a description (internal/describe,
//     internal/gobwire), which is the manifest's or is read from the running
//     binary (internal/debuginfo).
//   - gRPC: server reflection once, then dynamic messages; the plugin's output
//     by its GRPCStdio service.
//
// A plugin that is no executable yet is built or downloaded first (internal/build).
// What a family of plugins has in common is a preset of a manifest. What goes wrong
// with go-plugin's own client, and must not here, is the table of TestFailures.
//
// # Errors over net/rpc
//
// An error that a method returns arrives as text. One inside an answer whose type the
// plugin does not register with encoding/gob cannot be encoded: net/rpc's server
// prints why and closes the stream, which fails the one call on it. The line is
// looked for in standard error and in what comes through the connection
// (causes.go), and its type becomes the code of a refusal; the text is lost. When
// several calls fail at once with different types, it cannot be told which is whose:
// the error then names all of them, and is none of a refusal. A stream that ends without
// such a line is the end of the process, or the call is made once more if the
// plugin has not seen it or may see it twice.
//
// # Adoption
//
// A service is started detached. Its handle is the process, the handshake's content
// and, with TLS, the daemon's certificate and key for it; [Adapter.Adopt] proves the
// process, checks the address as at the launch, and connects anew. A go-plugin
// server accepts any number of connections, one after the other or at once, and
// ends only when it is asked to (Control.Quit, GRPCController.Shutdown): a
// connection that breaks, with or without a goodbye, is nothing to it. Leaving
// is therefore closing.
//
// Standard output and error are files and go on as they are. What the plugin prints
// through os.Stdout and os.Stderr after plugin.Serve has taken them goes to two pipes
// inside the plugin, 64 KiB each, which only a connection empties. Without a daemon
//
//   - a gRPC plugin keeps what it prints, from the moment at which it noticed that
//     the connection is gone: up to 4 KiB in its reader, then the pipe;
//   - a net/rpc plugin loses the first chunk of each pipe, at most 32 KiB: the
//     goroutine that copied to the connection that is gone waits for output before it
//     notices. It complains on standard error ("stream copy 'stdout' error") and
//     ends; what follows is kept in the pipe. If nothing was printed meanwhile, those
//     goroutines are ended by an empty line before the new connection is made, so that
//     the next real line arrives; if all was lost, the empty line is seen in the log. A
//     plugin that has more pipes to itself is not touched, and loses its next chunk;
//   - who prints more than the pipe holds waits, and goes on once it is adopted.
package goplugin
