package daemon

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/platforms"
	cachemetadata "github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/util/winlayers"
	"github.com/moby/buildkit/worker/base"
	wlabel "github.com/moby/buildkit/worker/label"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stack-run/stack/engine/build"
	"github.com/stack-run/stack/engine/build/blobs"
	"github.com/stack-run/stack/engine/build/export"
)

const (
	// namespace is BuildKit's in containerd's stores.
	namespace = "buildkit"
	// snapshotter is a name that BuildKit knows: with it, the content of a layer
	// is read from the directory that overlayfs wrote, and not found by comparing
	// two trees.
	snapshotter = "overlayfs"
)

// worker is BuildKit's worker with an exporter of its own.
type worker struct {
	*base.Worker
	images *blobs.Images
	writer *containerimage.ImageWriter
}

// Exporter returns what takes a build's result.
func (w *worker) Exporter(name string, sm *session.Manager) (exporter.Exporter, error) {
	if name != client.ExporterImage && name != "moby" {
		return w.Worker.Exporter(name, sm)
	}
	return &export.Exporter{
		Images: w.images, Sessions: sm, Writer: w.writer, RegistryHosts: w.RegistryHosts, Leases: w.LeaseManager(),
	}, nil
}

// newWorker opens the build cache below dir.
func newWorker(ctx context.Context, dir string, o Options) (*worker, error) {
	s, err := openStores(ctx, dir, o.Images.Content(), o.Layers.Dir())
	if err == nil {
		err = s.layers.mountView()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the build cache: %w", err)
	}
	records, err := cachemetadata.NewStore(filepath.Join(dir, "metadata_v2.db"))
	if err != nil {
		return nil, fmt.Errorf("cannot open the build cache: %w", err)
	}
	id, err := base.ID(dir)
	if err != nil {
		return nil, err
	}
	images := &blobs.Images{Engine: o.Images, Blobs: s.blobs, Content: s.content, Ready: o.Ready}
	opt := base.WorkerOpt{
		ID: id, Root: dir,
		Labels: map[string]string{
			wlabel.Executor: "stack", wlabel.Snapshotter: snapshotter, wlabel.Network: "bridge", build.HostGatewayLabel: build.HostGateway,
		},
		Platforms:      []ocispec.Platform{platforms.Normalize(platforms.DefaultSpec())},
		GCPolicy:       gcPolicy(dir),
		MetadataStore:  records,
		Executor:       o.Executor,
		Snapshotter:    s.snapshots,
		ContentStore:   s.content,
		Applier:        winlayers.NewFileSystemApplierWithWindows(s.content, &applier{apply.NewFileSystemApplier(s.content), o.Images.Content(), o.Layers}),
		Differ:         winlayers.NewWalkingDiffWithWindows(s.content, walking.NewWalkingDiff(s.content)),
		ImageStore:     images,
		RegistryHosts:  registryHosts,
		LeaseManager:   leaseutil.WithNamespace(metadata.NewLeaseManager(s.db), namespace),
		GarbageCollect: s.db.GarbageCollect,
		MountPoolRoot:  filepath.Join(dir, "cachemounts"),
	}
	w, err := base.NewWorker(ctx, opt)
	if err == nil {
		w.CacheMgr = mapping{w.CacheMgr, s.snapshots}
		err = s.forgetUnrecorded(ctx, opt.LeaseManager, func(id string) bool { _, ok := records.Get(id); return ok })
	}
	if err == nil {
		err = s.tidy(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the build cache: %w", err)
	}
	if w.GitSource == nil {
		w.SourceManager.Register(noGit{})
	}
	writer, err := containerimage.NewImageWriter(containerimage.WriterOpt{
		Snapshotter: opt.Snapshotter, ContentStore: opt.ContentStore, Applier: opt.Applier, Differ: opt.Differ,
	})
	return &worker{Worker: w, images: images, writer: writer}, err
}
