package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

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
// Links to files are followed: mounted configuration is made of them.
func fromFolder(err io.Writer, path string) ([]wire.File, error) {
	var all []wire.File
	walk := filepath.WalkDir(path, func(at string, entry fs.DirEntry, e error) error {
		hidden := strings.HasPrefix(entry.Name(), ".") && at != path
		switch {
		case e != nil:
			return usage("%s", e)
		case entry.IsDir() && hidden:
			return fs.SkipDir
		case hidden || !isManifestName(at):
			return nil
		}
		if regular, e := isRegular(at, entry); e != nil || !regular {
			return e
		}
		f, e := fromFile(at)
		if e != nil {
			return e
		}
		if !isManifest([]byte(f.Content)) {
			fmt.Fprintf(err, "%s: left out: it has neither apiVersion nor kind, metadata or spec\n", at)
			return nil
		}
		if all = append(all, f); len(all) > filesMax {
			return usage("%s: has more than %d manifest files", path, filesMax)
		}
		return nil
	})
	return all, walk
}

// isRegular reports whether a file, or what a link leads to, can be read as one.
func isRegular(at string, entry fs.DirEntry) (bool, error) {
	if entry.Type()&fs.ModeSymlink == 0 {
		return entry.Type().IsRegular(), nil
	}
	info, err := os.Stat(at)
	if err != nil {
		return false, usage("%s", err)
	}
	return info.Mode().IsRegular(), nil
}

// isManifest reports whether any document of text has a manifest's field at its
// top: one that misspells another field is a manifest still, and is told so by the
// daemon. So is what cannot be read but has a line that begins with one.
func isManifest(text []byte) bool {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return false
		}
		if err != nil {
			return hasFieldLine(text)
		}
		if len(document.Content) == 0 || document.Content[0].Kind != yaml.MappingNode {
			continue
		}
		for i, top := 0, document.Content[0].Content; i < len(top); i += 2 {
			if isManifestField(top[i].Value) {
				return true
			}
		}
	}
}

func hasFieldLine(text []byte) bool {
	for line := range bytes.Lines(text) {
		field, _, found := bytes.Cut(line, []byte(":"))
		if found && isManifestField(string(bytes.Trim(field, " \t{\"'"))) {
			return true
		}
	}
	return false
}

func isManifestField(name string) bool {
	switch name {
	case "apiVersion", "kind", "metadata", "spec":
		return true
	}
	return false
}

func isManifestName(path string) bool {
	switch filepath.Ext(path) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// filesOnly is for verbs whose files are named by -f.
func filesOnly(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("name files with -f: %s -f %s", cmd.CommandPath(), strings.Join(args, " -f "))
}

// fileFlag adds -f.
func fileFlag(cmd *cobra.Command, into *[]string) {
	cmd.Flags().StringArrayVarP(into, "file", "f", nil, "file, folder, or - for standard input (may be repeated)")
	_ = cmd.MarkFlagFilename("file", "yaml", "yml", "json") // it fails for an unknown flag only
}
