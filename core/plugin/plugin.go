package plugin

import (
	"context"
	"io"
	"os"
)

// An Adapter speaks one plugin protocol. It turns a manifest into a running
// instance and knows nothing of restarts, storage, HTTP or the bus. It is safe
// for concurrent use.
type Adapter interface {
	// Name is the key under spec by which manifests choose the adapter.
	Name() string
	// Check reports whether m could be launched. It has no side effects but
	// reading files, and returns every fault at once as [Faults], each with
	// its path ("spec.provider.command[0]").
	Check(m Manifest) error
	// Launch starts one instance and returns once it can be invoked (a job:
	// once it has started). On error it leaves nothing behind.
	Launch(ctx context.Context, l Launch) (Instance, error)
}

// An Instance is one running plugin. It is safe for concurrent use.
type Instance interface {
	// Invoke calls one operation. A *Refusal is the plugin's own no; any other
	// error means that the link broke or the deadline passed. An operation the
	// plugin does not have is ErrNotFound.
	Invoke(ctx context.Context, in Invocation) (Result, error)
	// Wait blocks until the instance is gone; every caller gets the same answer.
	Wait() Exit
	// Stop asks the instance to finish, and kills it when ctx ends. It returns
	// once the instance is gone; stopping twice is harmless.
	Stop(ctx context.Context) error
}

// Launch is all that an adapter is given to start one instance.
type Launch struct {
	// ID names the instance: unique for the life of the data folder, at most
	// 72 characters of [a-z0-9-], beginning with the plugin's name.
	ID       string
	Manifest Manifest
	// Input is what a job works on; nil for a service.
	Input []byte
	// Env is the resolved spec.env, secrets included: never log it. It is all
	// that the plugin gets besides what its adapter adds; nothing is inherited
	// from the daemon.
	Env map[string]string
	// Dir is a folder of this instance alone, mode 0700, empty at launch (not made
	// for Resident adapters). Its
	// path has at most 64 bytes, so that unix sockets fit in it. The core
	// removes it once the instance is gone.
	Dir    string
	Output Output
	Host   Host
	// Node names the daemon for as long as its data folder is kept. What outlives
	// the daemon is marked with it and the ID, to be found again.
	Node string
}

// Output takes what a plugin prints. It outlives the instance.
type Output interface {
	// File opens the stream for a child process: append mode, so that the
	// child neither blocks on the daemon nor dies with it. The caller closes
	// it after the start. The name of the file may be opened again for reading:
	// its first MiB stays readable until the instance is gone.
	File(s LogStream) (*os.File, error)
	// Writer takes the stream of something inside the daemon or behind a
	// connection. It is safe for concurrent use, never blocks for long and
	// returns no error: what cannot be kept is counted as dropped.
	Writer(s LogStream) io.Writer
}

// Host is what a plugin may ask back of the core.
type Host interface {
	// Emit publishes an event of the plugin. Type and Data are the caller's;
	// the core fills the rest. Data is at most EventDataBytesMax long.
	Emit(ctx context.Context, e Event) error
	// Invoke calls another plugin, through dispatch as any caller does.
	Invoke(ctx context.Context, in Invocation) (Result, error)
	// Permit returns nil when the plugin may do what it asks for, and ErrDenied
	// otherwise.
	Permit(ctx context.Context, ask Ask) error
}

// Bounds of a plugin's own keys and values: about what Vault allows an engine's entry,
// and what a daemon can keep of a thousand plugins.
const (
	ValueKeyBytesMax   = 512
	ValueBytesMax      = 1 << 20
	ValueKeysMax       = 16384
	ValuesBytesMaxEach = 64 << 20
)

// Keeper is implemented by a Host that keeps keys and values for its plugin.
type Keeper interface {
	// Values are the plugin's, of all its instances.
	Values() Values
}

// Values are keys and values of one plugin's own, which nobody else is shown. They
// outlive its instances and the daemon, and are removed when the plugin is deleted.
// They are safe for concurrent use.
//
// A key has 1 to ValueKeyBytesMax bytes, a value ValueBytesMax at most: others are
// ErrInvalid. What would make more than ValueKeysMax keys, or more than
// ValuesBytesMaxEach bytes of them and their values, is ErrBusy.
type Values interface {
	// Get returns the value; ErrNotFound: there is none.
	Get(ctx context.Context, key string) ([]byte, error)
	// Put sets the value, and returns once it is on disk.
	Put(ctx context.Context, key string, value []byte) error
	// Delete removes the key; that there is none is no error.
	Delete(ctx context.Context, key string) error
	// List returns the keys that begin with prefix, sorted.
	List(ctx context.Context, prefix string) ([]string, error)
}

// Requester is implemented by a Host that can ask whoever listens on the bus.
type Requester interface {
	// Request sends data on patchbay.v1.callback.PLUGIN.NAME and returns the first
	// answer. ErrUnavailable: nobody listens. A *Refusal: the answer is an error.
	Request(ctx context.Context, name string, data []byte) ([]byte, error)
}

