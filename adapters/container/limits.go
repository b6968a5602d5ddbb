package container

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"github.com/patchbay-dev/patchbay/adapters/internal/proc"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// byEngine is what keeps the limits of containers.
const byEngine = "engine"

var (
	_ plugin.Limited = (*service)(nil)
	_ plugin.Limited = job{}
)

// Limits says of each limit that is set whether the engine keeps it.
func (i *instance) Limits() []plugin.LimitStatus { return slices.Clone(i.limits) }

// ulimits is the limit of open files, which the engine passes on.
func ulimits(l plugin.Limits) []*container.Ulimit {
	if l.OpenFiles == 0 {
		return nil
	}
	return []*container.Ulimit{{Name: "nofile", Soft: int64(l.OpenFiles), Hard: int64(l.OpenFiles)}}
}

// limitsOf is what the engine said when it made the container: it warns where the
// kernel cannot keep a limit.
func limitsOf(l plugin.Limits, warnings []string) []plugin.LimitStatus {
	var all []plugin.LimitStatus
	for _, limit := range [...]struct {
		name, word string // that is in the engine's warning
		set        bool
	}{
		{"memory", "memory", l.Memory != 0}, {"cpu", "cpu", l.CPU != 0},
		{"pids", "pids", l.Pids != 0}, {"openFiles", "ulimit", l.OpenFiles != 0},
	} {
		if limit.set {
			all = append(all, limitOf(limit.name, limit.word, warnings))
		}
	}
	return all
}

func limitOf(name, word string, warnings []string) plugin.LimitStatus {
	s := plugin.LimitStatus{Name: name, By: byEngine}
	for _, warning := range warnings {
		text := strings.ToLower(warning)
		if !strings.Contains(text, word) {
			continue
		}
		s.Message = warning
		if strings.Contains(text, "discarded") {
			s.By = ""
		}
	}
	return s
}

// bind makes a container that is not to outlive the daemon end with it. An engine
// that cannot be asked without keys, or by a program of its own, is not asked then:
// the next daemon's sweep is.
func (a *Adapter) bind(l plugin.Launch, id string) (unbind func(), err error) {
	if l.Manifest.Spec.Detached() {
		return func() {}, nil
	}
	network, address, ok := plainEngine(a.engine.DaemonHost())
	if !ok {
		_, _ = fmt.Fprintf(l.Output.Writer(plugin.PluginLog), "patchbay: after a kill -9 of the daemon this runs on until the next one starts: "+
			"the engine at %s is not on a unix socket or plain TCP\n", a.engine.DaemonHost())
		return func() {}, nil
	}
	ask := func(method, path string) proc.Request {
		return proc.Request{Network: network, Address: address, Method: method, Path: "/containers/" + id + path}
	}
	return proc.Bind(proc.Bound{Requests: []proc.Request{
		ask(http.MethodPost, "/kill?signal=KILL"), ask(http.MethodDelete, "?force=1&v=1"),
	}})
}

// plainEngine is where the engine's API is spoken in the clear.
func plainEngine(host string) (network, address string, ok bool) {
	u, err := client.ParseHostURL(host)
	switch {
	case err != nil || u.Path != "":
		return "", "", false
	case u.Scheme == "unix":
		return "unix", u.Host, true
	}
	return "tcp", u.Host, u.Scheme == "tcp" && os.Getenv(client.EnvOverrideCertPath) == ""
}
