package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// retryMin and retryMax are the waits between two questions to an engine that
	// does not answer: a restart of dockerd takes a second or two.
	retryMin = 50 * time.Millisecond
	retryMax = 2 * time.Second
	// drainMax is how long a stream may still bring output after the exit. The engine
	// closes it before it reports the exit; this is for one that does not.
	drainMax = 2 * time.Second
	// killShare of the time that Stop has is kept for the kill, killReserveMax at
	// most: killing and removing take 100 ms, several times that under load.
	killShare      = 4
	killReserveMax = time.Second
	// goneMax is how long Stop waits after the kill, whatever its context says.
	goneMax = 10 * time.Second
)

// instance is one container that has been started. Its goroutine (live) waits for
// the exit, reads what is left of the output, removes the container and closes gone;
// one that is left it leaves running.
type instance struct {
	engine     *client.Client
	id         string // of the container
	stopSignal string
	grace      time.Duration // for a Stop whose context has no deadline
	facts      map[string]string
	output     *output
	limits     []plugin.LimitStatus
	unbind     func() // takes it off the list of what ends with the daemon
	handle     handle // empty when it ends with the daemon

	leave context.CancelFunc // ends what serves the container in the daemon
	ask   sync.Once
	steps ladder
	gone  chan struct{} // closed when exit is set and the container is removed, or left
	exit  plugin.Exit
	// breaks is how often the engine was lost from sight; set before output.over.
	breaks int
}

var (
	_ plugin.Inspector = (*instance)(nil)
	_ plugin.Survivor  = (*instance)(nil)
)

// begin attaches, waits and starts, in this order, so that nothing is missed. On
// error the container is removed.
func (a *Adapter) begin(ctx context.Context, s Spec, l plugin.Launch, img picture, made container.CreateResponse) (_ *instance, err error) {
	id := made.ID
	unbind, err := a.bind(l, id)
	if err != nil {
		return nil, errors.Join(err, remove(ctx, a.engine, id))
	}
	defer func() {
		if err != nil {
			unbind()
		}
	}()
	i := &instance{
		engine: a.engine, id: id, stopSignal: firstOf(s.StopSignal, img.stopSignal, "SIGTERM"),
		grace: l.Manifest.Spec.Timeouts.Stop.Std(), output: newOutput(l), gone: make(chan struct{}),
		facts:  map[string]string{"container": short(id), "image": short(img.id)},
		limits: limitsOf(l.Manifest.Spec.Limits, made.Warnings), unbind: unbind,
	}
	// What lives as long as the container must not end with the launch.
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	i.leave = cancel
	giveUp := context.AfterFunc(ctx, cancel)
	defer giveUp()
	conn, err := attach(ctx, a.engine, id, container.AttachOptions{
		Stream: true, Stdout: true, Stderr: true, Stdin: l.Manifest.Spec.Mode == plugin.Job,
	})
	if err != nil {
		cancel()
		return nil, errors.Join(class("attach", err), remove(ctx, a.engine, id))
	}
	exits, errs := a.engine.ContainerWait(life, id, container.WaitConditionNextExit)
	if err := a.startOnce(ctx, id); err != nil {
		cancel()
		conn.Close()
		return nil, errors.Join(class("start", err), remove(ctx, a.engine, id))
	}
	if !giveUp() { // the launch was called off meanwhile
		cancel()
		conn.Close()
		return nil, errors.Join(fmt.Errorf("start: %w: %w", plugin.ErrUnavailable, ctx.Err()), remove(ctx, a.engine, id))
	}
	if l.Manifest.Spec.Mode == plugin.Job {
		go feed(conn, l.Input) // ends when all is written or conn is closed, by follow
	}
	go i.live(life, &conn, exits, errs) // ends when the container is gone or left
	return i, nil
}

// look asks the engine about the started container and notes its process. It is
// for Launch alone: facts do not change later.
func (i *instance) look(ctx context.Context) (container.InspectResponse, error) {
	now, err := i.engine.ContainerInspect(ctx, i.id)
	if err == nil {
		i.know(now)
	}
	return now, err
}

// know notes the process, and what proves later that it is this container.
func (i *instance) know(now container.InspectResponse) {
	if now.State.Pid > 0 && i.isLocal() {
		i.facts["pid"] = strconv.Itoa(now.State.Pid)
	}
	i.handle = handleOf(now)
}

