package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// post is one HTTP request, written out: what sends it costs as little as can be,
// since it shares the processors with what is measured.
func post(addr, path, token, body string) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		path, addr, token, len(body), body)
}

// keptConn is a connection that is kept between requests.
type keptConn struct {
	net.Conn
	r *bufio.Reader
}

func dial(ctx context.Context, addr string) (*keptConn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &keptConn{c, bufio.NewReader(c)}, nil
}

// exchange sends a request and reads its whole answer, which must be a 200 with a
// length.
func (c *keptConn) exchange(request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	length, err := c.head()
	if err != nil {
		return err
	}
	_, err = c.r.Discard(length)
	return err
}

func (c *keptConn) head() (length int, err error) {
	status, err := c.r.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) {
		return 0, errors.New(strings.TrimSpace(string(status)))
	}
	for length = -1; ; {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if len(line) <= 2 {
			break
		}
		const key = "Content-Length: "
		if bytes.HasPrefix(line, []byte(key)) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(key):]))); err != nil {
				return 0, err
			}
		}
	}
	if length < 0 {
		return 0, errors.New("an answer without a length")
	}
	return length, nil
}

// requests is a side that sends a request over a connection for each caller. Its
// processor time is that of the pids.
func requests(ctx context.Context, addr string, request []byte, pids ...int) (s side, end func(), err error) {
	var conns []*keptConn
	end = func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}
	for range callers {
		c, err := dial(ctx, addr)
		if err != nil {
			end()
			return nil, nil, err
		}
		conns = append(conns, c)
	}
	return calls(callers, pids, func(_ context.Context, caller int) error {
		return conns[caller].exchange(request)
	}), end, nil
}
