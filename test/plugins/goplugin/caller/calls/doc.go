// Package calls has the generated types of the tiny plugin that calls its host.
package calls
