// Package starlark runs plugins that are Starlark code, inside the daemon: a
// module whose exported functions are the operations.
//
//	spec:
//	  starlark:
//	    module: greeter.star        # or source: the text itself
//	    steps: 10000000             # per invocation
//	    operations: [greet]         # only these; all exported functions when left out
//
// A function that does not begin with an underscore is an operation. A function
// with one parameter gets the whole decoded JSON argument; any other takes the
// keys of a JSON object as keyword arguments; without an argument it is called
// without. Integers are exact in both directions, floats stay floats, keys keep
// their order. fail("text") is a refusal with the code "fail"; any other error in
// the code is one with the code "error" and a backtrace; the limits of steps and of
// recursion are "steps" and "depth".
//
// The dialect is Starlark with while, recursion and sets; top-level statements
// are assignments and defs. Beside the language's own names there are struct, json
// (encode, decode), math, time and host: host.emit(type, data) publishes an event,
// host.invoke(plugin, operation, data) calls another plugin, host.env(name,
// default) reads spec.env. print writes lines to the log's stdout.
//
// The adapter owns the compiled modules, each compiled once however many plugins
// have it, and a goroutine per invocation under way. An instance owns its globals, which are frozen once
// the module's body ran, so that operations run at the same time; each invocation
// has a thread of its own, cancelled with its context and at Stop.
//
// What is bounded: steps and nesting depth, the sizes of module, argument, result,
// JSON text and print. What is not: memory is bounded per process, not per plugin
// ("a" * 1000000000 is one step and a gigabyte), and a single builtin call cannot be
// interrupted (sorting five million items takes 2 s). Its caller is answered when
// the time is over all the same, and the builtin left to its end; while a plugin has
// two of those, it is busy. Limits of memory, cpu, pids and open files are refused:
// Go can hold no goroutine to them. Code that is not trusted belongs into a
// container.
package starlark
