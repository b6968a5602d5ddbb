// Package container runs plugins as containers, through the Docker Engine API.
//
// A service is a container that serves HTTP: its port is published on a free
// loopback port, an invocation is an HTTP request, and it is ready when the port
// answers. A job is a container that reads its input from standard input, and
// whose exit is the result.
//
// What it owns: the containers it creates, which carry the labels below, and
// nothing else of the engine; images that it pulled stay. What it promises:
//
//   - Create, attach, wait, start, in that order, so that no byte of output and no
//     exit is missed; the engine's own restart policy and auto-removal are never
//     used. A container is removed, with its anonymous volumes, once its exit is
//     known and its output is read. One that cannot start is removed too.
//   - Output is always read, so that a plugin never blocks on the daemon, but for
//     a flood while a gap is filled (below). The engine keeps a second copy, the
//     last 20 to 30 MB, for `docker logs` and for gaps.
//   - An engine that goes away for a while does not make its plugins dead: an
//     exit is only reported when an engine has said so.
//   - A service outlives the daemon unless it is bound. The next daemon with the
//     same node name finds it again (Adopt), by its id, labels and start; what
//     nobody adopts it sweeps (Sweep). A run of a job and a bound service end with
//     the daemon: the reaper of adapters/internal/proc asks the engine to remove
//     them, where that is spoken to on a unix socket or plain TCP.
//   - The engine keeps the limits; what it warns of is told by Limits.
//   - What is printed while no daemon listens, or the engine is away, is neither
//     lost nor read twice. Output comes over a connection, because engines lose
//     most of a burst when a log that is followed is rotated; the gap between two
//     connections is read from the engine's log, from a mark (position) on, and
//     joined where the log and the new connection have the same (overlap). Only
//     for a stream that repeats itself many times a second while it is joined a
//     line more or less cannot be told. Output that the engine has rotated away is
//     gone, and that is said.
//   - An image is created by its id, after spec.digest was compared with its id
//     and its registry digests, so that a tag that moves cannot slip in between.
//
// Containers may ask nothing back yet (plugin.Host is not used), and registries
// are asked without credentials. A service needs an engine on this machine.
package container

// The labels of every container of ours. They, not names, tell whose it is.
const (
	labelNode     = "dev.patchbay.node"     // the daemon's identity
	labelPlugin   = "dev.patchbay.plugin"   // the manifest's name
	labelInstance = "dev.patchbay.instance" // plugin.Launch.ID
	labelImage    = "dev.patchbay.image"    // the image as the manifest names it
	labelVersion  = "dev.patchbay.version"  // of these labels' meaning
)

// labelsVersion changes when the labels' meaning does.
const labelsVersion = "1"
