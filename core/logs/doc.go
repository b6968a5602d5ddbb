// Package logs turns the bytes that plugins print into lines: it follows their
// files and takes their streams, cuts lines, lifts level, message and time from
// the usual forms (lift.go), and ships them to the bus in batches.
//
// Promises:
//
//   - A reader never slows a plugin. A child process writes to a file and is never
//     waited for; a writer in the daemon never waits for the bus.
//   - Lines of one stream keep their order and are counted; a gap in the count is
//     told by the next line's Dropped. Nothing is dropped of a file unless its plugin
//     prints more than its rate or more than 256 MiB of it are unread: while the bus
//     is down its lines stay in the file. A plugin that is over its rate and has more
//     than 512 KiB unread floods: a tenth of its rate is taken, most of its output is
//     not read, and how many lines that had is known to some percent. Of a writer the oldest batches are dropped beyond 16,384 lines or
//     8 MiB.
//   - Followers get each line once, in the order of the bus, with the ID under
//     which history has it: history and the live tail join without gap or repeat,
//     and a follower that was too slow goes on from history. While the bus is down
//     lines come at once, without an ID.
//   - A line waits at most 50 ms for others to travel with. A stack trace (of Go,
//     Python, Java or JavaScript) is one line with its lines in it, and waits 100 ms
//     for more of it.
//   - What has been shipped of a file is freed on disk, two to four seconds later, or 128 MiB,
//     but for its first MiB.
//   - A daemon that is killed loses nothing of a file and repeats nothing: the next
//     one reads on behind the last line that is really stored, and counts on.
//   - What an instance that is gone has printed while the bus was down waits on disk
//     (aside.go) for this daemon or the next, up to 64 instances and 64 MiB of a
//     plugin. What is given up is counted.
//   - An instance that prints nothing costs no goroutine, no file and no buffer.
package logs
