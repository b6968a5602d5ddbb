package proc

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

func BenchmarkStart(b *testing.B) {
	b.Run("proc", func(b *testing.B) {
		for b.Loop() {
			p, err := Start(Spec{Path: "/bin/true", Dir: "/"})
			if err != nil {
				b.Fatal(err)
			}
			p.Wait()
		}
	})
	b.Run("bare", func(b *testing.B) {
		for b.Loop() {
			if err := (&exec.Cmd{Path: "/bin/true", Dir: "/", Env: []string{}}).Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("privateTmp", func(b *testing.B) {
		dir := b.TempDir()
		for b.Loop() {
			p, err := Start(Spec{Path: "/bin/true", Dir: "/", PrivateTmp: dir})
			if err != nil {
				b.Fatal(err)
			}
			p.Wait()
		}
	})
	b.Run("digest", func(b *testing.B) {
		data, _ := os.ReadFile("/bin/true")
		digest := fmt.Sprintf("sha256:%x", sha256.Sum256(data))
		for b.Loop() {
			p, err := Start(Spec{Path: "/bin/true", Dir: "/", Digest: digest})
			if err != nil {
				b.Fatal(err)
			}
			p.Wait()
		}
	})
}
