// Package goplugin serves the methods of an ordinary Go type as a go-plugin plugin:
//
//	type Greeter struct{}
//
//	func (Greeter) Hello(ctx context.Context, in HelloIn) (HelloOut, error) {
//		return HelloOut{Greeting: "Hello, " + in.Name + "."}, nil
//	}
//
//	func main() { goplugin.Serve(Greeter{}) }
//
// The binary is a plugin of hashicorp/go-plugin like any other, over gRPC. A Patchbay
// manifest needs its path and "preset: patchbay"; "greeter manifest" prints it.
//
// # Operations
//
// Each exported method whose first parameter is a context is an operation of its name.
// It takes nothing, or one value, and returns a value and an error, or an error:
//
//	func (T) One(ctx context.Context, in In) (Out, error)
//	func (T) Tell(ctx context.Context, in In) error
//	func (T) Watch(ctx context.Context, in In) iter.Seq2[Out, error]            // answers in parts
//	func (T) Watch(ctx context.Context, in In, send func(Out) error) error      // the same
//	func (T) Sum(ctx context.Context, in iter.Seq2[In, error]) (Out, error)     // is given parts
//	func (T) Chat(ctx context.Context, in iter.Seq2[In, error]) iter.Seq2[Out, error]
//
// In and Out are structs or pointers to them, with the tags of encoding/json, and beside
// them doc:"what it is", required:"true", enum:"en,fr" and number:"7", the field's number
// in protobuf, without which fields are numbered in their order. Any other type that
// encoding/json can write and read is a plain JSON value. The package
// internal/gowire lists what becomes of which type. What cannot be served is an error at
// the start that names the field; what a caller sends and required or enum forbid does
// not reach the method.
//
// Methods run at once, each call in a goroutine of its own: the type has to be safe for
// that. The context ends with the call, its deadline or the plugin. grpc's metadata
// package reads what callers sent beside the argument.
//
// # Errors
//
// An error is the operation's own no, with the code Unknown. A [Refusal] gives it another
// code and details; those made by grpc's status package keep theirs. A panic is an
// error, too: its stack is in the log and the plugin goes on.
//
// # Logs and the host
//
// [Serve] makes slog's default logger write what hosts of go-plugin read, at once and to
// the standard error that the host gave the process. With a context, lines name the
// operation and the trace.
//
// [HostOf] gives a method its host: keys and values that outlive the plugin, events on the
// bus, operations of other plugins.
package goplugin
