package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stack-run/stack/engine/content"
	"github.com/stack-run/stack/engine/snapshot"
)

// borrower is a snapshotter some of whose directories are links to the engine's
// layers. Nobody but it meets the links: BuildKit walks the directories it is told
// of, and a walk does not follow a link.
type borrower struct {
	snapshots.Snapshotter
	// layers is the directory of the engine's layers. view is where it is mounted
	// a second time, read-only: BuildKit makes hard links of files it needs in two
	// snapshots, and one to a file of a layer would show in every container.
	layers, view string
}

func (b *borrower) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	mounts, err := b.Snapshotter.Prepare(ctx, key, parent, opts...)
	return b.resolve(mounts), err
}

func (b *borrower) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	mounts, err := b.Snapshotter.View(ctx, key, parent, opts...)
	return b.resolve(mounts), err
}

func (b *borrower) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	mounts, err := b.Snapshotter.Mounts(ctx, key)
	return b.resolve(mounts), err
}

// Cleanup makes it a snapshots.Cleaner.
func (b *borrower) Cleanup(ctx context.Context) error {
	return b.Snapshotter.(snapshots.Cleaner).Cleanup(ctx)
}

func (b *borrower) resolve(mounts []mount.Mount) []mount.Mount {
	for i, m := range mounts {
		if m.Type == "bind" {
			mounts[i].Source = b.tree(m.Source)
			continue
		}
		mounts[i].Options = slices.Clone(m.Options)
		for j, o := range m.Options {
			if list, ok := strings.CutPrefix(o, "lowerdir="); ok {
				dirs := strings.Split(list, ":")
				for k, dir := range dirs {
					dirs[k] = b.tree(dir)
				}
				mounts[i].Options[j] = "lowerdir=" + strings.Join(dirs, ":")
			}
		}
	}
	return mounts
}

// tree is the directory that dir stands for.
func (b *borrower) tree(dir string) string {
	target, err := os.Readlink(dir)
	if err != nil {
		return dir // is one
	}
	rel, err := filepath.Rel(b.layers, filepath.Join(filepath.Dir(dir), target))
	if err != nil {
		return dir
	}
	return filepath.Join(b.view, rel)
}

// mountView mounts the layers in view, in the daemon's own mount namespace.
func (b *borrower) mountView() error {
	if err := os.MkdirAll(b.view, 0o700); err != nil {
		return err
	}
	m := mount.Mount{Type: "bind", Source: b.layers, Options: []string{"bind", "ro"}}
	if err := m.Mount(b.view); err != nil {
		return fmt.Errorf("cannot show the builder the engine's layers: %w", err)
	}
	return nil
}

// applier unpacks layers into snapshots. What the engine has need not be unpacked
// a second time.
type applier struct {
	diff.Applier
	engine *content.Store
	layers *snapshot.Store
}

// Apply unpacks the layer desc into the snapshot that mounts shows.
func (a *applier) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	err := a.lend(ctx, desc, mounts)
	if errors.Is(err, snapshot.ErrNotUnpacked) || errors.Is(err, snapshot.ErrUnlike) {
		return a.Applier.Apply(ctx, desc, mounts, opts...)
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: diffID(desc)}, err
}

// lend has a layer of the engine's stand for the snapshot. One of an image that
// the engine has is unpacked for the engine, whose containers are likely to need
// it.
func (a *applier) lend(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount) error {
	id, upper, lower := diffID(desc), "", []string(nil)
	if len(mounts) == 1 {
		upper, lower = directories(mounts[0])
	}
	if id.Validate() != nil || upper == "" {
		return snapshot.ErrUnlike
	}
	if _, err := a.engine.Stat(desc.Digest); err == nil {
		err := a.layers.UnpackLayer(ctx, id, func() (io.ReadCloser, error) { return a.engine.Reader(desc.Digest) })
		if err != nil && !errors.Is(err, content.ErrNotFound) {
			return err
		}
	}
	return a.layers.Lend(ctx, id, upper, lower...)
}

// diffID is what BuildKit says about a layer's uncompressed content.
func diffID(desc ocispec.Descriptor) digest.Digest {
	return digest.Digest(desc.Annotations[labels.LabelUncompressed])
}

// directories are the directory that a mount writes to, "" if it cannot be told,
// and those below, uppermost first.
func directories(m mount.Mount) (upper string, lower []string) {
	if m.Type == "bind" && !slices.Contains(m.Options, "ro") {
		return m.Source, nil
	}
	if m.Type != "overlay" {
		return "", nil
	}
	for _, o := range m.Options {
		if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
			upper = dir
		} else if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
			lower = strings.Split(dirs, ":")
		}
	}
	return upper, lower
}
