package supervise

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// recordSuffix names the file beside an instance's folder by which the next daemon
// finds the instance. It is not in the folder, which is the plugin's own.
const recordSuffix = ".json"

// askAgainEvery is how soon an adapter that was away is asked again for an instance
// that is only to be stopped.
const askAgainEvery = 5 * time.Second

// recordBytesMax bounds a record that is read: a manifest and a handle.
const recordBytesMax = 4 * plugin.ManifestBytesMax

// ErrDeleted is the cause with which Run's context ends for a plugin that is not
// applied any more. With any other, and while Deps.Leaving, instances are left
// running.
var ErrDeleted = errors.New("the plugin is deleted")

// errNewWish is the cause with which a phase ends that a wish contradicts.
var errNewWish = errors.New("it is wanted otherwise")

// Record is what is kept of a running instance for the next daemon.
type Record struct {
	Instance   string          `json:"instance"`
	Manifest   plugin.Manifest `json:"manifest"` // with references to secrets, never secrets
	Generation int64           `json:"generation"`
	// Restart is Want.Restart of the wish that it was launched for.
	Restart int64 `json:"restart"`
	// Reload is Want.Reload of that wish.
	Reload int64          `json:"reload,omitempty"`
	Since  time.Time      `json:"since"`
	Handle plugin.RawJSON `json:"handle"`
}

// Found is an instance of an earlier daemon.
type Found struct {
	Record
	// Fits says that the instance serves the manifest that is applied now.
	Fits  bool
	dir   string
	asked bool // an adoption was tried, and nobody could tell
}

// servesAs reports whether the instance is to go on for a wish.
func (f *Found) servesAs(want *Want) bool {
	return f.Fits && want.Fault == "" && want.Desired == plugin.DesiredRunning && want.Manifest.Spec.Detached()
}

// mayAdopt reports whether the instance that an earlier daemon left is to go on: for
// good, or until another follows it.
func (p *Plugin) mayAdopt(want *Want) bool {
	f := p.earlier
	return f.servesAs(want) ||
		want.Fault == "" && want.Desired == plugin.DesiredRunning && want.Manifest.Spec.Detached() && p.mayOverlap(f.want(), want)
}

// want is the wish that the instance was launched for.
func (f *Found) want() *Want {
	return &Want{Manifest: f.Manifest, Generation: f.Generation, Desired: plugin.DesiredRunning, Restart: f.Restart, Reload: f.Reload}
}

// Plugin is the name of its plugin.
func (f *Found) Plugin() string { return f.Manifest.Metadata.Name }

// Find reads what an earlier daemon recorded in the folder of instances. What is
// no record, or has no folder, is left to Strays.
func Find(runDir string) ([]*Found, error) {
	entries, err := os.ReadDir(runDir)
	if err != nil {
		return nil, fmt.Errorf("run folder: %w", err)
	}
	var all []*Found
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), recordSuffix)
		if !ok {
			continue
		}
		f := &Found{dir: filepath.Join(runDir, name)}
		if err := f.read(); err == nil {
			all = append(all, f)
		}
	}
	return all, nil
}

func (f *Found) read() error {
	file, err := os.Open(f.dir + recordSuffix)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, recordBytesMax))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &f.Record); err != nil {
		return err
	}
	if !plugin.ValidName(f.Plugin()) || f.Instance != f.Plugin()+"-"+filepath.Base(f.dir) {
		return fmt.Errorf("%q does not belong to this folder", f.Instance)
	}
	_, err = os.Stat(f.dir)
	return err
}

// Strays lists what is in the folder of instances and not known as an instance's
// folder or its record.
func Strays(runDir string, known func(folder string) bool) ([]plugin.Stray, error) {
	entries, err := os.ReadDir(runDir)
	if err != nil {
		return nil, fmt.Errorf("run folder: %w", err)
	}
	var strays []plugin.Stray
	for _, e := range entries {
		folder, _, _ := strings.Cut(e.Name(), recordSuffix) // also what was only half written
		if known(folder) {
			continue
		}
		kind := "folder"
		if e.Type()&os.ModeSocket != 0 {
			kind = "socket"
		}
		strays = append(strays, plugin.Stray{Kind: kind, Name: filepath.Join(runDir, e.Name())})
	}
	return strays, nil
}

// Instances knows which instances are there. It is safe for concurrent use.
type Instances struct{ all sync.Map }

// Has reports whether the instance is there: being launched, running or being
// removed.
func (i *Instances) Has(instance string) bool {
	_, ok := i.all.Load(instance)
	return ok
}

// HasFolder reports whether a folder of that name is an instance's.
func (i *Instances) HasFolder(name string) (has bool) {
	i.all.Range(func(_, folder any) bool {
		has = folder == name
		return !has
	})
	return has
}

// Expect makes an instance known that an earlier daemon left, until its plugin's
// supervisor has adopted it or knows that it is gone.
func (i *Instances) Expect(f *Found) { i.add(f.Instance, f.dir) }

func (i *Instances) add(instance, dir string) { i.all.Store(instance, filepath.Base(dir)) }
func (i *Instances) remove(instance string)   { i.all.Delete(instance) }

// handleMax bounds the wait for a record before the plugin is said to run: a file of
// some kilobytes is written.
const handleMax = time.Second