// isLocal reports whether the engine is on this machine: its loopback and its
// process ids are ours.
func (i *instance) isLocal() bool {
	host, err := url.Parse(i.engine.DaemonHost())
	if err != nil {
		return false
	}
	ip := net.ParseIP(host.Hostname())
	return host.Scheme == "unix" || host.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// discard undoes a launch whose container has been started.
func (i *instance) discard(ctx context.Context) {
	ended, cancel := context.WithCancel(ctx)
	cancel() // Stop kills at once
	_ = i.Stop(ended)
}

// attach is ContainerAttach for a ctx that may end: the client itself waits for an
// engine that accepts the connection and says nothing.
func attach(ctx context.Context, engine *client.Client, id string, o container.AttachOptions) (types.HijackedResponse, error) {
	type end struct {
		conn types.HijackedResponse
		err  error
	}
	made := make(chan end, 1)
	go func() { // ends when the engine answers or its connection breaks
		conn, err := engine.ContainerAttach(ctx, id, o)
		made <- end{conn, err}
	}()
	select {
	case e := <-made:
		return e.conn, e.err
	case <-ctx.Done():
		go func() { // as above
			if e := <-made; e.err == nil {
				e.conn.Close()
			}
		}()
		return types.HijackedResponse{}, ctx.Err()
	}
}

// startOnce starts the container. The engine sometimes reports a failure of its
// own for a container that runs, and sometimes one that passes: so it looks, and
// tries once more.
func (a *Adapter) startOnce(ctx context.Context, id string) error {
	err := a.engine.ContainerStart(ctx, id, container.StartOptions{})
	if err == nil || ctx.Err() != nil || errdefs.IsInvalidArgument(err) || errdefs.IsNotFound(err) {
		return err
	}
	now, inspectErr := a.engine.ContainerInspect(ctx, id)
	switch {
	case inspectErr != nil:
		return err
	case now.State.Running:
		return nil
	case now.State.ExitCode != 0: // 126, 127: what it should run cannot be run
		return err
	}
	return a.engine.ContainerStart(ctx, id, container.StartOptions{})
}

// live owns the container from its start, or its adoption, to its removal.
func (i *instance) live(ctx context.Context, conn *types.HijackedResponse, exits <-chan container.WaitResponse, errs <-chan error) {
	defer close(i.gone)
	defer i.leave()
	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	keeping, stopKeeping := context.WithCancel(ctx)
	var followed, kept sync.WaitGroup
	followed.Go(func() { i.follow(reading, ctx, conn) }) // ends with the stream, at the latest with stopReading
	kept.Go(func() { i.keep(keeping) })                  // ends with stopKeeping
	exit, over := i.await(ctx, exits, errs)
	i.exit = exit
	last := time.AfterFunc(drainMax, stopReading)
	defer last.Stop()
	i.output.end()
	followed.Wait()
	stopKeeping()
	kept.Wait()
	if !over {
		i.output.save()
		return
	}
	if err := remove(ctx, i.engine, i.id); err != nil {
		i.exit.Message = firstOf(i.exit.Message, "container "+short(i.id)+" is left for the next sweep: "+err.Error())
		return // and ends with the daemon, if it is bound
	}
	i.unbind()
}

// await returns once the engine has said that the container is not running, or,
// with over false, once it is left. An engine that goes away, restarts or cuts
// the wait off says no such thing: it is asked again, with growing pauses and for
// as long as it takes, since the container may well be running
// (hashicorp/nomad#1859).
func (i *instance) await(ctx context.Context, exits <-chan container.WaitResponse, errs <-chan error) (exit plugin.Exit, over bool) {
	code := -1
	for pause := retryMin; ; pause = min(2*pause, retryMax) {
		select {
		case r := <-exits:
			if r.Error == nil {
				code = int(r.StatusCode)
			}
		case <-errs:
			i.breaks++
		}
		for {
			exit, over, err := i.ended(ctx, code)
			if over {
				return exit, true
			}
			if !sleep(ctx, pause) {
				return plugin.Exit{Code: -1, Message: "the daemon left it running", At: time.Now().UTC()}, false
			}
			if err == nil {
				break // it runs: wait for it again
			}
			pause = min(2*pause, retryMax)
		}
		exits, errs = i.engine.ContainerWait(ctx, i.id, container.WaitConditionNotRunning)
	}
}

// ended asks the engine how the container ended; over is false while it runs.
// The code is what a wait has said before, -1 if none did.
func (i *instance) ended(ctx context.Context, code int) (exit plugin.Exit, over bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callMax)
	defer cancel()
	now, err := i.engine.ContainerInspect(ctx, i.id)
	switch {
	case errdefs.IsNotFound(err) && code >= 0:
		return exitOf(code, time.Now()), true, nil
	case errdefs.IsNotFound(err):
		return plugin.Exit{Code: -1, Message: "its container was removed by somebody else", At: time.Now().UTC()}, true, nil
	case err != nil:
		return plugin.Exit{}, false, err
	case now.State.Running:
		return plugin.Exit{}, false, nil
	}
	at, err := time.Parse(time.RFC3339Nano, now.State.FinishedAt)
	if err != nil || at.Year() < 2000 { // the engine's zero time is the year 1
		at = time.Now()
	}
	exit = exitOf(now.State.ExitCode, at)
	exit.OOM = now.State.OOMKilled && exit.Code != 0 // a child may have been killed for memory, and the plugin coped
	exit.Message = now.State.Error
	return exit, true, nil
}

