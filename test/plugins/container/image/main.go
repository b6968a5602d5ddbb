// Command image builds the container image of the tiny test plugin beside it,
// FROM scratch, by the Docker Engine's own API: no docker client, no BuildKit
// and no registry are needed. It also says whether an engine answers. It is
// what test/ensure-docker.sh and the tests of adapters/container call; it keeps
// nothing on disk.
//
//	image [-host H] ping             exit 0 when an engine answers
//	image [-host H] -tag T build DIR compile DIR and build T; the same binary
//	                                 gives the same image id again
package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// dockerfile is the whole image: one static binary. The engine's own builder
// keeps it by content, so building twice gives one image.
const dockerfile = "FROM scratch\nCOPY echo /echo\nEXPOSE 8080\nENTRYPOINT [\"/echo\"]\n"

const (
	// buildMax is for compiling and one COPY: about 2 s, 20 on a loaded machine.
	buildMax = 2 * time.Minute
	// retryEvery is how soon a socket that did not answer is asked again.
	retryEvery = 20 * time.Millisecond
)

func main() {
	host := flag.String("host", os.Getenv("DOCKER_HOST"), "engine, as in DOCKER_HOST")
	tag := flag.String("tag", "patchbay-test/echo:latest", "tag of the image")
	wait := flag.Duration("wait", 0, "how long ping keeps trying")
	flag.Parse()
	if *host == "" {
		*host = "unix:///var/run/docker.sock"
	}
	if err := run(*host, *tag, *wait, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(host, tag string, wait time.Duration, args []string) error {
	client, err := dial(host)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), buildMax)
	defer cancel()
	switch {
	case len(args) == 1 && args[0] == "ping":
		return ping(ctx, client, wait)
	case len(args) == 2 && args[0] == "build":
		return build(ctx, client, tag, args[1])
	}
	return errors.New("want: ping, or build DIR")
}

// dial returns a client whose every request goes to the engine at host.
func dial(host string) (*http.Client, error) {
	network, address, ok := strings.Cut(host, "://")
	if !ok || network != "unix" && network != "tcp" {
		return nil, fmt.Errorf("host %q: want unix:///path or tcp://host:port", host)
	}
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}, nil
}

func ping(ctx context.Context, client *http.Client, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, max(wait, 3*time.Second))
	defer cancel()
	giveUp := time.Now().Add(wait)
	for {
		err := pingOnce(ctx, client)
		if err == nil || time.Now().After(giveUp) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retryEvery):
		}
	}
}

func pingOnce(ctx context.Context, client *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/_ping", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

func build(ctx context.Context, client *http.Client, tag, dir string) error {
	binary, err := compile(ctx, dir)
	if err != nil {
		return err
	}
	files, err := pack(map[string][]byte{"Dockerfile": []byte(dockerfile), "echo": binary})
	if err != nil {
		return err
	}
	// The version is the least that every engine still in use speaks; version=1
	// is the engine's own builder, not BuildKit.
	target := "http://engine/build?" + url.Values{"t": {tag}, "version": {"1"}, "rm": {"1"}, "forcerm": {"1"}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, files)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-tar")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return outcome(resp)
}

// compile builds the static binary: no cgo, no paths, no version stamp, so that
// the same source gives the same bytes.
func compile(ctx context.Context, dir string) ([]byte, error) {
	out, err := os.MkdirTemp("", "patchbay-image-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(out)
	binary := filepath.Join(out, "echo")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", binary, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build in %s: %w: %s", dir, err, text)
	}
	return os.ReadFile(binary)
}

func pack(files map[string][]byte) (io.Reader, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	return &buf, w.Close()
}

// outcome reads the engine's progress lines: an error stands in one of them, or
// in the one answer of a request that was refused.
func outcome(resp *http.Response) error {
	var line struct {
		Error   string
		Message string
		Aux     struct{ ID string }
	}
	var id string
	for dec := json.NewDecoder(resp.Body); ; {
		line.Error, line.Message = "", ""
		switch err := dec.Decode(&line); {
		case errors.Is(err, io.EOF) && resp.StatusCode == http.StatusOK:
			fmt.Println(id)
			return nil
		case err != nil:
			return fmt.Errorf("build: %s: %w", resp.Status, err)
		case line.Error+line.Message != "":
			return fmt.Errorf("build: %s%s", line.Error, line.Message)
		}
		if line.Aux.ID != "" {
			id = line.Aux.ID
		}
	}
}
