package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/lock"
)

// fixDir is the name of the layer that corrects directories implied by the
// uppermost layer of chain.
func fixDir(chain digest.Digest) string { return "fix-" + chain.Encoded() }

// makeFix makes the layer that gives directories which the layer info implied
// the attributes that they have in the layers lower, lowest first. It returns
// the layer's name, "" if there is nothing to correct.
func (s *Store) makeFix(ctx context.Context, chain digest.Digest, info LayerInfo, lower []string) (string, error) {
	if len(lower) == 0 || len(info.Implied) == 0 {
		return "", nil
	}
	own := filepath.Join(s.layers, info.DiffID.Encoded(), "fs")
	want := make(map[string]dirAttributes)
	for _, dir := range info.Implied {
		have, err := readAttributes(filepath.Join(own, dir))
		if err != nil {
			return "", err
		}
		hidden, err := s.hiddenBelow(own, dir)
		if err != nil {
			return "", err
		}
		if hidden {
			continue
		}
		below, found, err := s.lookup(lower, dir)
		if err != nil {
			return "", err
		}
		if found && !below.equal(have) {
			want[dir] = below
		}
	}
	if len(want) == 0 {
		return "", nil
	}
	name := fixDir(chain)
	if _, err := os.Lstat(filepath.Join(s.layers, name)); err == nil {
		return name, nil
	}
	held, err := lock.Exclusive(ctx, filepath.Join(s.layers, "locks", name), lock.Patiently())
	if err != nil {
		return "", err
	}
	defer held.Remove()
	if _, err := os.Lstat(filepath.Join(s.layers, name)); err == nil {
		return name, nil
	}
	tmp := filepath.Join(s.layers, "tmp", name)
	err = removeTree(tmp)
	if err == nil {
		err = s.writeFix(tmp, own, lower, want)
	}
	if err == nil {
		err = s.publish(tmp, filepath.Join(s.layers, name))
	}
	if err != nil {
		removeTree(tmp)
		return "", fmt.Errorf("cannot correct directories of layer %s: %w", short(info.DiffID.Encoded()), err)
	}
	return name, nil
}

// writeFix makes the directories want below tmp/fs, each with the attributes
// that it shall show. The directories on the way to them show too, so they get
// those they have now.
func (s *Store) writeFix(tmp, own string, lower []string, want map[string]dirAttributes) error {
	all := make(map[string]dirAttributes)
	for dir, a := range want {
		all[dir] = a
		for dir != "." {
			dir = path.Dir(dir)
			if _, ok := want[dir]; ok {
				continue
			}
			a, err := readAttributes(filepath.Join(own, dir))
			if err != nil {
				return err
			}
			all[dir] = a
		}
	}
	names := make([]string, 0, len(all))
	for dir := range all {
		names = append(names, dir)
	}
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(path.Clean("/"+a), path.Clean("/"+b)) })
	for _, dir := range names {
		if err := os.MkdirAll(filepath.Join(tmp, "fs", dir), 0o700); err != nil {
			return err
		}
	}
	for _, dir := range slices.Backward(names) {
		if err := all[dir].apply(filepath.Join(tmp, "fs", dir)); err != nil {
			return err
		}
	}
	return nil
}

// hiddenBelow tells whether in the layer own something above dir hides what
// lower layers have there.
func (s *Store) hiddenBelow(own, dir string) (bool, error) {
	for dir != "." {
		dir = path.Dir(dir)
		opaque, err := s.isOpaque(filepath.Join(own, dir))
		if err != nil || opaque {
			return opaque, err
		}
	}
	return false, nil
}

