package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// ticker's default interval.
const everyMillis = 1000

// startTicker pushes {"n":1,"value":...}, {"n":2,...} at an interval; a negative
// one means as fast as the host takes them.
func startTicker(c command) (func(), error) {
	if c.Config.Interval == 0 {
		c.Config.Interval = everyMillis
	}
	socket, err := dial(c.socket(), protocolPush)
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go tick(socket, c, done) // ends with done or its connection
	return func() { close(done) }, nil
}

func tick(socket *socket, c command, done <-chan struct{}) {
	defer socket.conn.Close()
	every := time.NewTicker(max(time.Duration(c.Config.Interval)*time.Millisecond, 1))
	defer every.Stop()
	for n := 1; ; n++ {
		message := map[string]any{"n": n, "value": c.Config.Value}
		if c.DataSource != "" {
			message["datasource"] = c.DataSource
		}
		tuple, err := json.Marshal(map[string]any{"message": message, "meta": nil})
		if err != nil || socket.send(tuple) != nil {
			return
		}
		if c.Config.Interval > 0 {
			<-every.C
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

// startSink writes every message and a newline to stdout or to a file, and
// acknowledges each.
func startSink(c command) (func(), error) {
	out := io.WriteCloser(os.Stdout)
	if c.SymbolName == "file" {
		if c.Config.Path == "" {
			return nil, errors.New("property path is required")
		}
		file, err := os.OpenFile(c.Config.Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, err
		}
		out = file
	}
	acks, err := dial(c.socket()+"_ack", protocolPush)
	if err != nil {
		return nil, fmt.Errorf("can't dial on push socket: %w", err)
	}
	listener, err := listen(c.socket())
	if err != nil {
		return nil, fmt.Errorf("can't listen on pull socket: %w", err)
	}
	go listener.serve(protocolPull, func(message []byte) { // ends when the listener is closed
		_, err := out.Write(append(message, '\n'))
		_ = acks.send(ack(err))
	})
	return func() {
		listener.close()
		acks.conn.Close()
		if out != os.Stdout {
			out.Close()
		}
	}, nil
}

func ack(err error) []byte {
	if err == nil {
		return []byte("{}")
	}
	text, _ := json.Marshal(map[string]string{"error": err.Error()})
	return text
}
