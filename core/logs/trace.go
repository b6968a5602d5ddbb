package logs

import "bytes"

// A trace knows which lines belong to a stack trace that has begun.
type trace interface {
	// takes reports whether a line goes on with the trace.
	takes(text []byte) bool
	// fault reports whether its first line alone says that something is wrong.
	fault() bool
}

// classMax is how far into a line the end of a class's name is looked for.
const classMax = 128

// traceOf is the stack trace that a line begins, nil for none. It is asked about
// every line, and must be cheap for those that begin none.
func traceOf(p printed) trace {
	text := p.text
	if p.cut || len(text) == 0 {
		return nil
	}
	switch c := text[0]; {
	case c == 'p' && bytes.HasPrefix(text, []byte("panic: ")), c == 'f' && bytes.HasPrefix(text, []byte("fatal error: ")):
		return &goTrace{}
	case c == 'g' && isGoroutine(text):
		return &goTrace{within: true}
	case c == 'T' && bytes.HasPrefix(text, []byte(pythonBegins)):
		return &pythonTrace{}
	case c == 'E' && bytes.HasPrefix(text, []byte(`Exception in thread "`)):
		return &frames{}
	case c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z':
		if isThrown(text) {
			return &frames{}
		}
	}
	return nil
}

// goTrace is a Go panic or fatal error and the dump of goroutines after it:
//
//	panic: boom
//
//	goroutine 1 [running]:
//	main.main()
//		/src/main.go:4 +0x18
//	exit status 2
type goTrace struct {
	within bool // of a goroutine's part
}

func (t *goTrace) fault() bool { return true }

func (t *goTrace) takes(text []byte) bool {
	if len(text) == 0 {
		t.within = false
		return true
	}
	switch {
	case isGoroutine(text):
		t.within = true
		return true
	case text[0] == '\t', bytes.HasPrefix(text, []byte("[signal ")), bytes.HasPrefix(text, []byte("panic: ")),
		bytes.HasPrefix(text, []byte("runtime stack:")), bytes.HasPrefix(text, []byte("exit status ")):
		t.within = t.within || text[0] == 'r'
		return true
	case t.within:
		return text[len(text)-1] == ')' && bytes.IndexByte(text, '(') > 0 ||
			bytes.HasPrefix(text, []byte("created by ")) || bytes.HasPrefix(text, []byte("...additional frames elided..."))
	}
	return isRegister(text)
}

// isGoroutine: "goroutine 1 [running]:".
func isGoroutine(text []byte) bool {
	return bytes.HasPrefix(text, []byte("goroutine ")) && bytes.HasSuffix(text, []byte("]:"))
}

// isRegister: "rax    0x2a", at the end of a fatal signal's dump.
func isRegister(text []byte) bool {
	name, value, ok := bytes.Cut(text, []byte(" "))
	return ok && len(name) <= 6 && bytes.HasPrefix(bytes.TrimLeft(value, " "), []byte("0x"))
}

const (
	pythonBegins = "Traceback (most recent call last):"
	pythonDuring = "During handling of the above exception, another exception occurred:"
	pythonCause  = "The above exception was the direct cause of the following exception:"
)

// pythonTrace is a traceback, and those it is chained to:
//
//	Traceback (most recent call last):
//	  File "x.py", line 1, in <module>
//	    1 / 0
//	ZeroDivisionError: division by zero
//
//	During handling of the above exception, another exception occurred:
//
//	Traceback (most recent call last):
type pythonTrace struct {
	thrown bool // the exception's own line was there
	chain  bool // what comes is a traceback
}

func (t *pythonTrace) fault() bool { return true }

func (t *pythonTrace) takes(text []byte) bool {
	switch {
	case len(text) == 0:
		return t.thrown
	case string(text) == pythonDuring || string(text) == pythonCause:
		t.chain = t.thrown
		return t.thrown
	case string(text) == pythonBegins:
		begins := t.chain
		t.chain, t.thrown = false, false
		return begins
	case t.thrown:
		return false
	case text[0] == ' ' || text[0] == '\t':
		return true
	}
	t.thrown = isName(text)
	return t.thrown
}

// isName: "package.Class" or "Class: text".
func isName(text []byte) bool {
	end := word(text)
	return end > 0 && (end == len(text) || text[end] == ':')
}

// frames is an exception of Java or JavaScript and where it was thrown:
//
//	java.lang.IllegalStateException: no
//		at app.Main.main(Main.java:7)
//	Caused by: java.io.IOException: gone
//		... 3 more
type frames struct{}

func (t *frames) fault() bool { return false }

func (t *frames) takes(text []byte) bool {
	inner := bytes.TrimLeft(text, " \t")
	if len(inner) < len(text) {
		return bytes.HasPrefix(inner, []byte("at ")) || bytes.HasPrefix(inner, []byte("... ")) || bytes.HasPrefix(inner, []byte("Suppressed: "))
	}
	return bytes.HasPrefix(text, []byte("Caused by: "))
}

// isThrown: "TypeError: text", "java.io.IOException".
func isThrown(text []byte) bool {
	end := word(text)
	if end < len("Error") || end < len(text) && (text[end] != ':' || end+1 < len(text) && text[end+1] != ' ') {
		return false
	}
	for _, kind := range [...]string{"Error", "Exception", "Throwable"} {
		if bytes.HasSuffix(text[:end], []byte(kind)) {
			return true
		}
	}
	return false
}

// word is how long the name of a class is that text begins with.
func word(text []byte) int {
	text = text[:min(len(text), classMax)]
	for i, c := range text {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '.' || c == '$') {
			return i
		}
	}
	return len(text)
}
