package goplugin

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// descriptorCopy is the copy of spec.goplugin.descriptorSet in an instance's folder:
// the plugin that runs is described by the file as it was when it started.
const descriptorCopy = "descriptors.pb"

// describeByFile reads the descriptor set, in place of server reflection.
func (c *compiled) describeByFile(source string, faults *plugin.Faults) {
	const path = "spec.goplugin.descriptorSet"
	if c.DescriptorSet == "" {
		return
	}
	name := c.DescriptorSet
	if !filepath.IsAbs(name) {
		if source == "" {
			faults.Add(path, "%q is relative, and metadata.source is missing; write the absolute path", name)
			return
		}
		name = filepath.Join(source, name)
	}
	raw, err := readDescriptors(name)
	if err == nil {
		_, err = catalogOf(raw)
	}
	if err != nil {
		faults.Add(path, "%v; protoc --include_imports --descriptor_set_out=FILE makes one", err)
	}
	c.descriptors = raw
}

// readDescriptors reads a file that is not larger than what is taken from reflection.
func readDescriptors(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe is not waited for
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: is no file", name)
	}
	raw, err := io.ReadAll(io.LimitReader(f, descriptorBytesMax+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > descriptorBytesMax {
		return nil, fmt.Errorf("%s: has more than %d bytes", name, descriptorBytesMax)
	}
	return raw, nil
}

// catalogOf is the catalog of a FileDescriptorSet: all services but gRPC's and
// go-plugin's own.
func catalogOf(raw []byte) (*catalog, error) {
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(raw, set); err != nil {
		return nil, fmt.Errorf("it is no FileDescriptorSet: %w", err)
	}
	files := map[string]*descriptorpb.FileDescriptorProto{}
	var services []string
	for _, file := range set.GetFile() {
		if files[file.GetName()] != nil {
			return nil, fmt.Errorf("it has %s twice", cut(file.GetName()))
		}
		files[file.GetName()] = file
		for _, service := range file.GetService() {
			name := service.GetName()
			if file.GetPackage() != "" {
				name = file.GetPackage() + "." + name
			}
			if !infrastructure(name) {
				services = append(services, name)
			}
		}
	}
	if len(services) == 0 {
		return nil, errors.New("it has no service")
	}
	if len(files) > descriptorFilesMax || len(services) > servicesMax {
		return nil, fmt.Errorf("it has %d files and %d services; at most %d and %d", len(files), len(services), descriptorFilesMax, servicesMax)
	}
	for _, file := range set.GetFile() {
		for _, name := range file.GetDependency() {
			if files[name] == nil {
				files[name] = wellKnown(name)
			}
			if files[name] == nil {
				return nil, fmt.Errorf("%s imports %s, which is not in it", cut(file.GetName()), cut(name))
			}
		}
	}
	return newCatalog(files, services)
}

// keepDescriptors writes the copy.
func (p *process) keepDescriptors() error {
	if p.DescriptorSet == "" {
		return nil
	}
	if err := os.WriteFile(filepath.Join(p.launch.Dir, descriptorCopy), p.descriptors, 0o600); err != nil {
		return startFailed("descriptors", err)
	}
	return nil
}

// recallDescriptors reads the copy.
func (p *process) recallDescriptors() (err error) {
	if p.DescriptorSet == "" {
		return nil
	}
	if p.descriptors, err = readDescriptors(filepath.Join(p.launch.Dir, descriptorCopy)); err != nil {
		return fmt.Errorf("descriptors: %w: %w", plugin.ErrInvalid, err)
	}
	return nil
}
