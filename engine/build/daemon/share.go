package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	cachemetadata "github.com/moby/buildkit/cache/metadata"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/stack-run/stack/engine/build/request"
	"github.com/stack-run/stack/engine/snapshot"
)

// What BuildKit's cache records say, under the names that its cache package has.
const (
	recordDiffID   = "cache.diffID"
	recordSnapshot = "cache.snapshot" // "" where it is the record's own ID
	recordBlob     = "cache.blob"
	recordBlobSize = "cache.blobsize"
	recordSize     = "snapshot.size" // of snapshot and blob
)

// Share has the engine's layers stand for snapshots of the build cache that are
// the same: those of images that were built. No daemon may run, and nothing that
// one has started: directories go that might be mounted.
func Share(ctx context.Context, dataRoot string, layers *snapshot.Store) error {
	dir := request.StateDir(dataRoot)
	// Whoever has this has all of the cache: a daemon of another run root, perhaps.
	db, err := bolt.Open(filepath.Join(dir, metaDB), 0o600, &bolt.Options{Timeout: time.Millisecond})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot open the build cache: %w", err)
	}
	defer db.Close()
	dirs, err := snapshotDirs(ctx, filepath.Join(dir, "snapshots"))
	if err != nil || len(dirs) == 0 {
		return err
	}
	records, err := cachemetadata.NewStore(filepath.Join(dir, "metadata_v2.db"))
	if err != nil {
		return fmt.Errorf("cannot open the build cache: %w", err)
	}
	defer records.Close()
	all, err := records.All()
	if err != nil {
		return fmt.Errorf("cannot read the build cache: %w", err)
	}
	var errs []error
	sizes, blobs := map[string]int64{}, map[string]digest.Digest{}
	for _, r := range all {
		if ctx.Err() != nil {
			break
		}
		if v := r.Get(recordBlob); v != nil {
			var d digest.Digest
			errs = append(errs, v.Unmarshal(&d))
			blobs[r.ID()] = d
		}
		size, shared, err := share(ctx, r, dirs, layers)
		if shared {
			sizes[r.ID()] = size
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, correct(dataRoot, sizes, blobs))...)
}

// correct completes what the daemon has noted.
func correct(dataRoot string, sizes map[string]int64, blobs map[string]digest.Digest) error {
	if len(sizes) == 0 && len(blobs) == 0 {
		return nil
	}
	usage, err := request.ReadUsage(dataRoot)
	if err != nil {
		return err
	}
	for i, r := range usage.Records {
		if size, ok := sizes[r.ID]; ok {
			usage.Records[i].Size = size
		}
	}
	usage.Blobs = blobs
	return request.WriteUsage(dataRoot, usage)
}

// share has a layer stand for the snapshot of one record, if it is the same. size
// is what the record's removal then frees.
func share(ctx context.Context, r *cachemetadata.StorageItem, dirs map[string]string, layers *snapshot.Store) (size int64, shared bool, err error) {
	var diffID digest.Digest
	name := r.ID()
	for key, to := range map[string]any{recordDiffID: &diffID, recordSnapshot: &name, recordBlobSize: &size} {
		if v := r.Get(key); v != nil {
			if err := v.Unmarshal(to); err != nil {
				return 0, false, fmt.Errorf("cannot read record %s of the build cache: %w", r.ID(), err)
			}
		}
	}
	dir := dirs[name]
	if fi, err := os.Lstat(dir); diffID.Validate() != nil || err != nil || !fi.IsDir() {
		return 0, false, nil // nothing that a layer is the same as, or done
	}
	err = layers.LendSame(ctx, diffID, dir)
	if errors.Is(err, snapshot.ErrNotUnpacked) || errors.Is(err, snapshot.ErrUnlike) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	v, err := cachemetadata.NewValue(size)
	if err == nil {
		err = r.Update(func(b *bolt.Bucket) error { return r.SetValue(b, recordSize, v) })
	}
	return size, true, err
}

// snapshotDirs returns where the snapshots' files are, by BuildKit's names.
func snapshotDirs(ctx context.Context, root string) (map[string]string, error) {
	path := filepath.Join(root, "metadata.db")
	if _, err := os.Stat(path); err != nil {
		return nil, nil //nolint:nilerr // there never was a snapshot
	}
	known, err := storage.NewMetaStore(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open the build cache: %w", err)
	}
	defer known.Close()
	dirs := map[string]string{}
	err = known.WithTransaction(ctx, false, func(ctx context.Context) error {
		ids, err := storage.IDMap(ctx)
		for id, key := range ids {
			// The metadata database names them NAMESPACE/NUMBER/NAME.
			if parts := strings.SplitN(key, "/", 3); len(parts) == 3 && parts[0] == namespace {
				dirs[parts[2]] = filepath.Join(root, "snapshots", id, "fs")
			}
		}
		return err
	})
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("cannot read the build cache: %w", err)
	}
	return dirs, nil
}
