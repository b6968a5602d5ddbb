// Package api is the control plane: REST over HTTP, as a table of routes
// ([Routes]) from which come the handlers, the check of the token and the
// OpenAPI document. It is the only package that knows echo.
//
// It owns the listener while [API.Run] runs, the access log's buffer and the
// metrics registry. It owns no plugin, no event and no log line: those are asked
// of the small interfaces in [Deps].
//
// It promises:
//   - every error is problem+json (RFC 9457) with a type per class; the plugin's
//     own no is 422 with its code, message and details;
//   - /livez and /readyz are open, everything else asks for the bearer token;
//   - an invocation's bytes go in and come out as they are;
//   - the ETag of a plugin is the revision of its manifest. Its status changes
//     without a revision, so a plugin is never answered with 304;
//   - a reader of a stream that is too slow is cut off, and resumes after the last
//     id it saw; it slows down nobody but itself;
//   - when Run's context ends, readyz turns false, streams end, requests under
//     way get drainMax to finish, and Run returns.
package api
