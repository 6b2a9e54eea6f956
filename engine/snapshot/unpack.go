package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/content"
	"github.com/stack-run/stack/engine/content/compression"
	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/internal/lock"
)

// Unpack unpacks those of an image's layers, lowest first, that are not unpacked
// yet, in parallel, so that Prepare and View can use them. Where nothing is to
// be done it costs the reading of one file.
func (s *Store) Unpack(ctx context.Context, layers []content.Layer, blobs *content.Store) error {
	diffIDs := make([]digest.Digest, len(layers))
	for i, l := range layers {
		if l.DiffID.Validate() != nil || l.DiffID.Algorithm() != digest.SHA256 {
			return fmt.Errorf("cannot unpack layer: diff ID %q is not a sha256 digest", l.DiffID)
		}
		diffIDs[i] = l.DiffID
	}
	_, err := s.readStack(diffIDs)
	// A layer may be removed between its unpacking and its use in a stack; then
	// it is unpacked again.
	for try := 0; errors.Is(err, ErrNotUnpacked) && try < 3; try++ {
		if err = s.unpackAll(ctx, layers, blobs); err == nil {
			err = s.makeStack(ctx, diffIDs)
		}
	}
	return err
}

func (s *Store) unpackAll(ctx context.Context, layers []content.Layer, blobs *content.Store) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(2, min(runtime.NumCPU(), 8)))
	seen := make(map[digest.Digest]bool)
	for _, l := range layers {
		if seen[l.DiffID] {
			continue
		}
		seen[l.DiffID] = true
		group.Go(func() error {
			return s.UnpackLayer(ctx, l.DiffID, func() (io.ReadCloser, error) { return blobs.Reader(l.Digest) })
		})
	}
	return group.Wait()
}

// UnpackLayer unpacks the layer diffID from the archive that open returns, which
// may be compressed and may still be arriving. If the layer is unpacked already,
// open is not called. An archive that does not have the diff ID is not kept.
func (s *Store) UnpackLayer(ctx context.Context, diffID digest.Digest, open func() (io.ReadCloser, error)) error {
	if err := diffID.Validate(); err != nil {
		return fmt.Errorf("cannot unpack layer %q: %w", diffID, err)
	}
	if s.unpacked(diffID) {
		return nil
	}
	held, err := lock.Exclusive(ctx, filepath.Join(s.layers, "locks", diffID.Encoded()), lock.Patiently())
	if err != nil {
		return err
	}
	defer held.Remove()
	if s.unpacked(diffID) {
		return nil
	}
	r, err := open()
	if err != nil {
		return fmt.Errorf("cannot unpack layer %s: %w", short(diffID.Encoded()), err)
	}
	defer r.Close()
	tmp := filepath.Join(s.layers, "tmp", diffID.Encoded())
	err = removeTree(tmp) // of a killed process
	if err == nil {
		err = s.unpackTo(ctx, tmp, diffID, r)
	}
	if err == nil {
		err = s.publish(tmp, s.layerDir(diffID))
	}
	if err != nil {
		removeTree(tmp)
		return fmt.Errorf("cannot unpack layer %s: %w", short(diffID.Encoded()), err)
	}
	return nil
}

func (s *Store) unpacked(diffID digest.Digest) bool {
	_, err := os.Lstat(s.layerDir(diffID))
	return err == nil
}

// unpackTo unpacks r to dir/fs and writes dir/layer.json.
func (s *Store) unpackTo(ctx context.Context, dir string, diffID digest.Digest, r io.Reader) error {
	fs := filepath.Join(dir, "fs")
	if err := os.MkdirAll(fs, 0o755); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(dir, 0o700), os.Chmod(fs, 0o755)); err != nil {
		return err
	}
	raw, _, err := compression.NewReader(r)
	if err != nil {
		return err
	}
	defer raw.Close()
	h := diffID.Algorithm().Digester()
	ahead := readAhead(ctx, raw)
	hashed := io.TeeReader(ahead, h.Hash())
	u, err := newUnpacker(fs, s.xattr, s.Limits)
	if err != nil {
		ahead.Close()
		return err
	}
	err = u.unpack(ctx, hashed)
	if err == nil {
		_, err = io.Copy(io.Discard, hashed) // what follows the end marker counts too
	}
	ahead.Close()
	err = errors.Join(err, u.close())
	if err != nil {
		return err
	}
	if got := h.Digest(); got != diffID {
		return fmt.Errorf("%w: its content has diff ID %s, not %s; pull or load the image again", content.ErrCorrupt, got, diffID)
	}
	info := u.info
	info.Version, info.DiffID = layerVersion, diffID
	return writeInfo(dir, info)
}

func writeInfo(dir string, info LayerInfo) error {
	data, err := json.Marshal(info)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, infoFile), data, 0o600)
}

// publish makes the tree tmp durable and gives it its name.
func (s *Store) publish(tmp, dir string) error {
	if err := syncTree(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	return durable.SyncDir(s.layers)
}

// syncTree syncs the file system that dir is on, which for thousands of files
// is far quicker than an fsync for each.
func syncTree(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("cannot sync file system: %w", err)
	}
	return nil
}

// makeStack writes the stack of layers that are unpacked, with removal locked
// out. It returns ErrNotUnpacked if one of them has gone.
func (s *Store) makeStack(ctx context.Context, diffIDs []digest.Digest) error {
	held, err := lock.Shared(ctx, s.lockPath(), lock.Patiently())
	if err != nil {
		return err
	}
	defer held.Unlock()
	st := stack{DiffIDs: diffIDs}
	for i, d := range diffIDs {
		info, err := s.readInfo(d.Encoded())
		if err != nil {
			return err
		}
		fix, err := s.makeFix(ctx, chainID(diffIDs[:i+1]), info, st.Dirs)
		if err != nil {
			return err
		}
		st.Dirs = append(st.Dirs, d.Encoded())
		if fix != "" {
			st.Dirs = append(st.Dirs, fix)
		}
	}
	if len(st.DiffIDs) == 0 {
		return nil
	}
	return s.writeStack(st)
}
