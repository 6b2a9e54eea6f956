package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/identity"
	bksnapshot "github.com/moby/buildkit/snapshot"
	"github.com/moby/buildkit/snapshot/containerd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/stack-run/stack/engine/build/blobs"
	ours "github.com/stack-run/stack/engine/content"
)

// stores are containerd's: files, and a database that knows what they are for.
type stores struct {
	layers    *borrower    // directories
	blobs     *blobs.Store // files
	file      *bolt.DB
	db        *metadata.DB           // in file
	snapshots bksnapshot.Snapshotter // layers that the database knows
	content   *containerd.Store      // blobs that the database knows
}

// metaDB is the name of the database's file.
const metaDB = "containerdmeta.db"

// openStores opens the stores below dir, which share blobs with the engine and
// directories with layers, the directory of its layers. What a killed daemon had begun is
// removed: it left directories that the database has never heard of, and whose
// names the database will give away again, and blobs that were not written to
// their end.
func openStores(ctx context.Context, dir string, engine *ours.Store, layers string) (*stores, error) {
	// Whoever has the database has all of it.
	file, err := bolt.Open(filepath.Join(dir, metaDB), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, err
	}
	own, err := overlay.NewSnapshotter(filepath.Join(dir, "snapshots"))
	if err != nil {
		return nil, err
	}
	s := &stores{file: file, layers: &borrower{Snapshotter: own, layers: layers, view: filepath.Join(dir, "layers")}}
	err = s.layers.Cleanup(ctx)
	if errdefs.IsNotFound(err) { // there never was a snapshot
		err = emptyDir(filepath.Join(dir, "snapshots", "snapshots"))
	}
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(filepath.Join(dir, "content", "ingest")); err != nil {
		return nil, err
	}
	if s.blobs, err = blobs.Open(filepath.Join(dir, "content"), engine); err != nil {
		return nil, err
	}
	s.db = metadata.NewDB(s.file, s.blobs, map[string]snapshots.Snapshotter{snapshotter: s.layers})
	if err := s.db.Init(ctx); err != nil {
		return nil, err
	}
	s.snapshots = containerd.NewSnapshotter(snapshotter, s.db.Snapshotter(snapshotter), namespace, nil)
	s.content = containerd.NewContentStore(remembering{s.db.ContentStore(), s.blobs}, namespace)
	return s, nil
}

// remembering reads blobs of the engine's, too, that the database has let go of: what
// BuildKit measures, and may prune, depends on the manifests of all images.
type remembering struct {
	content.Store
	blobs *blobs.Store
}

func (r remembering) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	at, err := r.Store.ReaderAt(ctx, desc)
	if errdefs.IsNotFound(err) {
		if at, engineErr := r.blobs.ReaderAtEngine(desc.Digest); engineErr == nil {
			return at, nil
		}
	}
	return at, err
}

func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// tidy deletes the files that the database does not know any more. Collection
// does so too, but only in the process that took them out of the database: where
// that was killed in between, nobody would ever look again.
func (s *stores) tidy(ctx context.Context) error {
	if known, err := s.allKnown(ctx); err != nil || known {
		return err
	}
	// Collection looks at the files where something was taken out.
	name := identity.NewID()
	ctx = namespaces.WithNamespace(ctx, namespace)
	layers, blobs := s.db.Snapshotter(snapshotter), s.db.ContentStore()
	if _, err := layers.Prepare(ctx, name, ""); err != nil {
		return err
	}
	if err := layers.Remove(ctx, name); err != nil {
		return err
	}
	d := ocispec.Descriptor{Digest: digest.FromString(name), Size: int64(len(name))}
	if err := content.WriteBlob(ctx, blobs, name, strings.NewReader(name), d); err != nil {
		return err
	}
	if err := blobs.Delete(ctx, d.Digest); err != nil {
		return err
	}
	_, err := s.db.GarbageCollect(ctx)
	return err
}

// forgetUnrecorded deletes the leases that keep snapshots for records of BuildKit
// that there are not. BuildKit makes the lease of a record, which has its name,
// then the snapshot, and writes the record last: where it was killed in between,
// nothing would ever ask for the snapshot, or let go of it. To be called before
// anything is built.
func (s *stores) forgetUnrecorded(ctx context.Context, manager leases.Manager, recorded func(id string) bool) error {
	all, err := manager.List(ctx)
	if err != nil {
		return err
	}
	forgot := false
	for _, l := range all {
		if recorded(l.ID) || recorded(strings.TrimSuffix(l.ID, "-view")) {
			continue
		}
		resources, err := manager.ListResources(ctx, l)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(resources, func(r leases.Resource) bool { return strings.HasPrefix(r.Type, "snapshots/") }) {
			continue
		}
		if err := manager.Delete(ctx, l); err != nil {
			return err
		}
		forgot = true
	}
	if !forgot {
		return nil
	}
	_, err = s.db.GarbageCollect(ctx)
	return err
}

// allKnown tells whether the database knows all the files.
func (s *stores) allKnown(ctx context.Context) (bool, error) {
	var names []string
	if err := s.db.View(func(tx *bolt.Tx) (err error) {
		names, err = metadata.NewNamespaceStore(tx).List(ctx)
		return err
	}); err != nil {
		return false, err
	}
	blobs, layers := map[digest.Digest]bool{}, 0
	for _, name := range names {
		ctx := namespaces.WithNamespace(ctx, name)
		if err := s.db.ContentStore().Walk(ctx, func(b content.Info) error { blobs[b.Digest] = true; return nil }); err != nil {
			return false, err
		}
		if err := s.db.Snapshotter(snapshotter).Walk(ctx, func(context.Context, snapshots.Info) error { layers++; return nil }); err != nil {
			return false, err
		}
	}
	known := true
	err := s.blobs.Walk(ctx, func(b content.Info) error { known = known && blobs[b.Digest]; return nil })
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // the first blob makes the directory
		return false, err
	}
	err = s.layers.Walk(ctx, func(context.Context, snapshots.Info) error { layers--; return nil })
	if err != nil && !errdefs.IsNotFound(err) { // there never was a snapshot
		return false, err
	}
	return known && layers == 0, nil
}
