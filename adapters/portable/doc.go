// Package portable runs LF Edge eKuiper portable plugins, written with the Go or
// the Python SDK of eKuiper 1.4 to 2.4, unmodified: it starts the process, speaks
// nng's wire over unix sockets (package sp), and turns functions into operations,
// sources into publishers and sinks into subscribers.
//
// It owns the process, the sockets, and the goroutines that serve them; all of
// them are gone when Wait returns. Nothing of it is shared between instances:
// the SDKs have their socket paths under /tmp compiled in, so every instance gets
// a /tmp of its own, which is its instance folder in a private mount namespace.
// Where the kernel refuses such a namespace the launch fails and says so; there
// is no way to run two plugins safely on one /tmp. Only the started process and
// its descendants may connect.
//
// What a caller should know:
//
//   - An operation is a function. Its data is a JSON array, the arguments; any
//     other JSON value is one argument, and no data is none. A list as only
//     argument is written [[...]].
//   - A function has one call at a time, by its protocol; more wait in line. A
//     call that was given up still occupies the function until it answers; the
//     late answer is recognised and dropped.
//   - state:false is a *plugin.Refusal. Of a Python traceback the last line is its
//     message and the whole its details.
//   - A Go plugin takes at most 1 MiB in one call or message; the SDK would drop
//     the connection, so it is refused here.
//   - A source publishes each tuple's message; its meta is dropped. What it
//     reports as an error goes to the plugin's log.
//   - A sink gets each message as it is, one at a time, and its acknowledgements
//     are read; a failed one goes to the plugin's log.
//   - The SDK for Go leaks a hundred megabytes a second once one of its sinks has
//     been stopped. A Go sink is therefore never stopped while its process is to
//     live on: when its stream ends it is left without data, and taken up again
//     when the same sink with the same configuration is wanted.
//   - The probe asks every function that is not in a call whether it is an
//     aggregate, which changes nothing, and looks at the control connection.
//   - A detached plugin outlives the daemon, and the next one adopts it: the same
//     process, with its functions, sources and sinks as they run. See below.
//   - spec.digest is that of the executable. For Python it is the script's, hashed
//     right before the launch; what it imports is not covered.
//
// # Adoption
//
// The SDK for Python ends its process when its control connection is lost, and a
// source whose data nobody takes for a second; that for Go loses a source's data.
// So the connections themselves outlive the daemon. They lie, as a message that
// nobody reads, in a pair of sockets whose ends are among the plugin's descriptors
// (3 and 4), with a record of the sources and sinks that run, and with one mark for
// each request channel: the id of the newest request, and whether it was answered.
// The kernel keeps all that as long as the plugin lives. A plugin that closes the two
// descriptors, or whose descriptors the kernel keeps from us (proc.Process.Descriptor),
// is ended by the adoption, to be launched anew; so is one that does not answer.
//
//   - While there is no daemon, requests and tuples wait in the sockets, a few
//     hundred short ones each. Sources that send more are as without a reader: the
//     SDK for Go drops tuples, that for Python ends the source.
//   - A daemon that leaves loses nothing: what it had read of a tuple is in the
//     record. One that is killed takes along what it had read and not published;
//     the next begins with the first whole tuple.
//   - A call of the killed daemon keeps its function busy until it answers; the
//     answer is dropped. A command that was noted and not sent any more is not sent.
//     A daemon that is killed in the midst of writing a long call leaves half a
//     frame: that function does not answer any more, and the probe says so.
//   - A source or sink goes on when a stream of the same configuration is wanted,
//     and is not started again. A start that was under way counts as done: if it
//     was not, the source has no connection, and is started again 3 s later.
//   - More than 250 connections are not kept.
package portable
