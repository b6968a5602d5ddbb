package proc

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// followed runs Follow in the background.
func followed(t *testing.T, ctx context.Context, stop <-chan struct{}) (file *os.File, lines chan string, ended chan error) {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(t.TempDir(), "out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	lines, ended = make(chan string), make(chan error, 1)
	go func() {
		ended <- Follow(ctx, Tail{Path: file.Name()}, stop, func(line []byte) bool {
			lines <- string(line)
			return string(line) != "enough"
		})
	}()
	return file, lines, ended
}

func write(t *testing.T, file *os.File, text string) {
	t.Helper()
	if _, err := file.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, lines chan string, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := <-lines; got != w {
			t.Fatalf("got %d bytes %.40q, want %d bytes %.40q", len(got), got, len(w), w)
		}
	}
}

func TestFollow_partsBecomeLines(t *testing.T) {
	file, lines, ended := followed(t, testContext(t), nil)
	write(t, file, "one\ntw")
	expect(t, lines, "one")
	write(t, file, "o\n\nth")
	expect(t, lines, "two", "")
	write(t, file, "ree\nenough\nmore\n")
	expect(t, lines, "three", "enough")
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestFollow_longLines(t *testing.T) {
	file, lines, _ := followed(t, testContext(t), nil)
	exact := strings.Repeat("x", plugin.LogLineBytesMax)
	write(t, file, exact+"\n")
	expect(t, lines, exact)
	write(t, file, exact+"rest of it\nnext\n")
	expect(t, lines, exact, "next")
	write(t, file, exact)
	write(t, file, strings.Repeat("y", 1<<20))
	expect(t, lines, exact)
	write(t, file, "z\nenough\n")
	expect(t, lines, "enough")
}

func TestFollow_stopReadsToTheEnd(t *testing.T) {
	stop := make(chan struct{})
	file, lines, ended := followed(t, testContext(t), stop)
	write(t, file, "first\n")
	expect(t, lines, "first")
	write(t, file, "second\nunfinished")
	close(stop)
	expect(t, lines, "second", "unfinished")
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestFollow_contextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(testContext(t))
	file, lines, ended := followed(t, ctx, nil)
	write(t, file, "first\n")
	expect(t, lines, "first")
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
}

func TestFollow_noSuchFile(t *testing.T) {
	err := Follow(testContext(t), Tail{Path: filepath.Join(t.TempDir(), "none")}, nil, func([]byte) bool { return true })
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// FuzzCutter: however the bytes arrive, the lines are those of the whole.
func FuzzCutter(f *testing.F) {
	f.Add([]byte("a\nb\n\nc"), uint8(1))
	f.Add([]byte("\r\n\x00\n"), uint8(3))
	f.Add(bytes.Repeat([]byte("x"), plugin.LogLineBytesMax+2), uint8(200))
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		var got []string
		c := cutter{line: func(line []byte) bool { got = append(got, string(line)); return true }}
		for rest := data; len(rest) > 0; {
			n := min(int(step)+1, len(rest))
			if !c.write(rest[:n]) {
				t.Fatal("ended early")
			}
			rest = rest[n:]
		}
		c.finish()
		var want []string
		for _, line := range strings.SplitAfter(string(data), "\n") {
			if line != "" {
				text := strings.TrimSuffix(line, "\n")
				want = append(want, text[:min(len(text), plugin.LogLineBytesMax)])
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

// TestFollow_behindEarlier: what an earlier process printed is not read again.
func TestFollow_behindEarlier(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(path, []byte("old\nnew\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	close(stop)
	var got []string
	err := Follow(testContext(t), Tail{path, 4}, stop, func(line []byte) bool {
		got = append(got, string(line))
		return true
	})
	if err != nil || len(got) != 1 || got[0] != "new" {
		t.Errorf("got %q, %v", got, err)
	}
}
