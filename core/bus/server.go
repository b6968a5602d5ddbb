package bus

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// startMax is how long the embedded server may take to recover its store.
	startMax = 60 * time.Second
	// payloadMax is what the server advises as its upper bound; a manifest of
	// 1 MiB and its record must fit.
	payloadMax = 8 << 20
	// storeMax is what streams may reserve together. It is not the disk's size,
	// so that a small disk does not refuse streams that would never fill it; a
	// full disk is found by Check.
	storeMax = 1 << 40
	// memoryMax bounds the status stream: 10,000 instances need 10 MiB.
	memoryMax = 256 << 20
	// syncEvery is how often what opted out of sync-always is synced.
	syncEvery = time.Second
	// Clients of the listener are told to leave, then closed one by one.
	lameDuckGrace, lameDuckMax = 50 * time.Millisecond, 300 * time.Millisecond

	tokenFile = "nats.token"
	lockFile  = "lock"
)

// embedded is the nats-server inside this process and the folder it owns.
type embedded struct {
	o     Options
	lock  *os.File
	token string // of clients
	own   string // of the daemon's connections
	url   string // of the listener
	ill   func() // called when the server complains; must return at once

	mu     sync.Mutex
	server *server.Server // nil while it is replaced
}

// startServer locks the folder, starts the server in it and waits until it
// answers. On error nothing is left running. ill is called when it complains.
func startServer(ctx context.Context, o Options, ill func()) (*embedded, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("bus folder: %w", err)
	}
	lock, err := lockFolder(o.Dir)
	if err != nil {
		return nil, err
	}
	e := &embedded{o: o, lock: lock, own: secret(), ill: ill}
	if e.token, err = readToken(o); err == nil {
		err = e.start(ctx)
	}
	if err != nil {
		e.shutdown()
		return nil, err
	}
	e.url = e.server.ClientURL()
	return e, nil
}

// start starts a server. On error none is left running.
func (e *embedded) start(ctx context.Context) error {
	opts, err := serverOptions(e.o, access{own: e.own, clients: e.token})
	if err != nil {
		return err
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("embedded nats-server: %w", err)
	}
	s.SetLoggerV2(serverLog{e.o.Log, e.ill}, false, false, false)
	if err := e.await(ctx, s); err != nil {
		s.Shutdown()
		s.WaitForShutdown()
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.server = s
	return nil
}

// await starts s and waits until it answers.
func (e *embedded) await(ctx context.Context, s *server.Server) error {
	ready := make(chan bool, 1)
	go func() { // ends within startMax of the store's recovery
		s.Start()
		ready <- s.ReadyForConnections(startMax)
	}()
	select {
	case ok := <-ready:
		if ok && s.JetStreamEnabled() {
			return nil
		}
		return fmt.Errorf("embedded nats-server: %w: not ready; is %s free, and %s writable?", plugin.ErrUnavailable, e.o.Listen, e.o.Dir)
	case <-ctx.Done():
		return fmt.Errorf("embedded nats-server: %w: %w", plugin.ErrDeadline, ctx.Err())
	}
}

// InProcessConn joins one of the daemon's connections to the server of now.
func (e *embedded) InProcessConn() (net.Conn, error) {
	if s := e.now(); s != nil {
		return s.InProcessConn()
	}
	return nil, fmt.Errorf("embedded nats-server: %w: it is being replaced", plugin.ErrUnavailable)
}

var _ nats.InProcessConnProvider = (*embedded)(nil)

func (e *embedded) now() *server.Server {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.server
}

// replace ends the server and starts another one on the same store and address. It
// can be tried again after an error.
func (e *embedded) replace(ctx context.Context) error {
	e.mu.Lock()
	old := e.server
	e.server = nil
	e.mu.Unlock()
	if old != nil {
		old.Shutdown()
		old.WaitForShutdown()
	}
	if e.o.Listen != "" {
		e.o.Listen = strings.TrimPrefix(e.url, "nats://") // where clients look for it
	}
	return e.start(ctx)
}

// serverOptions are the server's settings. In this struct, unlike in a
// configuration file, sync-always does not set the interval: both stand here.
func serverOptions(o Options, who access) (*server.Options, error) {
	opts := &server.Options{
		ServerName: "patchbay-" + token(o.Node), NoSigs: true, DontListen: o.Listen == "",
		CustomClientAuthentication: who, MaxPayload: payloadMax,
		JetStream: true, StoreDir: o.Dir, DisableJetStreamBanner: true,
		JetStreamMaxStore: storeMax, JetStreamMaxMemory: memoryMax,
		SyncAlways: true, SyncInterval: syncEvery,
		LameDuckGracePeriod: lameDuckGrace, LameDuckDuration: lameDuckMax,
	}
	if o.Listen == "" {
		return opts, nil
	}
	host, port, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return nil, fmt.Errorf("nats listener %q: %w: %w", o.Listen, plugin.ErrInvalid, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("nats listener %q: %w: the port is not a number", o.Listen, plugin.ErrInvalid)
	}
	// Asked here first: the server only logs why it cannot listen.
	probe, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("nats listener: %w: %w", plugin.ErrUnavailable, err)
	}
	_ = probe.Close()
	opts.Host, opts.Port = host, int(n)
	if n == 0 {
		opts.Port = server.RANDOM_PORT
	}
	return opts, nil
}