// signalBase is what the kernel's convention adds to a signal's number.
const signalBase = 128

// exitOf names the signal where the code may be one: the engine gives 128 plus its
// number. The code is kept, since a program may also choose it itself, as shells do.
func exitOf(code int, at time.Time) plugin.Exit {
	e := plugin.Exit{Code: code, At: at.UTC()}
	if code > signalBase {
		if name := unix.SignalName(unix.Signal(code - signalBase)); name != "" {
			e.Signal = name
		}
	}
	return e
}

// Wait blocks until the container is gone.
func (i *instance) Wait() plugin.Exit {
	<-i.gone
	return i.exit
}

// Handle names the container for as long as it runs.
func (i *instance) Handle(context.Context) (plugin.RawJSON, error) {
	if i.output.dir == "" || i.handle.Container == "" {
		return nil, fmt.Errorf("handle: %w: container %s ends with the daemon", plugin.ErrInvalid, short(i.id))
	}
	return json.Marshal(i.handle)
}

// Leave ends what serves the container here, and leaves it running.
func (i *instance) Leave() {
	i.leave()
	<-i.gone
}

// Inspect says which container, image, address and process it is.
func (i *instance) Inspect() map[string]string { return i.facts }

// Stop sends the stop signal, and SIGKILL shortly before ctx ends. It returns once
// the container is gone, or with ErrUnavailable when the engine does not answer:
// then nobody knows.
func (i *instance) Stop(ctx context.Context) error {
	if i.isGone() {
		return nil // or left: then it is another daemon's
	}
	if ctx.Err() == nil && i.steps.step("term", func() string { return i.term(ctx) }) == stepEnded {
		return nil
	}
	var err error
	i.steps.step("kill", func() string {
		if err = i.kill(ctx); err != nil {
			return stepLate
		}
		return stepEnded
	})
	return err
}

// term sends the stop signal, once, and says whether the container ended in its
// grace.
func (i *instance) term(ctx context.Context) (outcome string) {
	i.ask.Do(func() { _ = i.signal(ctx, i.stopSignal) }) // if it does not arrive, the kill will
	grace := time.NewTimer(i.graceOf(ctx))
	defer grace.Stop()
	select {
	case <-i.gone:
		return stepEnded
	case <-grace.C:
	case <-ctx.Done():
	}
	return stepLate
}

// graceOf is how long the container may take to end by itself.
func (i *instance) graceOf(ctx context.Context) time.Duration {
	left := i.grace
	if end, ok := ctx.Deadline(); ok {
		left = time.Until(end)
	}
	return left - min(left/killShare, killReserveMax)
}

// kill sends SIGKILL until the container is gone, for goneMax.
func (i *instance) kill(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goneMax)
	defer cancel()
	var err error
	for pause := retryMin; ; pause = min(2*pause, retryMax) {
		if err = i.signal(ctx, "SIGKILL"); err == nil || errdefs.IsConflict(err) || errdefs.IsNotFound(err) {
			break // sent, or there is nobody left to send it to
		}
		select {
		case <-i.gone:
			return nil
		default:
		}
		if !sleep(ctx, pause) {
			break
		}
	}
	select {
	case <-i.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop: %w: container %s was not seen to end within %v of its kill: %v", plugin.ErrUnavailable, short(i.id), goneMax, err)
	}
}

func (i *instance) signal(ctx context.Context, name string) error {
	return i.engine.ContainerKill(ctx, i.id, name)
}

func (i *instance) isGone() bool {
	select {
	case <-i.gone:
		return true
	default:
		return false
	}
}

// short is an id as people know it.
func short(id string) string {
	const digits = 12 // what docker prints
	if _, hex, ok := strings.Cut(id, ":"); ok {
		id = hex
	}
	return id[:min(digits, len(id))]
}

func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}
