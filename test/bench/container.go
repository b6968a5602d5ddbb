package main

import (
	"context"
	"fmt"
	"net/http"

	"github.com/docker/docker/client"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// testImage is built by: test/ensure-docker.sh image
const testImage = "patchbay-test/echo:latest"

const containerManifest = `
apiVersion: patchbay/v1
kind: Plugin
metadata: {name: container}
spec:
  container:
    image: ` + testImage + `
    pull: never
    port: 8080
    health: /health
    operations: [{name: echo}]
`

// containerCall has no bar: the container is on the other side of Docker's proxy,
// whose processor time is nobody's here.
func containerCall(ctx context.Context, h *harness) ([]row, error) {
	const name, unit = "container invoke rate", "calls/s"
	engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return nil, err
	}
	defer engine.Close()
	asked, cancel := context.WithTimeout(ctx, engineMax)
	defer cancel()
	if _, err := engine.Ping(asked); err != nil {
		return []row{unmeasured(name, unit, "no Docker engine answers at "+engine.DaemonHost())}, nil
	}
	if _, err := engine.ImageInspect(asked, testImage); err != nil {
		return []row{unmeasured(name, unit, "the engine has no "+testImage+"; test/ensure-docker.sh image builds it")}, nil
	}
	o, err := h.newHouse(ctx, "container")
	if err != nil {
		return nil, err
	}
	defer o.end()
	if err := o.apply(ctx, containerManifest); err != nil {
		return nil, err
	}
	found, err := engine.ContainerInspect(ctx, o.fact("container", "container"))
	if err != nil {
		return nil, err
	}
	ports := found.NetworkSettings.Ports["8080/tcp"]
	if len(ports) == 0 {
		return nil, fmt.Errorf("container %s publishes no port", found.ID)
	}
	http := &http.Client{Timeout: bareWait, Transport: &http.Transport{MaxIdleConnsPerHost: 2 * callers}}
	defer http.CloseIdleConnections()
	argument := `{"text":"` + payload() + `"}`
	bare := calls(callers, []int{self}, func(context.Context, int) error {
		return httpPost(http, "http://127.0.0.1:"+ports[0].HostPort+"/echo", argument)
	})
	ours := o.calls([]int{self}, plugin.Invocation{Plugin: "container", Operation: "echo", Data: []byte(argument)})
	c, err := h.compare(ctx, ours, bare, cpuMicros)
	if err != nil {
		return nil, err
	}
	return []row{
		c.row(name, unit, rate, bar{}),
		c.row("container invoke host cpu", "us/call", cpuMicros, bar{}),
	}, nil
}
