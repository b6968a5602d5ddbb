// Package errtypes has errors of the names that Reva's have. None is registered with
// encoding/gob, as none is there.
package errtypes

// The errors.
type (
	NotFound            string
	InternalError       string
	PermissionDenied    string
	AlreadyExists       string
	UserRequired        string
	InvalidCredentials  string
	NotSupported        string
	PartialContent      string
	BadRequest          string
	ChecksumMismatch    string
	InsufficientStorage string
)

func (e NotFound) Error() string            { return "not found: " + string(e) }
func (e InternalError) Error() string       { return "internal error: " + string(e) }
func (e PermissionDenied) Error() string    { return "permission denied: " + string(e) }
func (e AlreadyExists) Error() string       { return "already exists: " + string(e) }
func (e UserRequired) Error() string        { return "user required: " + string(e) }
func (e InvalidCredentials) Error() string  { return "invalid credentials: " + string(e) }
func (e NotSupported) Error() string        { return "not supported: " + string(e) }
func (e PartialContent) Error() string      { return "partial content: " + string(e) }
func (e BadRequest) Error() string          { return "bad request: " + string(e) }
func (e ChecksumMismatch) Error() string    { return "checksum mismatch: " + string(e) }
func (e InsufficientStorage) Error() string { return "insufficient storage: " + string(e) }

// All has one of each, by its name.
func All() map[string]error {
	return map[string]error{
		"NotFound": NotFound("it"), "InternalError": InternalError("it"), "PermissionDenied": PermissionDenied("it"),
		"AlreadyExists": AlreadyExists("it"), "UserRequired": UserRequired("it"), "InvalidCredentials": InvalidCredentials("it"),
		"NotSupported": NotSupported("it"), "PartialContent": PartialContent("it"), "BadRequest": BadRequest("it"),
		"ChecksumMismatch": ChecksumMismatch("it"), "InsufficientStorage": InsufficientStorage("it"),
	}
}
