package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/bus"
	"github.com/patchbay-dev/patchbay/core/health"
	"github.com/patchbay-dev/patchbay/core/logs"
	"github.com/patchbay-dev/patchbay/core/manifest"
	"github.com/patchbay-dev/patchbay/core/plugin"
	"github.com/patchbay-dev/patchbay/core/store"
)

// toy is an adapter that launches nothing: the tests apply its manifests.
type toy struct{}

type toySpec struct {
	Command []string `json:"command"`
}

func (toy) Name() string { return "toy" }
func (toy) Spec() any    { return new(toySpec) }

func (toy) Check(m plugin.Manifest) error {
	var spec toySpec
	if err := manifest.Decode(m, &spec); err != nil {
		return err
	}
	var faults plugin.Faults
	if len(spec.Command) == 0 {
		faults.Add("spec.toy.command", "is missing; give the toy's path")
	} else if _, err := m.Path(spec.Command[0]); err != nil {
		faults.Add("spec.toy.command[0]", "%s", err)
	}
	return faults.Err()
}

func (toy) Launch(context.Context, plugin.Launch) (plugin.Instance, error) {
	return nil, plugin.ErrUnavailable
}

// shelf is Plugins in memory.
type shelf struct {
	mu       sync.Mutex
	all      map[string]plugin.Resource
	past     map[string][]plugin.Manifest // those before, oldest first
	revision uint64
	fail     error // what the next Put answers
}

func newShelf(names ...string) *shelf {
	s := &shelf{all: map[string]plugin.Resource{}, past: map[string][]plugin.Manifest{}}
	for _, name := range names {
		if _, _, err := s.Put(context.Background(), toyManifest(name), store.Expect{}); err != nil {
			panic(err)
		}
	}
	return s
}

func toyManifest(name string) plugin.Manifest {
	return plugin.Manifest{
		APIVersion: plugin.APIVersion, Kind: plugin.Kind,
		Metadata: plugin.Metadata{Name: name, Labels: map[string]string{"team": "edge"}},
		Spec:     plugin.Spec{Adapter: "toy", Block: plugin.RawJSON(`{"command":["/bin/toy"]}`)},
	}
}

func (s *shelf) Get(name string) (plugin.Resource, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.all[name]
	return r, ok
}

func (s *shelf) List(after string, limit int, match func(map[string]string) bool) ([]plugin.Resource, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, 0, len(s.all))
	for name := range s.all {
		names = append(names, name)
	}
	slices.Sort(names)
	var page []plugin.Resource
	for _, name := range names {
		if name <= after || !match(s.all[name].Metadata.Labels) {
			continue
		}
		if len(page) == limit {
			return page, page[limit-1].Metadata.Name
		}
		page = append(page, s.all[name])
	}
	return page, ""
}

func (s *shelf) Instances(name string) ([]plugin.Status, bool) {
	r, ok := s.Get(name)
	return []plugin.Status{r.Status}, ok
}

func (s *shelf) Operations(_ context.Context, name string) ([]plugin.Operation, error) {
	if _, ok := s.Get(name); !ok {
		return nil, fmt.Errorf("plugin %q: %w", name, plugin.ErrNotFound)
	}
	return []plugin.Operation{{Name: "echo"}, {Name: "count", Streams: true}}, nil
}

func (s *shelf) Put(_ context.Context, m plugin.Manifest, expect store.Expect) (plugin.Resource, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail; err != nil {
		s.fail = nil
		return plugin.Resource{}, false, err
	}
	old, exists := s.all[m.Metadata.Name]
	if expect.Absent && exists || expect.Revision != 0 && expect.Revision != old.Revision {
		return plugin.Resource{}, false, fmt.Errorf("plugin %q: %w: it has revision %d", m.Metadata.Name, plugin.ErrConflict, old.Revision)
	}
	s.revision++
	if exists {
		s.past[m.Metadata.Name] = append(s.past[m.Metadata.Name], old.Manifest)
	}
	r := plugin.Resource{Manifest: m, Revision: s.revision, Generation: old.Generation + 1, Desired: plugin.DesiredRunning,
		Status: plugin.Status{Plugin: m.Metadata.Name, Instance: m.Metadata.Name + "-1", Adapter: m.Spec.Adapter, State: plugin.Running, Generation: old.Generation + 1}}
	s.all[m.Metadata.Name] = r
	return r, !exists, nil
}

func (s *shelf) Delete(_ context.Context, name string, expect store.Expect) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.all[name]
	if !ok {
		return fmt.Errorf("plugin %q: %w", name, plugin.ErrNotFound)
	}
	if expect.Revision != 0 && expect.Revision != r.Revision {
		return plugin.ErrConflict
	}
	delete(s.all, name)
	return nil
}

