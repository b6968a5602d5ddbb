// Package proc starts and ends the child processes of the adapters. It owns how
// a child is started (its own process group, the daemon's environment kept out,
// files instead of pipes), how its exit is seen (a pidfd in the runtime's
// poller: no thread and no polling per child), and how it is ended (a bounded
// ladder that takes the whole group along).
//
// It promises:
//
//   - A child is the leader of its own process group. When it ends, for whatever
//     reason, the rest of the group gets SIGKILL before the leader is reaped, so
//     that the group's number cannot have passed to somebody else; and so does
//     everything that bears its mark, an environment variable which what it
//     starts inherits, also after setsid.
//   - A bound child ends with the daemon: PDEATHSIG is SIGKILL. The kernel sends it
//     when the *thread* that forked ends, so all starts happen on one OS thread
//     that is kept for the life of the daemon. Go checks in the child that the
//     parent was not gone before the signal was armed.
//   - A detached child outlives the daemon. Its
//     [Handle] finds it again, and [Adopt] signals nothing that it has not proved
//     to be that very process: through a pidfd opened before the proof. The exit
//     of an adopted process is seen by that pidfd; its code is known where the
//     kernel tells it (Linux 6.15), and otherwise said to be unknown.
//   - With [Spec].Digest what is executed is the very file that was hashed.
//   - A child holds no file of the daemon but those that Spec names.
//
// The usual start is a plain fork and exec. Only a private /tmp needs work
// between the two; for it the daemon's own binary is executed as a helper (see
// [Child]), which mounts and then becomes the target.
package proc
