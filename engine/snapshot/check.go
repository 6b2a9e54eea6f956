package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/content"
	"github.com/stack-run/stack/engine/content/flock"
)

// Problem is a layer that Check found to differ from its archive.
type Problem struct {
	Layer content.Layer
	Err   error
}

// Check unpacks the archives of those layers that are unpacked a second time, to
// a temporary place, and compares the two trees byte by byte. A layer that
// differs is removed with RemoveLayer, after the containers that use it, and
// unpacked again by its next use. The error is for Check itself having failed.
func (s *Store) Check(ctx context.Context, layers []content.Layer, blobs *content.Store) ([]Problem, error) {
	var problems []Problem
	seen := make(map[string]bool)
	for _, l := range layers {
		if l.DiffID.Validate() != nil || seen[l.DiffID.Encoded()] || !s.unpacked(l.DiffID) {
			continue
		}
		seen[l.DiffID.Encoded()] = true
		differs, err := s.checkLayer(ctx, l, blobs)
		if err != nil {
			return nil, fmt.Errorf("cannot check layer %s: %w", short(l.DiffID.Encoded()), err)
		}
		if differs != nil {
			problems = append(problems, Problem{l, differs})
		}
	}
	return problems, nil
}

// checkLayer returns what is wrong with a layer, and why it could not be checked.
func (s *Store) checkLayer(ctx context.Context, l content.Layer, blobs *content.Store) (differs, err error) {
	name := "check-" + l.DiffID.Encoded()
	lock, err := flock.Exclusive(ctx, filepath.Join(s.layers, "locks", name))
	if err != nil {
		return nil, err
	}
	defer lock.Remove()
	tmp := filepath.Join(s.layers, "tmp", name)
	defer removeTree(tmp)
	if err := removeTree(tmp); err != nil {
		return nil, err
	}
	blob, err := blobs.Reader(l.Digest)
	if errors.Is(err, content.ErrNotFound) {
		return nil, nil // the image is gone, and nothing is left to compare with
	}
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	err = s.unpackTo(ctx, tmp, l.DiffID, blob)
	if errors.Is(err, content.ErrCorrupt) {
		return err, nil
	}
	if err != nil {
		return nil, err
	}
	if _, err := s.Layer(l.DiffID); err != nil {
		return err, nil
	}
	err = compareTrees(ctx, filepath.Join(tmp, "fs"), filepath.Join(s.layerDir(l.DiffID), "fs"), ".", s.xattr)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return err, nil
}

// compareTrees returns the first difference between want and have below rel.
func compareTrees(ctx context.Context, want, have, rel, overlayXattr string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	differs := func(what string) error { return fmt.Errorf("%s of /%s is not what the image has", what, rel) }
	w, h := filepath.Join(want, rel), filepath.Join(have, rel)
	var a, b unix.Stat_t
	if err := unix.Lstat(w, &a); err != nil {
		return err
	}
	if err := unix.Lstat(h, &b); err != nil {
		return fmt.Errorf("/%s: %w", rel, err)
	}
	isDir := a.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case a.Mode != b.Mode:
		return differs("the type or mode")
	case a.Uid != b.Uid || a.Gid != b.Gid:
		return differs("the owner")
	case a.Rdev != b.Rdev || !isDir && (a.Size != b.Size || a.Nlink != b.Nlink):
		return differs("the size")
	}
	// Directories without an entry in the archive have the time of unpacking.
	if !isDir && !isWhiteout(a) && a.Mtim != b.Mtim {
		return differs("the time")
	}
	x, err := readAllXattrs(w, overlayXattr)
	if err != nil {
		return err
	}
	y, err := readAllXattrs(h, overlayXattr)
	if err != nil {
		return err
	}
	if !(dirAttributes{xattrs: x}).equal(dirAttributes{xattrs: y}) {
		return differs("an extended attribute")
	}
	switch a.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		same, err := sameContent(w, h)
		if err == nil && !same {
			err = differs("the content")
		}
		return err
	case unix.S_IFLNK:
		one, err := os.Readlink(w)
		if err != nil {
			return err
		}
		if two, err := os.Readlink(h); err != nil || one != two {
			return differs("the target")
		}
	case unix.S_IFDIR:
		return compareDirs(ctx, want, have, rel, overlayXattr)
	}
	return nil
}

func compareDirs(ctx context.Context, want, have, rel, overlayXattr string) error {
	names := func(root string) ([]string, error) {
		entries, err := os.ReadDir(filepath.Join(root, rel))
		var all []string
		for _, e := range entries {
			all = append(all, e.Name())
		}
		return all, err
	}
	a, err := names(want)
	if err != nil {
		return err
	}
	b, err := names(have)
	if err != nil {
		return err
	}
	if !slices.Equal(a, b) {
		return fmt.Errorf("the entries of /%s are not those of the image", rel)
	}
	for _, name := range a {
		if err := compareTrees(ctx, want, have, path.Join(rel, name), overlayXattr); err != nil {
			return err
		}
	}
	return nil
}

// readAllXattrs is readXattrs with overlayfs' mark of opaque directories.
func readAllXattrs(path, overlayXattr string) (map[string]string, error) {
	all, err := readXattrs(path)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 4)
	if n, err := unix.Lgetxattr(path, overlayXattr+"opaque", buf); err == nil {
		if all == nil {
			all = make(map[string]string)
		}
		all[overlayXattr+"opaque"] = string(buf[:n])
	}
	return all, nil
}

func sameContent(a, b string) (bool, error) {
	f, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer f.Close()
	g, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer g.Close()
	p, q := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(f, p)
		m, err2 := io.ReadFull(g, q)
		if !bytes.Equal(p[:n], q[:m]) {
			return false, nil
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return err2 == err, nil
		}
		if err != nil || err2 != nil {
			return false, errors.Join(err, err2)
		}
	}
}
