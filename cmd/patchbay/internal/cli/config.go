package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/sdk/go/client"
)

// config is the file of contexts:
//
//	current: edge
//	contexts:
//	  local: {dataDir: /var/lib/patchbay}
//	  edge: {url: "https://edge:7420", tokenFile: /home/me/edge.token}
type config struct {
	Current  string            `yaml:"current"`
	Contexts map[string]target `yaml:"contexts"`
}

// target is a daemon.
type target struct {
	URL       string `yaml:"url"`
	DataDir   string `yaml:"dataDir"`
	TokenFile string `yaml:"tokenFile"`
	token     string
}

// client finds the daemon; see the help of the root command for the order.
func (a *app) client() (*client.Client, error) {
	t, err := a.target()
	if err != nil {
		return nil, err
	}
	o := client.Options{URL: t.URL, DataDir: t.DataDir, Token: t.token, Link: a.link, Gap: a.gap}
	if t.TokenFile != "" && o.Token == "" {
		text, err := os.ReadFile(t.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("token: %w: %w", plugin.ErrDenied, err)
		}
		o.Token = strings.TrimSpace(string(text))
	}
	return client.New(o)
}

func (a *app) target() (target, error) {
	env := environment()
	t := target{URL: a.url, DataDir: a.dataDir}
	var err error
	switch {
	case t.URL != "" || t.DataDir != "":
		t.TokenFile, t.token = env.TokenFile, env.token
	case a.context != "":
		t, err = configured(a.context) // wholly: our environment is about another daemon
	case env.URL != "" || env.DataDir != "":
		t = env
	default:
		t, err = configured(os.Getenv("PATCHBAY_CONTEXT"))
		if t.TokenFile == "" {
			t.TokenFile, t.token = env.TokenFile, env.token
		}
	}
	if a.tokenFile != "" {
		t.TokenFile, t.token = a.tokenFile, ""
	}
	return t, err
}

func environment() target {
	return target{
		URL: os.Getenv("PATCHBAY_URL"), DataDir: os.Getenv("PATCHBAY_DATA_DIR"),
		TokenFile: os.Getenv("PATCHBAY_TOKEN_FILE"), token: os.Getenv("PATCHBAY_TOKEN"),
	}
}

// configured returns a context of the configuration file; "" is the current one,
// and none when there is none.
func configured(name string) (target, error) {
	path, err := configPath()
	if err != nil && name == "" {
		return target{}, nil // without a home there is no file
	}
	if err != nil {
		return target{}, err
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && name == "" {
		return target{}, nil
	}
	if err != nil {
		return target{}, fmt.Errorf("context %s: %w: %w", name, plugin.ErrInvalid, err)
	}
	var c config
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&c); err != nil && !errors.Is(err, io.EOF) { // an empty file is none
		return target{}, fmt.Errorf("%s: %w: %w", path, plugin.ErrInvalid, err)
	}
	if name == "" {
		name = c.Current
	}
	if name == "" {
		return target{}, nil
	}
	t, ok := c.Contexts[name]
	if !ok {
		known := strings.Join(slices.Sorted(maps.Keys(c.Contexts)), ", ")
		return target{}, fmt.Errorf("%s: %w: there is no context %q; it has: %s", path, plugin.ErrInvalid, name, known)
	}
	return t, nil
}

func configPath() (string, error) {
	dir, err := os.UserConfigDir() // $XDG_CONFIG_HOME, else ~/.config
	if err != nil {
		return "", fmt.Errorf("configuration: %w: %w", plugin.ErrInvalid, err)
	}
	return filepath.Join(dir, "patchbay", "config.yaml"), nil
}
