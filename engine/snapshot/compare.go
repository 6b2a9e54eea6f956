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
)

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