// shutdown tells clients to leave, ends the server and frees the folder.
func (e *embedded) shutdown() {
	if s := e.now(); s != nil {
		s.LameDuckShutdown()
		s.Shutdown()
		s.WaitForShutdown()
	}
	_ = e.lock.Close() // frees the lock
}

// sync brings the store's files to the disk: a new stream's own definition is
// not covered by sync-always.
func (e *embedded) sync() error {
	f, err := os.Open(e.o.Dir)
	if err != nil {
		return fmt.Errorf("sync of the bus folder: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync of the bus folder: %w", err)
	}
	return nil
}

// lockFolder makes sure that no other daemon works in dir. The kernel frees the
// lock when the process ends, however it ends.
func lockFolder(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock of the bus folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		owner, _ := os.ReadFile(path)
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("bus folder %s: %w: another daemon uses it (pid %s); give this one a data folder of its own",
				dir, plugin.ErrConflict, strings.TrimSpace(string(owner)))
		}
		return nil, fmt.Errorf("lock of the bus folder: %w", err)
	}
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0) // only for the message above
	return f, nil
}

func secret() string {
	made := make([]byte, 24)
	_, _ = rand.Read(made) // never fails
	return hex.EncodeToString(made)
}

// readToken gives the token that clients of the listener must present: the one
// of the options, else the folder's, made at the first start.
func readToken(o Options) (string, error) {
	if o.Token != "" {
		return o.Token, nil
	}
	path := filepath.Join(o.Dir, tokenFile)
	data, err := os.ReadFile(path)
	if err == nil && len(strings.TrimSpace(string(data))) > 0 {
		return strings.TrimSpace(string(data)), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("nats token: %w", err)
	}
	token := secret()
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("nats token: %w", err)
	}
	return token, nil
}

// serverLog hands the server's own log on: its notices are for developers, its
// complaints also for who looks after it.
type serverLog struct {
	log *slog.Logger
	ill func()
}

func (l serverLog) Noticef(format string, v ...any) { l.say(slog.LevelDebug, format, v) }
func (l serverLog) Warnf(format string, v ...any)   { l.complain(slog.LevelWarn, format, v) }
func (l serverLog) Errorf(format string, v ...any)  { l.complain(slog.LevelError, format, v) }
func (l serverLog) Fatalf(format string, v ...any)  { l.complain(slog.LevelError, format, v) }
func (l serverLog) Debugf(string, ...any)           {}
func (l serverLog) Tracef(string, ...any)           {}

func (l serverLog) complain(level slog.Level, format string, v []any) {
	l.say(level, format, v)
	l.ill()
}

func (l serverLog) say(level slog.Level, format string, v []any) {
	l.log.Log(context.Background(), level, "nats-server", "said", fmt.Sprintf(format, v...))
}
