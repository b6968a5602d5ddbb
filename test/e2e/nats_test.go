package e2e

import (
	"errors"
	"net"
	"path/filepath"
	"strconv"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rogpeppe/go-internal/testscript"
)

// cmdNATSServer: natsserver start | stop is a NATS server with JetStream that is
// not the daemon's. $NATS_URL names it; started again it has the same port and store.
func cmdNATSServer(ts *testscript.TestScript, _ bool, args []string) {
	s := of(ts)
	if args[0] == "stop" {
		stopServer(s.nats)
		return
	}
	port := server.RANDOM_PORT
	if s.nats != nil {
		port = s.natsPort
	}
	ns, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: filepath.Join(s.data, "nats"),
		NoLog: true, NoSigs: true,
	})
	ts.Check(err)
	ns.Start()
	if !ns.ReadyForConnections(patience) {
		ts.Check(errors.New("natsserver: does not answer"))
	}
	s.nats, s.natsPort = ns, ns.Addr().(*net.TCPAddr).Port
	ts.Setenv("NATS_URL", "nats://127.0.0.1:"+strconv.Itoa(s.natsPort))
}

func stopServer(ns *server.Server) {
	ns.Shutdown()
	ns.WaitForShutdown()
}
