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
//     starts inherits, also after setsid, and what is in its cgroups.
//   - A bound child ends with the daemon: PDEATHSIG is SIGKILL. The kernel sends it
//     when the *thread* that forked ends, so all starts happen on one OS thread
//     that is kept for the life of the daemon. Go checks in the child that the
//     parent was not gone before the signal was armed.
//   - A detached child outlives the daemon. Its [Handle] finds it again, and [Adopt]
//     signals nothing that it has not proved to be that very process: through a
//     pidfd opened before the proof. The exit of an adopted process is seen by that
//     pidfd, and how it ended is told by it since Linux 6.15. An older kernel tells
//     only who reaps it, which since the first daemon's death is process 1: its
//     code is then known as long as it is a zombie, and else said to be unknown. Nor
//     is a process of ours kept between the two for this alone.
//   - What a bound child has started, and bound containers, end within a second of
//     the daemon's death: see [Bind]. The daemon tells one small process of its own
//     binary, the reaper, what there is, and at the end of their pipe, which nobody
//     else holds, the reaper kills what is left: processes by pid and start time, by
//     the mark in their environment, by group and by cgroup, each through a pidfd
//     opened before the proof. What has another session, another environment and no
//     cgroup escapes it, as it does today's supervisors.
//   - With [Spec].Limits a child is in its cgroups before its first instruction, and
//     everything that it starts is in them too; they are emptied and removed when it
//     has ended. [Process.Limits] says what keeps each limit, or why nothing does.
//   - With [Spec].Digest what is executed is the very file that was hashed.
//   - A child holds no file of the daemon but those that Spec names.
//
// The usual start is a plain fork and exec. A private /tmp, rlimits and cgroup v1
// need work between the two; for it the daemon's own binary is executed as a helper
// (see [Child]), which does that and then becomes the target. Into a cgroup of v2 the
// kernel forks directly.
//
// # Limits
//
//	limit      cgroup v2             cgroup v1             else
//	memory     memory.max, no swap   limit_in_bytes, memsw RLIMIT_DATA, per process
//	cpu        cpu.max               cpu.cfs_quota_us      not kept
//	pids       pids.max              pids.max              not kept
//	openFiles  RLIMIT_NOFILE, per process, everywhere
//
// v2 is used for a limit where its controller is delegated, v1 where it is mounted
// and writable; on a hybrid machine both are. A group is BASE/patchbay/NODE/INSTANCE
// (INSTANCE.2 while an earlier process's is being removed). BASE is the daemon's own
// group in v1. In v2, where a group with members that have controllers may have no
// processes itself, it is what systemd has delegated to the daemon (Delegate=, best
// with DelegateSubgroup=daemon; else the daemon moves into a leaf called daemon), or
// the root. Learnt on the way:
//
//   - RLIMIT_NPROC counts the user's processes, so it cannot limit one plugin;
//     RLIMIT_AS counts addresses that Go, Java and Node reserve and never use.
//   - Go raises its own soft limit of open files and puts it back at exec, unless the
//     program has set it by syscall.Setrlimit.
//   - A pids limit also counts the helper's threads. A move into a group is never
//     refused, a new thread is: the helper goes in last, and by a raw system call.
//   - memory.events and memory.oom_control count a kill before the signal is sent, so
//     the count is there when the exit is. An exit is out of memory when the leader
//     died by a SIGKILL that was not ours, or in a way that nobody tells, and the
//     count is not zero, or not what it was when the leader was adopted.
//   - In v1 a zombie is no member, and cgroup.kill is v2's: members of v1 are killed
//     one by one until the folder can be removed.
package proc
