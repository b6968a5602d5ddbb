package proc

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestDescriptor_ofWhatWasInherited(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := Start(Spec{Path: self(t), Env: []string{roleVar + "=block"}, ExtraFiles: []*os.File{w}, Detached: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	_ = w.Close()
	copied, err := p.Descriptor(firstExtraFile)
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	if _, err := copied.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	var got [1]byte
	if _, err := r.Read(got[:]); err != nil || got[0] != 'x' {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := p.Descriptor(1000); !errors.Is(err, syscall.EBADF) || !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("of no descriptor: got %v, want EBADF and plugin.ErrUnavailable", err)
	}
	p.Kill()
	<-p.gone
	if _, err := p.Descriptor(firstExtraFile); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("of an ended process: got %v, want plugin.ErrUnavailable", err)
	}
}
