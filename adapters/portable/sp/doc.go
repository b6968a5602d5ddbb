// Package sp speaks the Scalability Protocols' wire (nanomsg, nng, mangos) over
// unix stream sockets: the greeting, the frames, and the request ids of
// REQ/REP. It is what an eKuiper portable host needs of them and no more.
//
// It owns sockets and the goroutines that serve them, and no policy: which
// request is answered with what is the caller's. Everything that a peer sends
// is bounded, by a limit in bytes and, for the greeting, in time.
//
// The wire: each side first writes 00 'S' 'P' 00, its protocol's number as two
// bytes, 00 00. A frame is a byte 01, its length as eight bytes, big endian, and
// that many bytes. There is no heartbeat and no goodbye.
package sp
