package container

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// refusalBytesMax is how much of a refusal is read, messageBytesMax how much of
	// one that is not JSON becomes its message: an error page's first screen.
	refusalBytesMax = 64 << 10
	messageBytesMax = 4 << 10
	// chunkBytes is the part of a stream that has no form of its own: what one
	// read of a loopback connection gives at most.
	chunkBytes = 32 << 10
	// headerInvocation carries Invocation.ID.
	headerInvocation = "Patchbay-Invocation"
)

var errTooLarge = errors.New("a part is larger than the payload limit")

// isEmptyArgument: nothing, null or an empty object.
func isEmptyArgument(data []byte) bool {
	switch string(bytes.Join(bytes.Fields(data), nil)) {
	case "", "null", "{}":
		return true
	}
	return false
}

func reader(body []byte) io.Reader {
	if len(body) == 0 {
		return nil // and not a reader of nothing: it would say a length of unknown
	}
	return bytes.NewReader(body)
}

// ownHeaders are the request's own; metadata cannot replace them.
var ownHeaders = map[string]bool{
	"connection": true, "content-length": true, "content-type": true, "expect": true, "host": true, "keep-alive": true,
	"te": true, "trailer": true, "transfer-encoding": true, "upgrade": true,
}

// headers adds the content type, the invocation's id, and its metadata.
func headers(req *http.Request, in plugin.Invocation) error {
	for key, value := range in.Metadata {
		switch {
		case ownHeaders[strings.ToLower(key)]:
			continue
		case !isToken(key) || strings.ContainsFunc(value, isControl):
			return fmt.Errorf("metadata %q: %w: cannot be an HTTP header", key, plugin.ErrInvalid)
		}
		req.Header.Set(key, value)
	}
	if in.ID != "" && !strings.ContainsFunc(in.ID, isControl) {
		req.Header.Set(headerInvocation, in.ID)
	}
	if req.Body != nil {
		req.Header.Set("Content-Type", firstOf(in.ContentType, "application/json"))
	}
	return nil
}

// isToken is RFC 9110's token.
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r >= 0x7f || r <= ' ' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// refusal is an answer outside 200 to 299: the plugin's own no.
func refusal(resp *http.Response) *plugin.Refusal {
	r := &plugin.Refusal{Code: strconv.Itoa(resp.StatusCode), Message: http.StatusText(resp.StatusCode)}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, refusalBytesMax)) // what came is what there is to tell
	body = bytes.TrimSpace(body)
	if json.Valid(body) {
		r.Details = body
		r.Message = firstOf(messageIn(body), r.Message)
		return r
	}
	if len(body) > 0 {
		r.Message = strings.ToValidUTF8(string(body[:min(len(body), messageBytesMax)]), "")
	}
	return r
}

// messageIn finds the text where frameworks put it: message, detail (FastAPI,
// problem+json), error (text or {message}), title; or a JSON text by itself.
func messageIn(body []byte) string {
	var text string
	if json.Unmarshal(body, &text) == nil {
		return text
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil {
		return ""
	}
	for _, key := range []string{"message", "detail", "error", "title"} {
		if json.Unmarshal(fields[key], &text) == nil && text != "" {
			return text
		}
		var inner struct{ Message string }
		if json.Unmarshal(fields[key], &inner) == nil && inner.Message != "" {
			return inner.Message
		}
	}
	return ""
}

// split hands the parts of a body, of at most most bytes each, to send.
type split func(body io.Reader, most int, send func([]byte) error) error

// splitter chooses how an answer comes in parts; nil for one that is a whole.
func splitter(resp *http.Response) split {
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch kind {
	case "application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines":
		return lines
	case "text/event-stream":
		return events
	}
	if resp.ContentLength >= 0 || kind == "application/json" || strings.HasSuffix(kind, "+json") {
		return nil
	}
	return chunks
}

// scan reads lines without their ends.
func scan(body io.Reader, most int) *bufio.Scanner {
	s := bufio.NewScanner(body)
	s.Buffer(nil, most+len("data: \r\n"))
	return s
}

func scanned(s *bufio.Scanner) error {
	if errors.Is(s.Err(), bufio.ErrTooLong) {
		return errTooLarge
	}
	return s.Err()
}

// lines sends each line that is not empty.
func lines(body io.Reader, most int, send func([]byte) error) error {
	s := scan(body, most)
	for s.Scan() {
		switch {
		case len(s.Bytes()) > most:
			return errTooLarge
		case len(bytes.TrimSpace(s.Bytes())) == 0:
			continue
		}
		if err := send(bytes.Clone(s.Bytes())); err != nil {
			return err
		}
	}
	return scanned(s)
}

// events sends the data of each server-sent event; names, ids and comments are
// left out. An event without data, or that the end cuts off, is dropped, as the
// standard has it.
func events(body io.Reader, most int, send func([]byte) error) error {
	s := scan(body, most)
	var data []byte
	for s.Scan() {
		line := s.Bytes()
		if value, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			data = append(append(data, bytes.TrimPrefix(value, []byte(" "))...), '\n')
		}
		text := bytes.TrimSuffix(data, []byte("\n"))
		if len(text) > most {
			return errTooLarge
		}
		if len(line) == 0 {
			if len(text) > 0 {
				if err := send(text); err != nil {
					return err
				}
			}
			data = nil
		}
	}
	return scanned(s)
}

// chunks sends what comes, as it comes.
func chunks(body io.Reader, most int, send func([]byte) error) error {
	buf := make([]byte, min(chunkBytes, most))
	for {
		n, err := body.Read(buf)
		if n > 0 {
			if sendErr := send(bytes.Clone(buf[:n])); sendErr != nil {
				return sendErr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
