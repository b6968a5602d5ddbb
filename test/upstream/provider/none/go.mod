// An empty stand-in: the Digital Rebar library's go.mod names a version of this
// module that the checksum database does not know, and the packages that are
// used here never import it.
module github.com/rackn/netwrangler

go 1.26.8