// CallbackCounter is implemented by a Host that counts what its plugin asks, for metrics.
type CallbackCounter interface {
	// Called counts one question. binding is what answered, outcome ok or why not; both
	// are words of few.
	Called(binding, outcome string)
}

// Ask is one question to Host.Permit: may this plugin do Verb to Object?
type Ask struct {
	Verb   string
	Object string
}

// Invocation is one request to one operation of a plugin.
type Invocation struct {
	// ID names the invocation in events and traces.
	ID        string
	Plugin    string
	Operation string
	// Data is the argument, JSON unless ContentType says otherwise. It is passed
	// on as it is wherever the protocol allows.
	Data        []byte
	ContentType string
	// Metadata travels beside the data where the protocol can carry it (HTTP
	// headers, gRPC metadata). Keys are lower case.
	Metadata map[string]string
	// Caller says who asked, for events: "rest", "bus", "plugin:NAME".
	Caller string
	// HouseDeadline says that the context's deadline is spec.timeouts.invoke and not
	// one that the caller gave: it ends the call, and a protocol that carries deadlines
	// need not carry this one.
	HouseDeadline bool `json:"-"`
	// Parts, when set, gives the argument in parts, and Data is empty: the next
	// part, io.EOF behind the last, or why there is none. Only one goroutine calls it
	// at a time, and none once the invocation has returned; it returns when ctx ends.
	// What is not taken waits at the caller: nothing is stored. Only an instance that
	// says so ([PartsTaker]) is given it.
	Parts func(ctx context.Context) ([]byte, error) `json:"-"`
	// Told, when set, takes what the plugin says beside its answer, with lower-case
	// keys: at most twice, before the answer's first part and behind its last. It
	// is told before the invocation returns, and not at all by protocols that have
	// no such thing.
	Told func(metadata map[string]string) `json:"-"`
}

// Result is the answer to an invocation.
type Result struct {
	// Data is JSON unless ContentType says otherwise.
	Data        []byte
	ContentType string
}

// Operation is one thing that a plugin offers.
type Operation struct {
	Name    string `json:"name"`
	Summary string `json:"summary,omitempty"`
	// Input and Output are JSON Schemas (2020-12), nil when unknown.
	Input  RawJSON `json:"input,omitempty"`
	Output RawJSON `json:"output,omitempty"`
	// Streams is true when the answer comes in parts.
	Streams bool `json:"streams,omitempty"`
	// TakesStream is true when the argument comes in parts.
	TakesStream bool `json:"takesStream,omitempty"`
}

// Specifier is implemented by an Adapter.
type Specifier interface {
	// Spec returns a pointer to a zero value of the adapter's manifest block.
	// The JSON Schema is generated from its type, and manifests are decoded
	// strictly against it. Field docs come from `doc:"..."` tags.
	Spec() any
}

// Availability is implemented by an Adapter that depends on something outside
// the daemon.
type Availability interface {
	// Available returns nil when the adapter can launch plugins now, else why
	// not and what would help. It takes at most a second.
	Available(ctx context.Context) error
}

// Sweeper is implemented by an Adapter whose plugins can outlive a killed daemon.
type Sweeper interface {
	// Strays lists what an earlier daemon with the same node identity left
	// behind and nobody will adopt: what bears the node's mark and an instance
	// for which keep returns false. It changes nothing.
	Strays(ctx context.Context, node string, keep func(instance string) bool) ([]Stray, error)
	// Sweep removes strays that Strays returned, proving each anew before it is
	// signalled, and returns those that are gone.
	Sweep(ctx context.Context, strays []Stray) (removed []Stray, err error)
}

// A Stray is something of an earlier life that belongs to nobody.
type Stray struct {
	// Kind is process, container, folder, socket, stream or cgroup.
	Kind string `json:"kind"`
	// Name says which: a pid, a container's id, a path, a subject.
	Name     string `json:"name"`
	Adapter  string `json:"adapter,omitempty"`
	Instance string `json:"instance,omitempty"`
	// Detail is for people: the command line without its arguments' values, an age.
	Detail string `json:"detail,omitempty"`
}

// Adopter is implemented by an Adapter whose instances can outlive the daemon.
type Adopter interface {
	// Adopt finds an instance again that an earlier daemon launched with the
	// same l.ID and l.Dir, whose files are still there, and returns once it
	// answers. handle is what the instance's Handle returned then. Nothing is
	// signalled, and nothing is sent to it, before it is proved to be that very
	// instance. One that is gone, or cannot be proved, is ErrNotFound and left
	// alone. One that is proved and does not answer is ended before another
	// error is returned.
	Adopt(ctx context.Context, l Launch, handle RawJSON) (Instance, error)
}

