package sp

import (
	"errors"
	"fmt"
)

const (
	idBytes = 4
	// hopsMax is the SP time-to-live: how many devices a request may have passed.
	hopsMax = 8
	// lastWord marks the request id itself, the end of the path.
	lastWord = 0x80
)

// ErrNoRequestID is a request that carries no request id, which cannot be
// answered.
var ErrNoRequestID = errors.New("the request has no id")

// SplitRequest cuts a payload received by REP into the request id, with the path
// that devices put before it, and the body. A reply begins with the same id.
// Both are parts of payload.
func SplitRequest(payload []byte) (id, body []byte, err error) {
	for end := idBytes; end <= len(payload) && end <= idBytes*(hopsMax+1); end += idBytes {
		if payload[end-idBytes]&lastWord != 0 {
			return payload[:end], payload[end:], nil
		}
	}
	return nil, nil, fmt.Errorf("%w: %d bytes", ErrNoRequestID, len(payload))
}