func (s *shelf) Desire(_ context.Context, name string, d plugin.Desired) (plugin.Resource, error) {
	return s.change(name, func(r *plugin.Resource) {
		r.Desired = d
		r.Status.State = map[plugin.Desired]plugin.State{plugin.DesiredRunning: plugin.Running, plugin.DesiredStopped: plugin.Stopped}[d]
	})
}

func (s *shelf) Restart(_ context.Context, name string) (plugin.Resource, error) {
	return s.change(name, func(r *plugin.Resource) { r.Status.Restarts++; r.Status.Instance += "0" })
}

func (s *shelf) Reload(_ context.Context, name string) (plugin.Resource, error) {
	return s.change(name, func(r *plugin.Resource) {
		r.Status.LastReload = &plugin.Reload{At: time.Now(), Outcome: plugin.ReloadDone, From: r.Status.Instance, To: r.Status.Instance + "0"}
		r.Status.Instance += "0"
	})
}

func (s *shelf) Revisions(_ context.Context, name string) ([]plugin.Revision, error) {
	r, ok := s.Get(name)
	if !ok {
		return nil, fmt.Errorf("plugin %q: %w", name, plugin.ErrNotFound)
	}
	all := []plugin.Revision{{Generation: r.Generation, Manifest: r.Manifest, Current: true}}
	for _, m := range slices.Backward(s.past[name]) {
		all = append(all, plugin.Revision{Generation: all[len(all)-1].Generation - 1, Manifest: m})
	}
	return all, nil
}

func (s *shelf) Pin(_ context.Context, name string) (plugin.Resource, error) {
	return s.change(name, func(r *plugin.Resource) { r.Pin = &plugin.Pin{Generation: r.Generation, Digest: "sha256:1"} })
}

func (s *shelf) Unpin(_ context.Context, name string) (plugin.Resource, error) {
	return s.change(name, func(r *plugin.Resource) { r.Pin = nil })
}

func (s *shelf) change(name string, by func(*plugin.Resource)) (plugin.Resource, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.all[name]
	if !ok {
		return r, fmt.Errorf("plugin %q: %w", name, plugin.ErrNotFound)
	}
	s.revision++
	r.Revision = s.revision
	by(&r)
	s.all[name] = r
	return r, nil
}

// operator is an Invoker whose operations are these.
type operator struct {
	mu   sync.Mutex
	last plugin.Invocation
}

func (o *operator) Invoke(ctx context.Context, in plugin.Invocation) (plugin.Result, error) {
	o.mu.Lock()
	o.last = in
	o.mu.Unlock()
	switch in.Operation {
	case "join":
		var all []byte
		for {
			part, err := in.Parts(ctx)
			if err == io.EOF {
				return plugin.Result{Data: append(all, ']')}, nil
			} else if err != nil {
				return plugin.Result{}, err
			}
			all = append(append(all, "[,"[min(len(all), 1)]), part...)
		}
	case "tell":
		in.Told(map[string]string{"first": "1", "other": "2", "odd": "a\nb"})
		in.Told(map[string]string{"last": "3"})
		return plugin.Result{Data: []byte("{}")}, nil
	case "echo", "pkg.Service/Echo":
		return plugin.Result{Data: in.Data, ContentType: in.ContentType}, nil
	case "refuse":
		return plugin.Result{}, &plugin.Refusal{Code: "E7", Message: "no thanks", Details: plugin.RawJSON(`{"why":"tired"}`)}
	case "refuse as 409":
		return plugin.Result{}, &plugin.Refusal{Code: "E7", Message: "no thanks", Status: 409}
	case "hang":
		<-ctx.Done()
		return plugin.Result{}, ctx.Err()
	case "panic":
		panic("the operator is broken")
	case "stopping":
		return plugin.Result{}, &plugin.Later{Err: fmt.Errorf("%w: it is stopping", plugin.ErrUnavailable), After: 1200 * time.Millisecond}
	case "busy":
		return plugin.Result{}, plugin.ErrBusy
	case "gone":
		return plugin.Result{}, fmt.Errorf("plugin %s: %w: the link broke", in.Plugin, plugin.ErrUnavailable)
	}
	return plugin.Result{}, fmt.Errorf("plugin %s: %s: %w", in.Plugin, in.Operation, plugin.ErrNotFound)
}

