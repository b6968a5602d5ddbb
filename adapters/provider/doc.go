// Package provider is the adapter for Digital Rebar Provision plugin providers:
// programs that describe themselves (define), unpack their files (unpack DIR)
// and then serve HTTP on one unix socket while they post logs and events to
// another, which is ours (listen TO FROM). Providers of both protocol versions,
// 2 and 4, run unmodified.
//
// A launch is: define, unpack, our socket, listen, the READY! line, the config
// post with every parameter expanded. After any fault in it the process is killed
// and nothing is left; a second config is never posted to a live provider, because
// some lose data then. The provider's actions are the operations.
//
// The package owns the process, both sockets and the goroutines that serve them;
// all end with the instance. When it is left, the process and the sockets stay. It
// promises:
//
//   - The log post is always answered 204, at once, whatever was sent: the common
//     library recurses without end when it is not. Nothing that a caller of an
//     action holds is needed for it, and our socket outlives the process.
//   - The result of an action is passed on as the provider wrote it.
//   - Values of secure parameters and of secrets do not reach the log posts or
//     error texts. What the provider prints itself goes to its files as it is.
//
// A detached provider outlives the daemon, and the next one adopts it: the same
// process, with the configuration that it has. It keeps our listening socket among
// its descriptors, so that what it posts while there is no daemon neither fails nor
// is lost: it waits, with whoever posted it, and is answered after the adoption.
// Only a post that was being answered when the daemon was killed fails; of a log
// line the common library then posts the failure with the line in it, of an event
// the failure alone. A provider that closed the descriptor, or whose descriptors the
// kernel keeps from us, gets a new socket at the same path: what it posts meanwhile
// is refused, which costs the common library memory without bound while it lasts.
//
// The Digital Rebar REST API is not served to providers yet. RS_ENDPOINT names the
// address reserved for it, nothing listens there, and calls that the common
// library would make are answered 501 through RS_LOCAL_PROXY, at once instead of
// after its 20 s of retries: such a provider fails with its own message. Who has
// a Digital Rebar server sets RS_ENDPOINT and RS_TOKEN in spec.env. Events are
// not pushed to providers that ask for them (HasPublish) either; a log line says so.
package provider
