package e2e

import (
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/rogpeppe/go-internal/testscript"
)

// cmdTalk: talk SUBJECT answer|argument|both DATA... invokes in parts, and prints what
// comes. With answer DATA is the argument, else its parts, each sent when the one
// before is taken.
func cmdTalk(ts *testscript.TestScript, _ bool, args []string) {
	conn := connect(ts)
	defer conn.Close()
	inbox, err := conn.SubscribeSync(nats.NewInbox())
	ts.Check(err)
	m := &nats.Msg{Subject: args[0], Reply: inbox.Subject, Header: nats.Header{
		"Patchbay-Stream": []string{args[1]}, "Patchbay-Window": []string{"4"}, "Patchbay-Want-Metadata": []string{"*"},
	}}
	if args[1] == "answer" {
		m.Data = []byte(args[2])
	}
	ts.Check(conn.PublishMsg(m))
	for {
		got, err := inbox.NextMsg(patience)
		ts.Check(err)
		kind := got.Header.Get("Patchbay-Stream")
		fmt.Fprintf(ts.Stdout(), "%s %s%s\n", kind, got.Header.Get("Nats-Service-Error"), got.Data)
		for key, values := range got.Header {
			if strings.HasPrefix(key, "Patchbay-Meta-") {
				fmt.Fprintf(ts.Stdout(), "%s: %s\n", key, values[0])
			}
		}
		switch kind {
		case "open":
			for _, part := range args[2:] {
				_, err := conn.Request(got.Reply, []byte(part), patience)
				ts.Check(err)
			}
			ts.Check(conn.PublishMsg(&nats.Msg{Subject: got.Reply, Header: nats.Header{"Patchbay-Stream": []string{"end"}}}))
		case "end":
			return
		default:
			ts.Check(got.Respond(nil))
		}
	}
}
