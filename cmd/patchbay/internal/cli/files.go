package cli

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/patchbay-dev/patchbay/core/api/wire"
	"github.com/patchbay-dev/patchbay/core/plugin"
)

// filesMax bounds a folder that is walked: what one upload may hold.
const filesMax = 10000

// manifests reads what -f names: files, folders with all that is below, - for
// standard input.
func manifests(cmd *cobra.Command, paths []string) ([]wire.File, error) {
	if len(paths) == 0 {
		return nil, usage("name a manifest: -f FILE, -f FOLDER, or -f - for standard input")
	}
	var all []wire.File
	for _, path := range paths {
		found, err := manifestsAt(cmd, path)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	if len(all) == 0 {
		return nil, usage("%s: no manifests there; they end in .yaml, .yml or .json", strings.Join(paths, ", "))
	}
	return all, nil
}

func manifestsAt(cmd *cobra.Command, path string) ([]wire.File, error) {
	if path == "-" {
		return fromStdin(cmd.InOrStdin())
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, usage("%s", err)
	}
	if info.IsDir() {
		return fromFolder(cmd.ErrOrStderr(), path)
	}
	f, err := fromFile(path)
	return []wire.File{f}, err
}

func fromStdin(in io.Reader) ([]wire.File, error) {
	text, err := bounded(in, "standard input")
	if err != nil {
		return nil, err
	}
	here, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("working directory: %w", err)
	}
	return []wire.File{{Name: "-", Source: here, Content: string(text)}}, nil
}

func fromFile(path string) (wire.File, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return wire.File{}, fmt.Errorf("%s: %w", path, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return wire.File{}, usage("%s", err)
	}
	defer f.Close()
	text, err := bounded(f, path)
	return wire.File{Name: path, Source: filepath.Dir(absolute), Content: string(text)}, err
}

// bounded reads a manifest file. One that is too large is refused here: nobody
// should have to send it first.
func bounded(from io.Reader, name string) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(from, plugin.ManifestBytesMax+1))
	if err != nil {
		return nil, usage("%s: %s", name, err)
	}
	if len(text) > plugin.ManifestBytesMax {
		return nil, usage("%s: has more than %d bytes, the most that a manifest file may have; split it", name, plugin.ManifestBytesMax)
	}
	return text, nil
}

// fromFolder reads all manifests below path, in the order of their names. YAML and
// JSON files that are not manifests may stand between them: they are told and left.
func fromFolder(err io.Writer, path string) ([]wire.File, error) {
	var all []wire.File
	walk := filepath.WalkDir(path, func(at string, entry fs.DirEntry, e error) error {
		hidden := strings.HasPrefix(entry.Name(), ".") && at != path
		switch {
		case e != nil:
			return usage("%s", e)
		case entry.IsDir() && hidden:
			return fs.SkipDir
		case hidden || !entry.Type().IsRegular() || !isManifestName(at):
			return nil
		}
		f, e := fromFile(at)
		if e != nil {
			return e
		}
		if !bytes.Contains([]byte(f.Content), []byte("apiVersion")) {
			fmt.Fprintf(err, "%s: left out: it has no apiVersion\n", at)
			return nil
		}
		if all = append(all, f); len(all) > filesMax {
			return usage("%s: has more than %d manifest files", path, filesMax)
		}
		return nil
	})
	return all, walk
}

func isManifestName(path string) bool {
	switch filepath.Ext(path) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// fileFlag adds -f.
func fileFlag(cmd *cobra.Command, into *[]string) {
	cmd.Flags().StringArrayVarP(into, "file", "f", nil, "file, folder, or - for standard input (may be repeated)")
	_ = cmd.MarkFlagFilename("file", "yaml", "yml", "json") // it fails for an unknown flag only
}
