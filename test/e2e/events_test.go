package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// cmdFollow: follow FILE [ARGS...] runs `patchbay events -f -o json ARGS...` for the
// rest of the story, with its output in the file.
func cmdFollow(ts *testscript.TestScript, _ bool, args []string) {
	file, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	s := of(ts)
	cmd := exec.Command(s.bin, append([]string{"events", "-f", "-o", "json"}, args[1:]...)...)
	cmd.Env = append(childEnv(ts), "PATCHBAY_DATA_DIR="+ts.Getenv("PATCHBAY_DATA_DIR"))
	cmd.Stdout, cmd.Stderr = file, file
	ts.Check(cmd.Start())
	s.subs = append(s.subs, func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		file.Close()
	})
}

// cmdComplete: complete FILE [ARGS...] waits until what was followed into the file
// is what `patchbay events -o json ARGS...` says: every event once, in order.
func cmdComplete(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(poll(patience, func() error {
		got, err := eventIDs(ts.ReadFile(args[0]))
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		want, err := eventIDs(run(ts, append([]string{"patchbay", "events", "-o", "json"}, args[1:]...)))
		if err != nil || len(want) == 0 {
			return fmt.Errorf("events: %d, %w", len(want), err)
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("followed %d events, the history has %d:\n%s\n%s", len(got), len(want), strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		for i, id := range want {
			if slices.Contains(want[:i], id) {
				return fmt.Errorf("event %s is in the history twice", id)
			}
		}
		return nil
	}))
}

// eventIDs reads one event per line; other lines are what the CLI says of its link.
func eventIDs(text string) ([]string, error) {
	var ids []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "{") {
			continue
		}
		var e plugin.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return nil, err
		}
		ids = append(ids, e.Type+" "+e.ID)
	}
	return ids, nil
}

// eventsMost bounds the look at what a daemon has published.
const eventsMost = 10 * time.Second

// validate checks everything that the daemon has published against the schemas
// that it serves. A daemon that is gone, or whose bus is away, says nothing.
func (d *daemon) validate() error {
	if closed(d.gone) {
		return nil
	}
	types, err := d.ask("/v1/events/types")
	if err != nil {
		return nil
	}
	known, err := eventSchemas(types)
	if err != nil {
		return err
	}
	history, err := d.ask("/v1/events")
	if err != nil {
		return nil
	}
	var faults []error
	for line := range bytes.Lines(history) {
		var e plugin.Event
		if json.Unmarshal(line, &e) != nil || e.Type == "" || !strings.HasPrefix(e.Type, "dev.patchbay.") {
			continue // a sign of life, a problem, or a plugin's own
		}
		faults = append(faults, fits(known[e.Type], e))
	}
	return errors.Join(faults...)
}

func fits(schema *jsonschema.Schema, e plugin.Event) error {
	if schema == nil {
		return fmt.Errorf("event %s is not in the catalogue", e.Type)
	}
	data, err := jsonschema.UnmarshalJSON(bytes.NewReader(e.Data))
	if err == nil {
		err = schema.Validate(data)
	}
	if err != nil {
		return fmt.Errorf("event %s does not fit its schema: %w: %s", e.Type, err, e.Data)
	}
	return nil
}

func eventSchemas(types []byte) (map[string]*jsonschema.Schema, error) {
	var list wire.EventTypeList
	if err := json.Unmarshal(types, &list); err != nil {
		return nil, err
	}
	compiler, known := jsonschema.NewCompiler(), map[string]*jsonschema.Schema{}
	compiler.AssertFormat()
	for _, t := range list.Items {
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(t.Schema))
		if err != nil {
			return nil, err
		}
		if err := compiler.AddResource(t.Type, document); err != nil {
			return nil, err
		}
		if known[t.Type], err = compiler.Compile(t.Type); err != nil {
			return nil, err
		}
	}
	return known, nil
}

// ask gets a document of the daemon with its token.
func (d *daemon) ask(path string) ([]byte, error) {
	token, err := os.ReadFile(filepath.Join(d.dir, wire.APITokenFile))
	if err != nil {
		return nil, err
	}
	addr, err := os.ReadFile(filepath.Join(d.dir, wire.APIAddrFile))
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequest("GET", "http://"+address(addr)+path, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := (&http.Client{Timeout: eventsMost}).Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	var text bytes.Buffer
	_, err = text.ReadFrom(resp.Body)
	return text.Bytes(), err
}
