// An empty stand-in: Reva's go.mod names a version of this module that the proxy
// does not serve, and only Reva's tests import it.
module bou.ke/monkey

go 1.26.8
