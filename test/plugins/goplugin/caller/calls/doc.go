// Package calls has the generated gRPC types of the tiny plugin that calls its host,
// and of what it calls there: for tests.
package calls
