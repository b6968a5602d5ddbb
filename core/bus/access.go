package bus

import (
	"crypto/subtle"

	"github.com/nats-io/nats-server/v2/server"
)

// access decides who may do what at the embedded server. The daemon's own
// connections may do everything; whoever has the token of the data folder may
// listen, read history, invoke plugins, answer their callbacks and publish data, but not write what the
// daemon believes: desired state, status, events and logs.
type access struct {
	own     string // made anew at each start, never written down
	clients string
}

// Check is asked for each connection.
func (a access) Check(c server.ClientAuthentication) bool {
	given := c.GetOpts().Token
	switch {
	case same(given, a.own):
		return true
	case same(given, a.clients):
		c.RegisterUser(&server.User{Username: "client", Permissions: clientPermissions()})
		return true
	}
	return false
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

func clientPermissions() *server.Permissions {
	publish := []string{
		invokePrefix + ">", dataPrefix + ">", answerPrefix + ">", "$SRV.>",
		"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.ACK.>", "$JS.FC.>",
	}
	for _, stream := range []string{streamStatus, streamEvents, streamLogs} {
		publish = append(publish,
			"$JS.API.STREAM.INFO."+stream, "$JS.API.STREAM.MSG.GET."+stream,
			"$JS.API.DIRECT.GET."+stream, "$JS.API.DIRECT.GET."+stream+".>",
			"$JS.API.CONSUMER.CREATE."+stream, "$JS.API.CONSUMER.CREATE."+stream+".>", "$JS.API.CONSUMER.DURABLE.CREATE."+stream+".>",
			"$JS.API.CONSUMER.INFO."+stream+".>", "$JS.API.CONSUMER.DELETE."+stream+".>", "$JS.API.CONSUMER.MSG.NEXT."+stream+".>",
			"$JS.API.CONSUMER.NAMES."+stream, "$JS.API.CONSUMER.LIST."+stream,
		)
	}
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: publish},
		Subscribe: &server.SubjectPermission{Allow: []string{"patchbay.v1.>", "_INBOX.>"}},
	}
}