// lookup finds the attributes that the directory dir shows in the layers lower,
// lowest first.
func (s *Store) lookup(lower []string, dir string) (dirAttributes, bool, error) {
	for _, name := range slices.Backward(lower) {
		base := filepath.Join(s.layers, name, "fs")
		at := base
		parts := strings.Split(dir, "/")
		opaque := false
		for i, part := range parts {
			at = filepath.Join(at, part)
			var st unix.Stat_t
			err := unix.Lstat(at, &st)
			if errors.Is(err, unix.ENOENT) {
				break // look in the next layer, unless this one hides it
			}
			if err != nil {
				return dirAttributes{}, false, fmt.Errorf("cannot read %s: %w", at, err)
			}
			if st.Mode&unix.S_IFMT != unix.S_IFDIR {
				return dirAttributes{}, false, nil // deleted, or not a directory
			}
			if i == len(parts)-1 {
				a, err := readAttributes(at)
				return a, err == nil, err
			}
			here, err := s.isOpaque(at)
			if err != nil {
				return dirAttributes{}, false, err
			}
			opaque = opaque || here
		}
		if opaque {
			return dirAttributes{}, false, nil
		}
	}
	return dirAttributes{}, false, nil
}

func (s *Store) isOpaque(dir string) (bool, error) {
	buf := make([]byte, 4)
	n, err := unix.Lgetxattr(dir, s.xattr+"opaque", buf)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ERANGE) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot read attributes of %s: %w", dir, err)
	}
	return n == 1 && buf[0] == 'y', nil
}

// dirAttributes is what overlayfs shows of a directory besides its entries.
type dirAttributes struct {
	mode     uint32
	uid, gid int
	mtime    unix.Timespec
	xattrs   map[string]string
}

// equal compares all but the time, which alone is no reason for a correction.
func (a dirAttributes) equal(b dirAttributes) bool {
	if a.mode != b.mode || a.uid != b.uid || a.gid != b.gid || len(a.xattrs) != len(b.xattrs) {
		return false
	}
	for name, value := range a.xattrs {
		if other, ok := b.xattrs[name]; !ok || other != value {
			return false
		}
	}
	return true
}

func readAttributes(dir string) (dirAttributes, error) {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return dirAttributes{}, fmt.Errorf("cannot read %s: %w", dir, err)
	}
	xattrs, err := readXattrs(dir)
	if err != nil {
		return dirAttributes{}, fmt.Errorf("cannot read attributes of %s: %w", dir, err)
	}
	return dirAttributes{mode: st.Mode & 0o7777, uid: int(st.Uid), gid: int(st.Gid), mtime: st.Mtim, xattrs: xattrs}, nil
}

// apply gives dir the attributes. dir must be a directory.
func (a dirAttributes) apply(dir string) error {
	if err := os.Lchown(dir, a.uid, a.gid); err != nil {
		return err
	}
	for name, value := range a.xattrs {
		if err := unix.Lsetxattr(dir, name, []byte(value), 0); err != nil {
			return fmt.Errorf("cannot set extended attribute %s: %w", name, err)
		}
	}
	if err := unix.Chmod(dir, a.mode); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, dir, []unix.Timespec{a.mtime, a.mtime}, unix.AT_SYMLINK_NOFOLLOW)
}

// readXattrs returns the extended attributes of path, which may be a link,
// without those of overlayfs.
func readXattrs(path string) (map[string]string, error) {
	return collectXattrs(path, unix.Llistxattr, unix.Lgetxattr)
}

func collectXattrs(path string, list func(string, []byte) (int, error), get func(string, string, []byte) (int, error)) (map[string]string, error) {
	size, err := list(path, nil)
	if errors.Is(err, unix.EOPNOTSUPP) || err == nil && size == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	buf := make([]byte, size)
	if size, err = list(path, buf); err != nil {
		return nil, err
	}
	all := make(map[string]string)
	for name := range strings.SplitSeq(strings.TrimRight(string(buf[:size]), "\x00"), "\x00") {
		// Where overlayfs hid all of them there is one, empty name.
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		n, err := get(path, name, nil)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, err
		}
		value := make([]byte, n)
		if n > 0 {
			if n, err = get(path, name, value); err != nil {
				return nil, err
			}
		}
		all[name] = string(value[:n])
	}
	return all, nil
}