func (o *operator) InvokeStream(ctx context.Context, in plugin.Invocation, send func([]byte) error) error {
	switch in.Operation {
	case "chat":
		for {
			part, err := in.Parts(ctx)
			if err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			if string(part) == `"no"` {
				return &plugin.Refusal{Message: "no more"}
			}
			if err := send(part); err != nil {
				return err
			}
		}
	case "tell":
		in.Told(map[string]string{"first": "1"})
		if err := send([]byte("{}")); err != nil {
			return err
		}
		in.Told(map[string]string{"last": "3"})
		return nil
	case "wait":
		if err := send([]byte("0")); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	case "count":
		for i := range 3 {
			if err := send([]byte(strconv.Itoa(i))); err != nil {
				return err
			}
		}
		return nil
	case "break":
		if err := send([]byte("{\n\"a\": 1}")); err != nil {
			return err
		}
		return fmt.Errorf("%w: the link broke", plugin.ErrUnavailable)
	case "panic":
		panic("the operator is broken")
	}
	r, err := o.Invoke(ctx, in)
	if err != nil {
		return err
	}
	return send(r.Data)
}

// history is Events and Logs: what was, and then what is told.
type history struct {
	mu      sync.Mutex
	events  []*bus.Item
	changed chan struct{} // closed and replaced when there is more
	lines   []plugin.LogLine
	asked   logs.Query
}

func newHistory() *history { return &history{changed: make(chan struct{})} }

func (h *history) tell(name, kind string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := uint64(len(h.events) + 1)
	e := plugin.Event{ID: strconv.FormatUint(n, 10), Source: "/patchbay/test/plugins/" + name, Type: kind, Plugin: name, Time: time.Now(), Sequence: n}
	text, err := e.MarshalJSON()
	if err != nil {
		panic(err)
	}
	h.events = append(h.events, &bus.Item{Event: e, JSON: text})
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *history) EventItems(ctx context.Context, q bus.EventQuery) iter.Seq2[*bus.Item, error] {
	return func(yield func(*bus.Item, error) bool) {
		h.mu.Lock()
		at := int(q.After)
		if at > len(h.events) && q.Gap != nil {
			at = 1
			q.Gap(1)
		}
		if at > len(h.events) {
			h.mu.Unlock()
			yield(nil, fmt.Errorf("events: %w: %d is not kept", plugin.ErrNotFound, q.After))
			return
		}
		if q.NoHistory {
			at = len(h.events)
		}
		h.mu.Unlock()
		for {
			h.mu.Lock()
			fresh, changed := h.events[at:], h.changed
			at = len(h.events)
			h.mu.Unlock()
			for _, item := range fresh {
				if (q.Plugin == "" || q.Plugin == item.Event.Plugin) && !yield(item, nil) {
					return
				}
			}
			if len(fresh) > 0 {
				continue
			}
			if !q.Follow {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (h *history) Follow(_ context.Context, q logs.Query) iter.Seq2[plugin.LogLine, error] {
	h.mu.Lock()
	h.asked = q
	h.mu.Unlock()
	return func(yield func(plugin.LogLine, error) bool) {
		if q.Gap != nil && q.After == "99.9" {
			q.Gap("4.0")
		}
		for _, l := range h.lines {
			if !yield(l, nil) {
				return
			}
		}
	}
}

// Previous knows the instance before NAME-2.
func (h *history) Previous(_ context.Context, name, current string) (string, error) {
	if current != name+"-2" {
		return "", fmt.Errorf("%q: %w: no earlier instance", name, plugin.ErrNotFound)
	}
	return name + "-1", nil
}

// frail is Health: the bus works unless err says why not, the adapter does not.
type frail struct{ err error }

func (f frail) Needed(context.Context) []health.Answer {
	return []health.Answer{{Name: "bus", Err: f.err, Since: time.Unix(1, 0), Took: time.Millisecond}}
}

func (f frail) All(ctx context.Context) []health.Answer {
	return append(f.Needed(ctx), health.Answer{Name: health.AdapterPrefix + "toy", Advisory: true, Err: errTest})
}

var (
	_ Events = (*bus.Bus)(nil)
	_ Logs   = (*logs.Hub)(nil)
	_ Parser = (*manifest.Parser)(nil)
)

const testToken = "t0ken"

func testDeps(t testing.TB, plugins *shelf) Deps {
	t.Helper()
	return Deps{
		Plugins: plugins, Invoker: &operator{}, Events: newHistory(), Logs: newHistory(), Health: frail{},
		Parser: manifest.NewParser(toy{}), Token: testToken, Version: wire.Version{Version: "test", API: "v1"},
		Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(),
	}
}

// ask sends one request and returns the answer. header is "Key: value".
func ask(t testing.TB, a *API, method, path, body string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+testToken)
	for _, h := range header {
		key, value, _ := strings.Cut(h, ": ")
		r.Header.Set(key, value)
	}
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r)
	return w
}

var errTest = errors.New("out of order")