// keep writes down how the next daemon finds the instance: before the plugin is said
// to run, and again, beside its life, once what takes long is known: hashing its
// executable. A daemon that is killed before the first has an instance that nobody
// was told of: the next one finds it as a stray, removes it and launches anew.
func (p *Plugin) keep(one *living) {
	want := one.want
	s, ok := one.instance.(plugin.Survivor)
	if !ok || !want.Manifest.Spec.Detached() || one.dir == "" {
		return
	}
	atOnce, end := context.WithCancel(context.Background())
	end()
	var first []byte
	soon := p.begin("handle", func() (err error) {
		first, err = p.record(atOnce, one, s, want, nil)
		return err
	})
	_ = soon.wait(atOnce, handleMax) // told below
	one.recorded = make(chan struct{})
	go func() { // ends with the writing; whoever buries or leaves the instance waits
		defer close(one.recorded)
		<-soon.done
		whole := p.begin("handle", func() error {
			_, err := p.record(context.Background(), one, s, want, first)
			return err
		})
		<-whole.done
		if soon.err != nil && whole.err != nil {
			p.deps.Log.Warn("the instance cannot be left to the next daemon", "plugin", p.name, "instance", one.id, "error", whole.err)
			return
		}
		one.canBeLeft = true
	}()
}

// record writes the instance's record, unless it is as it was, and returns it.
func (p *Plugin) record(ctx context.Context, one *living, s plugin.Survivor, want *Want, before []byte) ([]byte, error) {
	handle, err := s.Handle(ctx)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(Record{
		Instance: one.id, Manifest: want.Manifest, Generation: want.Generation, Restart: want.Restart, Reload: want.Reload,
		Since: one.since, Handle: handle,
	})
	if err != nil || bytes.Equal(data, before) {
		return data, err
	}
	path := one.dir + recordSuffix
	if err := os.WriteFile(path+".part", data, 0o600); err != nil {
		return nil, err
	}
	return data, os.Rename(path+".part", path)
}

// settled waits until the record is written, and reports whether it is.
func (one *living) settled() bool {
	if one.recorded == nil {
		return false
	}
	<-one.recorded
	return one.canBeLeft
}

// retire adopts what an earlier daemon left and nobody wants like that any more,
// and stops it.
func (p *Plugin) retire(phase context.Context, end func(), want *Want) {
	if p.earlier.asked {
		timer := time.NewTimer(askAgainEvery)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-phase.Done():
			return
		}
	}
	end() // adopted, and stopped at once
	p.live(phase, want)
}

// takeFound returns what an earlier daemon left of the plugin, once.
func (p *Plugin) takeFound() *Found {
	f := p.earlier
	p.earlier = nil
	return f
}

// adopt brings back the instance that an earlier daemon left. gone means that
// there is none, and that another may be launched; any other error is like that of
// a launch.
func (p *Plugin) adopt(ctx context.Context, f *Found, want *Want) (one *living, gone bool, err error) {
	adapter := p.deps.Adapters[f.Manifest.Spec.Adapter]
	a, ok := adapter.(plugin.Adopter)
	if !ok {
		return nil, true, fmt.Errorf("%w: the adapter %q adopts nothing", plugin.ErrNotFound, f.Manifest.Spec.Adapter)
	}
	env, err := p.deps.Resolve(f.Manifest.Spec.Env) // it has them already: a secret that is gone is no fault
	if err != nil {
		env = nil
	}
	one = p.newLiving(f.Instance, f.dir, adapter, f.want())
	one.since, one.adopted = f.Since, true
	if f.Fits {
		one.want = want
	}
	p.deps.Instances.add(one.id, one.dir)
	one.log = p.deps.ResumeLog(p.name, one.id, one.dir, 0)
	ctx, cancel := context.WithTimeout(ctx, f.Manifest.Spec.Timeouts.Start.Std())
	defer cancel()
	c := p.begin("adopt", func() (err error) {
		one.instance, err = a.Adopt(ctx, plugin.Launch{
			ID: one.id, Manifest: f.Manifest, Env: env, Dir: one.dir, Output: one.log, Host: p.deps.Host(p.name), Node: p.deps.Node,
		}, f.Handle)
		return err
	})
	err = c.wait(ctx, overtimeMax)
	switch {
	case err == nil:
		one.exited = p.exited(one.instance)
		return one, false, nil
	case errors.Is(err, errStuck):
		p.lost.Add(1)
		p.strays.Go(func() { p.bringDown(c, one) }) // ends with the adoption
		return nil, false, err
	case !errors.Is(err, plugin.ErrNotFound) && p.adapterDown(ctx, &Want{Manifest: f.Manifest}) != nil:
		one.log.Leave()
		f.asked = true
		p.earlier = f // nobody knows: asked again later
		return nil, false, err
	}
	p.bury(one)
	return one, errors.Is(err, plugin.ErrNotFound), &startError{err: err, words: lastWords(one.log)}
}

// leaves reports that the daemon ends and the instance goes on.
func (p *Plugin) leaves(phase context.Context, one *living) bool {
	cause := context.Cause(phase)
	if errors.Is(cause, errNewWish) || errors.Is(cause, ErrDeleted) || p.deps.Leaving == nil || !p.deps.Leaving() {
		return false
	}
	return one.settled()
}

// leaveBehind lets go of an instance that the next daemon will adopt, once what is in
// flight is answered.
func (p *Plugin) leaveBehind(phase context.Context, one *living, endStreams func() string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(phase), p.Wanted().Manifest.Spec.Timeouts.Stop.Std())
	defer cancel()
	p.drain(ctx, one)
	left := p.begin("leave", func() error {
		one.instance.(plugin.Survivor).Leave()
		return nil
	})
	if err := left.wait(ctx, overtimeMax); err != nil {
		p.deps.Log.Error("an adapter does not let go of an instance", "plugin", p.name, "instance", one.id, "error", err)
	}
	endStreams() // after it: their ends in the plugin go on
	one.log.Leave()
	p.deps.Instances.remove(one.id)
	p.left = true
	p.refresh(because("Left", "left running for the next daemon"))
}
