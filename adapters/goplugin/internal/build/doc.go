// Package build turns the Go source of a plugin, in a folder or behind a URL, into an
// executable.
//
// It owns one folder of the daemon's: the executables that it built, by what they
// were built from (a hash over the source, or a URL and its pin; and the version of
// Go), so that a start finds what an earlier one built; Go's own caches; and work
// under way, which is removed. What it promises:
//
//   - Nothing of the source is run by a build: the go tool is started by its
//     arguments, with an environment of its own, without cgo, version control,
//     go generate or another toolchain. It downloads the modules that the source
//     requires, as go.sum has them, and then compiles without a network.
//   - Both happen behind a fence (proc.Fence), in case that the go tool can be made to
//     run something after all: it sees the source, its work, Go and its caches, and no
//     file of the daemon's or of its user's; it may change its work and the caches; it
//     has no capability, and nothing of it outlives it. The caches are those of all
//     builds.
//   - What is built is what was hashed: the source is copied first. As in Go's module
//     archives, links are left out, and so is .git.
//   - A URL has to be on the daemon's list, is https, and is pinned: by a digest of
//     what is downloaded, or by a commit, for which GitHub's word is taken.
//   - Sizes and counts are bounded by the constants of this package, a build by
//     buildMax, and one is made at a time. A build goes on when the launch that waited
//     for it gave up: spec.timeouts.start is about the plugin's start.
package build
