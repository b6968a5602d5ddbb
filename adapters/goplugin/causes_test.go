package goplugin

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// FuzzCauses: whatever a plugin prints, the lines that say why an answer could not be
// encoded are found, the same ones in the file and through the connection.
func FuzzCauses(f *testing.F) {
	f.Add([]byte("2026/11/26 "+encodingFailed+notRegistered+"main.NotFound\n"), uint8(5))
	f.Add([]byte(`{"@message":"`+encodingFailed+`gob: x"}`+"\r\nnoise\n"+encodingFailed+"\n\n"), uint8(1))
	f.Add([]byte(encodingFailed+notRegistered), uint8(0))
	path := filepath.Join(f.TempDir(), "stderr")
	f.Fuzz(func(t *testing.T, printed []byte, step uint8) {
		if err := os.WriteFile(path, printed, 0o600); err != nil {
			t.Fatal(err)
		}
		opened := 0
		inFile := newCauses(func() (*os.File, error) {
			if opened++; opened == 1 { // it was empty when the plugin connected
				return nil, errors.New("not yet")
			}
			return os.Open(path)
		})
		through := newCauses(func() (*os.File, error) { return nil, errors.New("there is none") })
		to := through.tee(io.Discard)
		for piece := range bytes.Lines(printed) {
			for len(piece) > 0 {
				n := min(len(piece), int(step)+1)
				if _, err := to.Write(piece[:n]); err != nil {
					t.Fatal(err)
				}
				piece = piece[n:]
			}
		}
		inFile.look()
		if len(inFile.found) != len(through.found) {
			t.Fatalf("%d in the file, %d through the connection", len(inFile.found), len(through.found))
		}
		for i, one := range inFile.found {
			if other := through.found[i]; *one != *other || len(one.text) > causeBytesMax {
				t.Errorf("%+v in the file, %+v through the connection", *one, *other)
			}
		}
	})
}
