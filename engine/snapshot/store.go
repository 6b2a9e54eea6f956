package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"github.com/stack-run/stack/internal/durable"
)

var (
	// ErrNotUnpacked says that a layer is not unpacked; Unpack does that.
	ErrNotUnpacked = errors.New("image is not unpacked")
	// ErrNotPrepared says that a container has no writable layer; Prepare
	// makes it.
	ErrNotPrepared = errors.New("container has no writable layer")
)

// Store is the layers of one data root. Any number of Stores in any number of
// processes may share a data root.
type Store struct {
	layers     string // data-root/layers
	containers string // data-root/containers-rw
	xattr      string // "trusted.overlay." or "user.overlay."
	// Limits bound what a layer may unpack to. Open sets the default.
	Limits Limits
	// noAppend remembers that the kernel does not know "lowerdir+".
	noAppend   atomic.Bool
	noDetached atomic.Bool // the kernel takes only attached mounts as layers
}

// Open opens the layers below dataRoot and creates the directories if need be.
func Open(dataRoot string) (*Store, error) {
	root, err := filepath.Abs(dataRoot)
	if err != nil {
		return nil, fmt.Errorf("cannot open layer store: %w", err)
	}
	s := &Store{
		layers:     filepath.Join(root, "layers"),
		containers: filepath.Join(root, "containers-rw"),
		xattr:      "trusted.overlay.",
		Limits:     DefaultLimits(),
	}
	s.noAppend.Store(lacksAppend(kernelRelease()))
	if unprivileged() {
		s.xattr = "user.overlay."
	}
	dirs := []string{s.containers}
	for _, name := range []string{"stacks", "tmp", "locks", emptyDir + "/fs", emptyDir + "/under"} {
		dirs = append(dirs, filepath.Join(s.layers, name))
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("cannot open layer store: %w", err)
		}
	}
	// The lowest layer's attributes show where there is no other layer.
	if err := os.Chmod(filepath.Join(s.layers, emptyDir, "fs"), 0o755); err != nil {
		return nil, fmt.Errorf("cannot open layer store: %w", err)
	}
	if err := s.makePoints(); err != nil {
		return nil, fmt.Errorf("cannot open layer store: %w", err)
	}
	return s, nil
}

// makePoints makes the layer below all layers of each container, with what
// something is mounted over in every container. An image seldom has all of it, and
// one layer for all saves each container seven inodes.
func (s *Store) makePoints() error {
	if _, err := os.Lstat(filepath.Join(s.points(), pointFiles[len(pointFiles)-1])); err == nil {
		return nil // the last one that is made
	}
	// Not as the caller's umask would have it.
	for _, dir := range append([]string{"/", "/etc"}, pointDirs...) {
		dir = filepath.Join(s.points(), dir)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o755)); err != nil {
			return err
		}
	}
	for _, name := range pointFiles {
		if err := durable.WriteVolatile(filepath.Join(s.points(), name), nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) points() string { return filepath.Join(s.layers, emptyDir, "points") }

// IsMountPoint tells whether a path in a container is there only for what the engine
// mounts over it.
func IsMountPoint(path string) bool { return slices.Contains(MountPoints(), path) }

// MountPoints are the paths of which IsMountPoint tells.
func MountPoints() []string { return slices.Concat(pointDirs, pointFiles) }

var (
	pointDirs  = []string{"/dev", "/proc", "/sys"}
	pointFiles = []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
)

// emptyDir is the layer of an image without layers. What is under it is the
// second lower directory that overlayfs wants when there is no upper one.
const emptyDir = "empty"

// unprivileged tells whether this process may not set trusted attributes: it is
// not root, or root of a user namespace only (user_namespaces(7)).
func unprivileged() bool {
	if os.Geteuid() != 0 {
		return true
	}
	data, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(data)), " ") != "0 0 4294967295"
}

// LayerInfo is what is known about an unpacked layer.
type LayerInfo struct {
	Version int           `json:"version"`
	DiffID  digest.Digest `json:"diffID"`
	Entries int           `json:"entries"` // files, directories and so on in the archive
	Bytes   int64         `json:"bytes"`   // length of all files together
	Disk    int64         `json:"disk"`    // bytes of disk that the layer takes, in blocks of 4096
	// Implied are the directories that the archive did not contain, "." being
	// the root.
	Implied []string `json:"implied,omitempty"`
}

