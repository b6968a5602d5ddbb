package logs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// What an instance that is gone has printed, and the bus did not take, is put aside:
// into a folder of its name, with its files, so that it is shipped once the bus is
// back, by this daemon or the next. It then stands in the log behind what other
// instances printed meanwhile, with the time at which it was read.

const (
	// asideMax and asideBytesMax bound what waits of one plugin: a crash loop's
	// worth, and as much as a plugin prints in hours. spec.logs.maxSize may say less.
	// Beyond them the oldest instance's is given up.
	asideMax      = 64
	asideBytesMax = 64 << 20
	// asideEvery is how soon a bus that is down is asked again.
	asideEvery = time.Second
	// aboutFile says whose a folder is. It is written last: a folder without it is
	// only half there.
	aboutFile = "instance.json"
	// linesSuffix is for what a writer took: no file has it.
	linesSuffix = ".lines"
	dirMode     = 0o700
)

// logStreams are the streams that an instance may have.
var logStreams = [...]plugin.LogStream{plugin.Stdout, plugin.Stderr, plugin.PluginLog}

// aside is what waits of one instance.
type aside struct {
	Plugin   string    `json:"plugin"`
	Instance string    `json:"instance"`
	Gone     time.Time `json:"gone"`
	dir      string
}

// Run ships what was put aside, by this daemon or an earlier one, until ctx ends. It
// outlives the instances: what they put aside last is the next daemon's.
func (h *Hub) Run(ctx context.Context) error {
	if h.options.AsideDir == "" {
		<-ctx.Done()
		return nil
	}
	h.sweepAside()
	for whole := false; ; {
		var again <-chan time.Time
		if whole = h.shipAside(ctx); !whole {
			again = time.After(asideEvery)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again:
		case <-h.more:
		}
	}
}

// sweepAside removes what a daemon that was killed had only begun to put aside.
func (h *Hub) sweepAside() {
	entries, _ := os.ReadDir(h.options.AsideDir) // none: nothing was put aside yet
	for _, e := range entries {
		dir := filepath.Join(h.options.AsideDir, e.Name())
		info, err := e.Info()
		if _, about := os.Stat(filepath.Join(dir, aboutFile)); err == nil && errors.Is(about, os.ErrNotExist) && info.ModTime().Before(h.began) {
			_ = os.RemoveAll(dir)
		}
	}
}

