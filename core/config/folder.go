package config

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// The files by which clients on the same machine find a daemon.
const (
	APIAddressFile  = "api.addr"  // http://HOST:PORT
	APITokenFile    = "api.token" // bearer token, 0600
	NATSAddressFile = "nats.addr" // nats://HOST:PORT
	NATSTokenFile   = "nats.token"
)

// runDirBytesMax leaves an instance's folder within the 64 bytes that
// plugin.Launch.Dir promises: a slash and 8 letters follow.
const runDirBytesMax = 64 - 9

// Folder is the daemon's data folder, held by this process alone.
type Folder struct {
	Path string
	// Node names this daemon for as long as the folder is kept.
	Node string
	// Token is the API's bearer token.
	Token string
	// RunDir holds one folder per running instance, those of an earlier daemon
	// too.
	RunDir string
	lock   *os.File
}

// OpenFolder makes the data folder if need be and locks it. What an earlier
// daemon's instances have in the run folder stays.
func OpenFolder(path string) (*Folder, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("data folder %s is in use by another daemon; give this one its own with --data-dir", path)
	}
	f := &Folder{Path: path, lock: lock}
	if err := f.fill(); err != nil {
		lock.Close()
		return nil, err
	}
	return f, nil
}

func (f *Folder) fill() (err error) {
	if f.Node, err = f.keep("node", 5); err != nil {
		return err
	}
	if f.Token, err = f.keep(APITokenFile, 32); err != nil {
		return err
	}
	f.RunDir, err = runDir(f.Path)
	return err
}

// keep reads a random text that was made at the first start, or makes it. It
// reaches the disk before it is used.
func (f *Folder) keep(name string, bytes int) (string, error) {
	path := filepath.Join(f.Path, name)
	data, err := os.ReadFile(path)
	if err == nil {
		if text := strings.TrimSpace(string(data)); text != "" {
			return text, os.Chmod(path, 0o600)
		}
		return "", fmt.Errorf("%s is empty; remove it to have it made anew", path)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	random := make([]byte, bytes)
	rand.Read(random) // never fails: crypto/rand
	text := hex.EncodeToString(random)
	return text, f.Write(name, text)
}

// Write puts one line into a file of the folder, whole or not at all, mode 0600.
func (f *Folder) Write(name, line string) error {
	path := filepath.Join(f.Path, name)
	file, err := os.OpenFile(path+".part", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(line + "\n")
	err = errors.Join(err, file.Sync(), file.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(path+".part", path); err != nil {
		return err
	}
	return syncFolder(f.Path)
}

// syncFolder brings a renaming to the disk: a node that came back without its name
// would not know its containers.
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// Advertise writes down where clients on this machine find the daemon. Without a
// NATS address there is none to be found.
func (f *Folder) Advertise(apiAddress, natsAddress, natsToken string) error {
	files := map[string]string{APIAddressFile: "http://" + apiAddress}
	if natsAddress != "" {
		files[NATSAddressFile] = natsAddress
		if natsToken != "" { // an external server's is its operator's to give
			files[NATSTokenFile] = natsToken
		}
	} else if err := os.Remove(filepath.Join(f.Path, NATSAddressFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("data folder: %w", err) // of a daemon that was killed
	}
	for name, line := range files {
		if err := f.Write(name, line); err != nil {
			return fmt.Errorf("data folder: %w", err)
		}
	}
	return nil
}

// Close takes the addresses away and gives the folder free.
func (f *Folder) Close() error {
	_ = os.Remove(f.RunDir) // it stays when something is left in it, to be seen
	for _, name := range []string{APIAddressFile, NATSAddressFile} {
		if err := os.Remove(filepath.Join(f.Path, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return errors.Join(err, f.lock.Close())
		}
	}
	return f.lock.Close()
}

// runDir makes and returns the folder for instances: in the data folder if the
// path is short enough for unix sockets, else in the system's temporary folder,
// found again by the data folder's name.
func runDir(data string) (string, error) {
	dir := filepath.Join(data, "run")
	if len(dir) > runDirBytesMax {
		sum := sha256.Sum256([]byte(data))
		dir = fmt.Sprintf("/tmp/patchbay-%d-%s", os.Getuid(), hex.EncodeToString(sum[:6]))
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("run folder: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("run folder: %w", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(owner.Uid) != os.Getuid() {
		return "", fmt.Errorf("run folder: %s is not a folder of our own; remove it", dir)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return "", fmt.Errorf("run folder: %w", err)
	}
	return dir, nil
}
