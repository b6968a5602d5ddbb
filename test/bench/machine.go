package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/docker/docker/client"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"
)

// engineMax bounds the question whether there is a Docker engine.
const engineMax = 5 * time.Second

// machine is where it was measured.
type machine struct {
	Time   time.Time `json:"time"`
	Cores  int       `json:"cores"`
	CPU    string    `json:"cpu"`
	Kernel string    `json:"kernel"`
	Go     string    `json:"go"`
	NATS   string    `json:"nats"`
	Docker string    `json:"docker"`
	Load   string    `json:"load"` // at the start: 1, 5 and 15 minutes
}

func thisMachine(ctx context.Context) machine {
	return machine{
		Time: time.Now().UTC().Truncate(time.Second), Cores: runtime.NumCPU(), CPU: processor(), Kernel: kernel(), Go: runtime.Version(),
		NATS: "server " + server.VERSION + ", client " + nats.Version, Docker: docker(ctx), Load: load(),
	}
}

func (m machine) print(out io.Writer) {
	fmt.Fprintf(out, "machine: %d cores, %s, Linux %s, %s, NATS %s, Docker %s, load %s\n\n", m.Cores, m.CPU, m.Kernel, m.Go, m.NATS, m.Docker, m.Load)
}

func processor() string {
	data, _ := os.ReadFile("/proc/cpuinfo") // for people: "unknown" will do
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown CPU"
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return string(bytes.TrimRight(u.Release[:], "\x00"))
}

func load() string {
	data, _ := os.ReadFile("/proc/loadavg")
	if f := strings.Fields(string(data)); len(f) >= 3 {
		return strings.Join(f[:3], " ")
	}
	return "unknown"
}

// docker is the engine's version, or says that none answers.
func docker(ctx context.Context) string {
	const none = "engine: none answers"
	engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return none
	}
	defer engine.Close()
	ctx, cancel := context.WithTimeout(ctx, engineMax)
	defer cancel()
	v, err := engine.ServerVersion(ctx)
	if err != nil {
		return none
	}
	return v.Version
}