// allAside lists what waits, the oldest first.
func (h *Hub) allAside() (all []aside) {
	entries, _ := os.ReadDir(h.options.AsideDir)
	for _, e := range entries {
		a := aside{dir: filepath.Join(h.options.AsideDir, e.Name())}
		text, err := os.ReadFile(filepath.Join(a.dir, aboutFile))
		if err == nil && json.Unmarshal(text, &a) == nil && plugin.ValidName(a.Plugin) && a.Instance == e.Name() {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, func(a, b aside) int { return a.Gone.Compare(b.Gone) })
	return all
}

// shipAside reports whether nothing waits any more.
func (h *Hub) shipAside(ctx context.Context) (whole bool) {
	for _, a := range h.allAside() {
		if ctx.Err() != nil {
			return false
		}
		if _, _, err := h.options.Last(ctx, a.Plugin, a.Instance, plugin.Stdout); err != nil {
			return false // the bus is still down
		}
		keep := h.settingsOf(a.Plugin).Keep.MaxAge.Std()
		if (keep == 0 || time.Since(a.Gone) < keep) && !h.shipOne(ctx, a) {
			return false
		}
		if err := os.RemoveAll(a.dir); err != nil {
			h.options.Log.Warn("a log that was shipped later cannot be removed", "plugin", a.Plugin, "instance", a.Instance, "error", err)
			return false
		}
	}
	return true
}

func (h *Hub) settingsOf(name string) Settings {
	if h.options.Settings == nil {
		return Settings{}
	}
	return h.options.Settings(name)
}

// shipOne ships what waits of an instance, behind what is stored of it.
func (h *Hub) shipOne(ctx context.Context, a aside) (whole bool) {
	for _, name := range logStreams {
		if err := h.shipLines(ctx, a, name); err != nil {
			return false
		}
	}
	l := h.Open(a.Plugin, a.Instance, a.dir, 0)
	l.past = true
	l.goOn()
	l.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.streams {
		if s.waits {
			return false // the bus went down again
		}
	}
	return true
}

// shipLines ships what a writer took.
func (h *Hub) shipLines(ctx context.Context, a aside, name plugin.LogStream) error {
	file, err := os.Open(linesPath(a.dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	stored, _, err := h.options.Last(ctx, a.Plugin, a.Instance, name)
	if err != nil {
		return err
	}
	var lines []plugin.LogLine
	bytes := 0
	for decoder, more := json.NewDecoder(bufio.NewReader(file)), true; more; {
		var line plugin.LogLine
		if more = decoder.Decode(&line) == nil; more && line.Sequence > stored {
			lines, bytes = append(lines, line), bytes+sizeOf(&line)
		}
		if len(lines) == 0 || more && len(lines) < batchLines && bytes < batchBytesMax {
			continue
		}
		if err := h.shipBatch(plugin.LogBatch{
			Plugin: a.Plugin, Instance: a.Instance, Stream: name, Lines: lines, Keep: h.settingsOf(a.Plugin).Keep,
		}); err != nil {
			return err
		}
		lines, bytes = nil, 0
	}
	return nil
}

func (h *Hub) shipBatch(b plugin.LogBatch) error {
	ticket := h.order.begin()
	sequence, err := h.options.Publish(b)
	if err != nil {
		h.order.end(ticket, 0, nil, h.tell)
		return err
	}
	h.order.end(ticket, sequence, b.Lines, h.tell)
	return nil
}

func linesPath(dir string, name plugin.LogStream) string {
	return filepath.Join(dir, string(name)+linesSuffix)
}

// putsAside reports that lines of a file that come now are left in it. The caller
// holds mu.
func (l *Log) putsAside(s *stream) bool {
	return s.file != nil && l.ending == gone && l.abandoned() && (l.past || l.hub.options.AsideDir != "")
}

// putAside keeps what the bus did not take of an instance that is gone.
func (l *Log) putAside(files []*follower) {
	l.mu.Lock()
	var saved []plugin.LogLine
	for _, s := range l.streams {
		saved = append(saved, s.saved...)
		s.saved = nil
	}
	var waiting []*follower
	for _, f := range files {
		if !f.stream.waits {
			continue
		}
		waiting = append(waiting, f)
		if kept, _ := readPlace(l.dir, f.stream.name); f.keeper.latest.upto > kept.upto {
			f.keep(f.keeper.latest, f.stream.stored)
		}
	}
	l.mu.Unlock()
	if l.past || l.hub.options.AsideDir == "" || len(saved)+len(waiting) == 0 {
		return
	}
	a := aside{Plugin: l.plugin, Instance: l.instance, Gone: time.Now(), dir: filepath.Join(l.hub.options.AsideDir, l.instance)}
	if err := a.write(l.dir, saved, waiting); err != nil {
		lost := len(saved)
		for _, f := range waiting {
			lost += linesBehind(filepath.Join(l.dir, string(f.stream.name)+".log"), f.keeper.latest.upto)
		}
		_ = os.RemoveAll(a.dir)
		l.hub.lost(l.plugin, l.instance, lost, err)
		return
	}
	l.hub.options.Log.Info("log lines wait for the bus", "plugin", l.plugin, "instance", l.instance)
	l.hub.bound(l.plugin)
	poke(l.hub.more)
}

// write makes the folder.
func (a aside) write(from string, saved []plugin.LogLine, waiting []*follower) error {
	if err := os.MkdirAll(a.dir, dirMode); err != nil {
		return err
	}
	for _, f := range waiting {
		name := string(f.stream.name) + ".log"
		kept, _ := readPlace(from, f.stream.name)
		if err := link(filepath.Join(from, name), filepath.Join(a.dir, name), kept.upto); err != nil {
			return err
		}
		err := link(placePath(from, f.stream.name), placePath(a.dir, f.stream.name), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // nothing was stored yet
			return err
		}
	}
	texts := map[plugin.LogStream]*bytes.Buffer{}
	for i := range saved {
		text := texts[saved[i].Stream]
		if text == nil {
			text = new(bytes.Buffer)
			texts[saved[i].Stream] = text
		}
		if err := json.NewEncoder(text).Encode(&saved[i]); err != nil {
			return err
		}
	}
	for name, text := range texts {
		if err := os.WriteFile(linesPath(a.dir, name), text.Bytes(), 0o600); err != nil {
			return err
		}
	}
	about, err := json.Marshal(a)
	if err != nil {
		return err
	}
	part := filepath.Join(a.dir, aboutFile+".part")
	if err := os.WriteFile(part, about, 0o600); err != nil {
		return err
	}
	return os.Rename(part, filepath.Join(a.dir, aboutFile))
}

// link gives a file a second name; on another file system it copies what lies behind
// upto to where it stands.
func link(from, to string, upto int64) error {
	err := os.Link(from, to)
	if !errors.Is(err, syscall.EXDEV) {
		return err
	}
	return copyRest(from, to, upto)
}

func copyRest(from, to string, upto int64) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.NewOffsetWriter(out, upto), io.NewSectionReader(in, upto, 1<<62))
	return errors.Join(err, out.Close())
}

// bound gives up the oldest that waits of a plugin while it is too much.
func (h *Hub) bound(name string) {
	all := slices.DeleteFunc(h.allAside(), func(a aside) bool { return a.Plugin != name })
	most := int64(asideBytesMax)
	if size := int64(h.settingsOf(name).Keep.MaxSize); size > 0 {
		most = min(most, size)
	}
	total := int64(0)
	for i, a := range slices.Backward(all) {
		if total += a.size(); total <= most && len(all)-i <= asideMax {
			continue
		}
		lost := a.lines()
		if err := os.RemoveAll(a.dir); err == nil {
			h.lost(a.Plugin, a.Instance, lost, errors.New("too much waits for the bus"))
		}
	}
}

// size is what it takes on disk.
func (a aside) size() (bytes int64) {
	entries, _ := os.ReadDir(a.dir)
	for _, e := range entries {
		var st syscall.Stat_t
		if syscall.Lstat(filepath.Join(a.dir, e.Name()), &st) == nil {
			bytes += st.Blocks * 512
		}
	}
	return bytes
}

// lines is how many wait.
func (a aside) lines() (n int) {
	for _, name := range logStreams {
		kept, _ := readPlace(a.dir, name)
		n += linesBehind(filepath.Join(a.dir, string(name)+".log"), kept.upto) + linesBehind(linesPath(a.dir, name), 0)
	}
	return n
}

// linesBehind counts the lines of a file from there on.
func linesBehind(path string, from int64) (n int) {
	file, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer func() { _ = file.Close() }()
	buf := make([]byte, readBytes)
	for {
		got, err := file.ReadAt(buf, from)
		n += bytes.Count(buf[:got], []byte{'\n'})
		from += int64(got)
		if err != nil {
			return n
		}
	}
}

// lost tells that lines are gone for good.
func (h *Hub) lost(name, instance string, lines int, why error) {
	if lines == 0 {
		return
	}
	h.options.Log.Warn("log lines were lost: the bus did not take them", "plugin", name, "instance", instance, "lines", lines, "error", strings.TrimSpace(why.Error()))
	if h.options.Lost != nil {
		h.options.Lost(name, uint64(lines))
	}
}
