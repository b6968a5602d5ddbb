// Package bus joins the daemon to NATS: an embedded nats-server with JetStream,
// or an external server by URL, behind the same code. It owns the subjects
// (subjects.go), the streams (streams.go), the embedded server and four
// connections by role: control, events, logs, and data with invocations.
//
// # What is promised
//
// Ordering. Events are published and delivered to live followers in the order
// of the calls of [Bus.Event]; each is a message of its own. Lines of one
// plugin keep their order when [Bus.LogBatch] is called in order. Statuses are
// the last per subject: what lies between may be skipped. Data streams are
// plain NATS: in order per publisher.
//
// Loss. An event with a sequence is on disk: the embedded server syncs before
// it acknowledges, and a storm is acknowledged in groups, by atomic batches.
// While the bus is down events are kept in memory, 65,536 of them and 64 MiB at most; then
// the oldest go, are counted, and an event of type [plugin.EventDropped] says how many.
// A retry does not store an event twice: what the stream got since the last answer
// is read first, and its id is the message id. Log batches
// are acknowledged but not synced, so a power cut may take the last second of
// logs, and a kill of the daemon the last milliseconds: [Bus.LastLog] tells what is
// really there, and core/logs reads the rest again. Beyond what the stream keeps of
// all, each plugin's log is kept within its own age and bytes; and the oldest of all
// goes while the log has more than 131,072 streams of instances. Packed invocation
// records are best effort: a full ring drops the oldest and counts. Data streams are
// not kept at all.
//
// Back-pressure. Event, Status, Forget and Invoked never wait for the bus.
// LogBatch waits for its acknowledgement, at most five seconds. A live follower has a
// bounded queue of its own and blocks nobody; one that falls behind reads what
// it missed from the stream, and gets an error only where the stream cannot give
// it back. A sink that falls behind loses the newest messages and counts them.
//
// While the bus is down events reach live followers at once, with sequence 0,
// and are stored later. [Bus.Events] gives each of them once; who resumes by sequence
// in another call finds them in the history, with the same id, and can tell.
//
// Health. An embedded server whose streams cannot be written, because its disk was
// full or JetStream turned itself off, is replaced once its disk takes a write: on the
// same store and address, after which connections, subscriptions and statuses are
// there again and what was queued is stored. A stream that somebody deleted is made
// again, and followers go on with the new one.
//
// Time. The order is that of sequences. Two things go by a clock that may be set: how
// long streams keep what is old, and Since, which begins where the server finds that
// time: after its clock was set back, what bears a time that is still to come may or
// may not be among what it gives. Who follows gets what comes all the same.
//
// History and live delivery join without gap or repeat for what this daemon
// publishes; events that other daemons put on a shared external server are in the
// history, not in the live feed.
package bus
