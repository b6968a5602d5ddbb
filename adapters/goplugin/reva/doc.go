// Package reva is what is known of Reva's runtime plugins (cs3org/reva), so that a
// manifest need not say it: the methods and types of its two kinds of plugins, and its
// error types.
//
// There are three dialects of one protocol: net/rpc by go-plugin, version 1, cookie
// BASIC_PLUGIN.
//
//	dialect  Reva                               cookie  a call's context     SkipFetchingGroups
//	A        1.12 to 1.17, 2.0 to 2.2           hello   a map, left out      no
//	B        1.18 to 1.24, 2.3 to 2.27          hello   a map, left out      yes
//	C        the proposal cs3org/reva#1970      reva    a struct, always     no
//
// B's description serves A too: a plugin ignores what it does not know. To leave the
// context out with C kills the plugin, and a map is no struct: that one has to be
// told apart, by the cookie that the plugin accepts.
//
// It owns nothing. Import reads what Reva is configured with, and looks up whether a
// path is a folder; there is no other I/O.
package reva