// Overlapper is implemented by an Adapter some of whose plugins can have two
// instances at the same time: a new one is launched beside the old.
type Overlapper interface {
	// Overlap returns nil when two instances of m harm neither each other nor what
	// they work on, as far as the manifest tells, else why not. m was checked.
	Overlap(m Manifest) error
}

// Digester is implemented by an Instance that knows what it runs.
type Digester interface {
	// Digest returns what spec.digest has to say for a launch of the very same.
	// ErrConflict: another launch of the manifest would run something else.
	Digest(ctx context.Context) (string, error)
}

// Survivor is implemented by an Instance that can outlive the daemon.
type Survivor interface {
	// Handle returns what Adopt needs to find the instance again. It may hold
	// keys: the core stores it 0600 beside the instance's folder and shows it to
	// nobody. What it takes long to learn, and Adopt can do without, is waited
	// for until ctx ends: it is asked for twice after the launch, at first with a
	// ctx that has ended. It is ErrInvalid for an instance that is bound to the
	// daemon.
	Handle(ctx context.Context) (RawJSON, error)
	// Leave lets go of the instance and leaves it running: whatever serves it in
	// the daemon ends, and Wait answers that it was left. From then on Stop
	// reaches nothing.
	Leave()
}

// Resumer is implemented by an Output whose streams can go on where an earlier
// daemon stopped. It is for writers: files are resumed by the core.
type Resumer interface {
	// Lines returns how many lines of the stream have been taken.
	Lines(s LogStream) uint64
	// Resume says that what is written next to the stream begins behind so many
	// lines. Those that are kept already are taken for read, and skipped.
	Resume(s LogStream, lines uint64)
}

// Limited is implemented by an Instance that keeps limits of its manifest.
type Limited interface {
	// Limits says for each limit that is set how it is enforced, or why not.
	Limits() []LimitStatus
}

// Resident is implemented by an Adapter whose instances live inside the daemon:
// thousands of them cost next to nothing.
type Resident interface {
	// Resident instances need no folder: Launch.Dir is not made for them, and
	// Launch.Output.File is not for them.
	Resident()
}

// Ender is implemented by an Instance that can tell its end without a goroutine
// that waits for it.
type Ender interface {
	// Ended is closed once Wait no longer blocks.
	Ended() <-chan struct{}
}

// Prober is implemented by an Instance that can be asked for a sign of life.
type Prober interface {
	// Probe returns nil when the instance answers before ctx ends.
	Probe(ctx context.Context) error
}

// Execer is implemented by an Instance beside which commands can be run.
type Execer interface {
	// Exec runs a command, never through a shell, where and as the plugin runs,
	// and returns its exit code and at most ExecOutputBytesMax of what it printed.
	// It is killed when ctx ends. An error means that there was no exit.
	Exec(ctx context.Context, command []string) (code int, output []byte, err error)
}

// Addressed is implemented by an Instance whose ports are not the machine's own.
type Addressed interface {
	// Address returns the host:port on which a port of the plugin is reached.
	Address(port int) (string, error)
}

// Stepper is implemented by an Instance whose stop has steps of its own.
type Stepper interface {
	// StopSteps says how the stop went, in order. It is for instances that are gone.
	StopSteps() []StopStep
}

// Describer is implemented by an Instance that knows what it offers.
type Describer interface {
	// Describe lists the operations, sorted by name.
	Describe(ctx context.Context) ([]Operation, error)
}

// Streamer is implemented by an Instance that has sources or sinks.
type Streamer interface {
	// Stream runs one declared stream and blocks until ctx ends (nil) or the
	// stream breaks (why).
	Stream(ctx context.Context, s Stream, pipe Pipe) error
}

// Pipe joins one stream to the bus. A source publishes, a sink takes.
type Pipe interface {
	// Publish sends one message of a source; it copies data. It never waits for
	// a subscriber: what the bus cannot take is dropped and counted.
	Publish(data []byte) error
	// Next waits for the next message for a sink, or for ctx.
	Next(ctx context.Context) ([]byte, error)
}

// StreamInvoker is implemented by an Instance some of whose operations answer in
// parts.
type StreamInvoker interface {
	// InvokeStream calls the operation and hands each part to send, in order,
	// until the answer ends (nil). An operation with one answer sends one part.
	// An error of send ends the call and is returned.
	InvokeStream(ctx context.Context, in Invocation, send func(part []byte) error) error
}

// PartsTaker is implemented by an Instance some of whose operations take their
// argument in parts. To its other ones the core gives the one part there is as Data, and
// to other instances all parts, a line each.
type PartsTaker interface {
	// TakesParts reports such an operation. Its invocation has Parts, or has Data when
	// the caller gave the whole argument at once.
	TakesParts(operation string) bool
}

// Inspector is implemented by an Instance that has facts for status.
type Inspector interface {
	// Inspect returns a few short facts, such as "pid", "container" or
	// "protocol". Never a secret.
	Inspect() map[string]string
}