const (
	layerVersion = 1
	infoFile     = "layer.json"
)

func (s *Store) layerDir(d digest.Digest) string {
	return filepath.Join(s.layers, d.Encoded())
}

// Layer returns what is known about an unpacked layer, or ErrNotUnpacked.
func (s *Store) Layer(diffID digest.Digest) (LayerInfo, error) {
	if err := diffID.Validate(); err != nil {
		return LayerInfo{}, fmt.Errorf("cannot read layer %q: %w", diffID, err)
	}
	return s.readInfo(diffID.Encoded())
}

func (s *Store) readInfo(name string) (LayerInfo, error) {
	var info LayerInfo
	data, err := os.ReadFile(filepath.Join(s.layers, name, infoFile))
	if errors.Is(err, os.ErrNotExist) {
		return info, fmt.Errorf("cannot read layer %s: %w", short(name), ErrNotUnpacked)
	}
	if err == nil {
		err = json.Unmarshal(data, &info)
	}
	if err == nil && info.Version != layerVersion {
		err = fmt.Errorf("it has version %d and this program knows %d; use a newer stack", info.Version, layerVersion)
	}
	if err != nil {
		return info, fmt.Errorf("cannot read layer %s: %w", short(name), err)
	}
	return info, nil
}

// Layers returns all unpacked layers. Those about which nothing can be read are
// the error, and the others are returned all the same.
func (s *Store) Layers() ([]LayerInfo, error) {
	names, err := s.layerNames()
	if err != nil {
		return nil, err
	}
	var all []LayerInfo
	var errs []error
	for _, d := range names {
		info, err := s.readInfo(d.Encoded())
		switch {
		case err == nil:
			all = append(all, info)
		case s.unpacked(d): // else removed just now
			errs = append(errs, fmt.Errorf("%w; \"stack system check --repair\" mends it", err))
		}
	}
	return all, errors.Join(errs...)
}

// layerNames lists the unpacked layers.
func (s *Store) layerNames() ([]digest.Digest, error) {
	entries, err := os.ReadDir(s.layers)
	if err != nil {
		return nil, fmt.Errorf("cannot list layers: %w", err)
	}
	var all []digest.Digest
	for _, e := range entries {
		if d := digest.NewDigestFromEncoded(digest.SHA256, e.Name()); d.Validate() == nil {
			all = append(all, d)
		}
	}
	return all, nil
}

// stack is the file for one chain ID: what to mount.
type stack struct {
	DiffIDs []digest.Digest `json:"diffIDs"`
	Dirs    []string        `json:"dirs"` // below layers, lowest first
}

// chainID names the stack of diffIDs (image-spec, config.md, "Layer ChainID").
func chainID(diffIDs []digest.Digest) digest.Digest {
	chain := digest.FromString("")
	for i, d := range diffIDs {
		if i == 0 {
			chain = d
		} else {
			chain = digest.FromString(chain.String() + " " + d.String())
		}
	}
	return chain
}

func (s *Store) stackPath(chain digest.Digest) string {
	return filepath.Join(s.layers, "stacks", chain.Encoded()+".json")
}

// readStack returns what to mount for diffIDs, or ErrNotUnpacked.
func (s *Store) readStack(diffIDs []digest.Digest) (stack, error) {
	var st stack
	if len(diffIDs) == 0 {
		st.Dirs = []string{emptyDir}
		return st, nil
	}
	data, err := os.ReadFile(s.stackPath(chainID(diffIDs)))
	if errors.Is(err, os.ErrNotExist) {
		return st, fmt.Errorf("cannot use image layers: %w", ErrNotUnpacked)
	}
	if err == nil {
		err = json.Unmarshal(data, &st)
	}
	if err != nil {
		return st, fmt.Errorf("cannot read layer stack: %w", err)
	}
	return st, nil
}

func (s *Store) writeStack(st stack) error {
	data, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("cannot write layer stack: %w", err)
	}
	return durable.Write(s.stackPath(chainID(st.DiffIDs)), data, 0o600)
}

func (s *Store) lockPath() string { return filepath.Join(s.layers, "lock") }

func short(hex string) string { return hex[:min(12, len(hex))] }
