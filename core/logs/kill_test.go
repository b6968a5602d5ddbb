package logs_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/core/bus"
	"github.com/patchbay-dev/patchbay/core/logs"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// daemonFolder is set in a copy of the test that plays a daemon until it is killed.
const daemonFolder = "PATCHBAY_TEST_DAEMON_FOLDER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(daemonFolder); dir != "" {
		if _, _, err := openDaemon(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		select {} // to be killed
	}
	os.Exit(m.Run())
}

// openDaemon follows the output of one instance on the bus that lives in dir.
func openDaemon(dir string) (*bus.Bus, *logs.Log, error) {
	b, err := bus.Open(context.Background(), bus.Options{Dir: filepath.Join(dir, "bus")})
	if err != nil {
		return nil, nil, err
	}
	return b, logs.New(logs.Options{Publish: b.LogBatch, Last: b.LastLog}).Resume("p", "p-1", dir, 0), nil
}

// history reads all lines that are stored.
func history(t *testing.T, b *bus.Bus) (all []plugin.LogLine) {
	t.Helper()
	for line, err := range b.LogHistory(t.Context(), bus.LogQuery{Plugin: "p"}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, line)
	}
	return all
}

// TestResume_daemonsThatAreKilled has real daemons with an embedded bus be killed
// while a plugin prints.
func TestResume_daemonsThatAreKilled(t *testing.T) {
	dir := t.TempDir()
	file, err := os.OpenFile(filepath.Join(dir, "stdout.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	total := 0
	appendLines := func(n int) {
		for range n {
			total++
			if _, err := fmt.Fprintf(file, "line %d\n", total); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 4 {
		daemon := exec.Command(os.Args[0])
		daemon.Env = append(os.Environ(), daemonFolder+"="+dir)
		daemon.Stderr = os.Stderr
		if err := daemon.Start(); err != nil {
			t.Fatal(err)
		}
		// Until it has stored something: its place moves on.
		blocks := filepath.Join(dir, "bus", "jetstream", "$G", "streams", "PATCHBAY_LOGS", "msgs")
		before := size(blocks)
		for end := time.Now().Add(time.Minute); size(blocks) <= before+4096; appendLines(50) {
			if time.Now().After(end) {
				_ = daemon.Process.Kill()
				t.Fatal("the daemon stored nothing in a minute")
			}
		}
		appendLines(1000)
		if err := daemon.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = daemon.Wait() // killed
	}
	appendLines(10)
	b, log, err := openDaemon(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	// Close waits for two seconds only, and nothing is put aside here.
	for end := time.Now().Add(time.Minute); ; {
		stored, _, err := b.LastLog(t.Context(), "p", "p-1", plugin.Stdout)
		if err != nil || time.Now().After(end) {
			t.Fatalf("line %d of %d is the last stored: %v", stored, total, err)
		}
		if stored >= uint64(total) {
			break
		}
	}
	log.Close()
	lines := history(t, b)
	for i, line := range lines {
		if line.Sequence != uint64(i+1) || line.Message != fmt.Sprintf("line %d", i+1) {
			t.Fatalf("place %d: got line %d %q", i+1, line.Sequence, line.Message)
		}
	}
	if len(lines) != total {
		t.Errorf("got %d lines, want %d", len(lines), total)
	}
}

// size is how many bytes the files of a folder have.
func size(dir string) (n int64) {
	files, _ := os.ReadDir(dir) // not there yet
	for _, f := range files {
		if info, err := f.Info(); err == nil {
			n += info.Size()
		}
	}
	return n
}
