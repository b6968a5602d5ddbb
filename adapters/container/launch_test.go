package container_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/adapters/container"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/test/conformance"
)

func TestLaunch_refused(t *testing.T) {
	long := func(m *plugin.Manifest, l *plugin.Launch) {
		l.Env = map[string]string{"LONG": strings.Repeat("x", 128<<10)}
	}
	other := func(m *plugin.Manifest, l *plugin.Launch) {
		l.Manifest.Spec.Digest = "sha256:" + strings.Repeat("0", 64)
	}
	for _, tt := range []struct {
		name, block string
		mode        plugin.Mode
		change      func(*plugin.Manifest, *plugin.Launch)
		class       error
		want        []string
	}{
		{"missing image, never pulled", `{"image": "patchbay-test/none:1", "pull": "never", "args": ["x"]}`, plugin.Job, nil,
			plugin.ErrInvalid, []string{"patchbay-test/none:1", "is not on this machine", "pull: missing"}},
		{"bad entrypoint", `{"image": "` + tag + `", "pull": "never", "command": ["/no/such/file"]}`, plugin.Job, nil,
			plugin.ErrInvalid, []string{"/no/such/file", "no such file"}},
		{"unknown user", `{"image": "` + tag + `", "pull": "never", "user": "nobody-here"}`, plugin.Job, nil,
			plugin.ErrUnavailable, []string{"nobody-here"}},
		{"unknown network", `{"image": "` + tag + `", "pull": "never", "network": "no-such-net"}`, plugin.Job, nil,
			plugin.ErrInvalid, []string{"no-such-net"}},
		{"unknown capability", `{"image": "` + tag + `", "pull": "never", "capDrop": ["NOT_ONE"]}`, plugin.Job, nil,
			plugin.ErrInvalid, []string{"NOT_ONE"}},
		{"variable too long", jobBlock(`["job", "env"]`), plugin.Job, long, plugin.ErrInvalid, []string{"spec.env.LONG", "131071"}},
		{"wrong digest", jobBlock(`["job", "env"]`), plugin.Job, other, plugin.ErrInvalid, []string{"spec.digest", tag, "sha256:0000"}},
		{"ends early", `{"image": "` + tag + `", "pull": "never", "port": 8080}`, plugin.Service,
			func(m *plugin.Manifest, l *plugin.Launch) { l.Env = map[string]string{"FAIL_EARLY": "key missing"} },
			plugin.ErrUnavailable, []string{"port 8080", "exit code 7", "no configuration: key missing"}},
		{"never answers", `{"image": "` + tag + `", "pull": "never", "port": 9}`, plugin.Service, nil,
			plugin.ErrDeadline, []string{"port 9", "did not answer in time", "listening on :8080"}},
		{"never healthy", `{"image": "` + tag + `", "pull": "never", "port": 8080, "health": "/nowhere"}`, plugin.Service, nil,
			plugin.ErrDeadline, []string{"/nowhere answers 404"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := manifestOf(tt.mode, tt.block)
			l := conformance.NewLaunch(t, m)
			if tt.change != nil {
				tt.change(&m, &l)
			}
			ctx := within(t)
			if errors.Is(tt.class, plugin.ErrDeadline) {
				short, cancel := context.WithTimeout(ctx, 3*time.Second)
				defer cancel()
				ctx = short
			}
			i, err := newAdapter(t).Launch(ctx, l)
			if err == nil {
				_ = i.Stop(ctx)
				t.Fatal("got an instance, want an error")
			}
			if !errors.Is(err, tt.class) {
				t.Errorf("got %v, want class %v", err, tt.class)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want %q in it", err, want)
				}
			}
			nothingOf(t, l.ID)
		})
	}
}

// A secret that the plugin prints does not get into the error of its launch.
func TestLaunch_keepsSecrets(t *testing.T) {
	const secret = "hunter2-hunter2"
	m := manifestOf(plugin.Service, `{"image": "`+tag+`", "pull": "never", "port": 8080}`)
	m.Spec.Env = map[string]plugin.EnvValue{"FAIL_EARLY": {Secret: "vendor/key"}}
	l := conformance.NewLaunch(t, m)
	l.Env["FAIL_EARLY"] = secret
	_, err := newAdapter(t).Launch(within(t), l)
	if err == nil || strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), "***") {
		t.Errorf("got %v, want an error without the secret", err)
	}
}

func TestLaunch_byDigest(t *testing.T) {
	img, err := dockerEngine(t).ImageInspect(within(t), tag)
	if err != nil {
		t.Fatal(err)
	}
	m := manifestOf(plugin.Job, jobBlock(`["job", "exit", "0"]`))
	m.Spec.Digest = img.ID
	if exit, _ := run(t, m, ""); !exit.Success() {
		t.Errorf("exit: got %+v, want success", exit)
	}
}

// limits and hardening are what the engine was told.
func TestLaunch_box(t *testing.T) {
	m := manifestOf(plugin.Service, serviceBlock(`, "readOnly": true, "tmpfs": ["/tmp"], "capDrop": ["ALL"], "user": "65534", "init": true, "stopSignal": "SIGINT"`))
	m.Spec.Limits = plugin.Limits{Memory: 64 << 20, CPU: 0.5, Pids: 50}
	l := conformance.NewLaunch(t, m)
	i, err := newAdapter(t).Launch(within(t), l)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = i.Stop(within(t)) }()
	id := i.(plugin.Inspector).Inspect()["container"]
	got, err := dockerEngine(t).ContainerInspect(within(t), id)
	if err != nil {
		t.Fatal(err)
	}
	h := got.HostConfig
	if h.Memory != 64<<20 || h.MemorySwap != 64<<20 || h.NanoCPUs != 5e8 || h.PidsLimit == nil || *h.PidsLimit != 50 {
		t.Errorf("limits: got %+v", h.Resources)
	}
	if !h.ReadonlyRootfs || len(h.CapDrop) != 1 || h.Init == nil || !*h.Init || got.Config.User != "65534" || len(h.Tmpfs) != 1 {
		t.Errorf("box: got %+v", h)
	}
	if strings.Join(h.SecurityOpt, " ") != "no-new-privileges" || h.AutoRemove || !h.RestartPolicy.IsNone() || h.LogConfig.Type != "local" {
		t.Errorf("defaults: got %+v", h)
	}
	for _, b := range got.NetworkSettings.Ports["8080/tcp"] {
		if b.HostIP != "127.0.0.1" {
			t.Errorf("port: published on %s, want loopback only", b.HostIP)
		}
	}
	if err := i.Stop(within(t)); err != nil {
		t.Errorf("stop: %v", err)
	}
	if exit := i.Wait(); exit.Code != 0 {
		t.Errorf("exit after SIGINT: got %+v, want code 0", exit)
	}
}

func TestAvailable(t *testing.T) {
	for host, want := range map[string]string{
		"unix:///nonexistent/docker.sock": "no engine answers at unix:///nonexistent/docker.sock; start one, or set DOCKER_HOST",
		"nonsense":                        "correct DOCKER_HOST",
	} {
		a := container.New(container.Options{Host: host})
		err := a.Available(within(t))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("host %s: got %v, want one line with %q", host, err, want)
		}
		l := conformance.NewLaunch(t, manifestOf(plugin.Job, jobBlock(`[]`)))
		if _, err := a.Launch(within(t), l); err == nil {
			t.Errorf("launch at host %s: got an instance", host)
		}
	}
}
