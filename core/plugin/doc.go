// Package plugin is the vocabulary of the house: every noun that the core, the
// adapters, the command line and the SDKs share. It imports the standard
// library only, owns no goroutine and does no I/O.
//
// An [Adapter] speaks one plugin protocol and turns a [Manifest] into a running
// [Instance]. What only some can do is an optional interface of one method,
// found by type assertion:
//
//	interface          implemented by  asked for by        gives
//	Specifier          Adapter         core/manifest       the Go type of its manifest block
//	Availability       Adapter         core/health         can it launch anything at all, now?
//	Sweeper            Adapter         core/reconcile      removal of what an earlier daemon left
//	Adopter            Adapter         core/supervise      an instance of an earlier daemon, found again
//	Overlapper         Adapter         core/supervise      which plugins may have two instances at once
//	Digester           Instance        core/supervise      the digest of what it runs, for a pin
//	Survivor           Instance        core/supervise      an instance that the next daemon can adopt
//	Limited            Instance        core/supervise      how its limits are enforced
//	Resumer            Output          an adapter          a log that goes on after an adoption
//	Keeper             Host            an adapter          keys and values of the plugin's own
//	Requester          Host            an adapter          an answer of whoever listens on the bus
//	CallbackCounter    Host            an adapter          what the plugin asks, for metrics
//	Resident           Adapter         core/supervise      instances that need no folder
//	Ender              Instance        core/supervise      its end as a channel
//	Prober             Instance        core/supervise      a sign of life
//	Execer             Instance        core/supervise      a command run where the plugin runs, for probes
//	Addressed          Instance        core/supervise      where a port of the plugin is reached, for probes
//	Stepper            Instance        core/supervise      how its stop went, step by step
//	Describer          Instance        core/api            the operations it offers
//	Streamer           Instance        core/supervise      sources and sinks
//	StreamInvoker      Instance        core/dispatch       operations that answer in parts
//	PartsTaker         Instance        core/supervise      operations whose argument comes in parts
//	Inspector          Instance        core/supervise      pid, container id and the like for status
//
// Errors carry one of seven classes ([ErrInvalid] and its siblings) wrapped with
// %w; a plugin's own no is a [*Refusal]. core/api maps both to HTTP in one place.
package plugin
