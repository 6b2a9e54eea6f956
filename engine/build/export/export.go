// Package export is BuildKit's image exporter with the engine's store as its
// target.
package export

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/progress"

	"github.com/stack-run/stack/engine/build/blobs"
)

// Exporter makes images of builds. It is an exporter.Exporter.
type Exporter struct {
	Images        *blobs.Images
	Sessions      *session.Manager
	Writer        *containerimage.ImageWriter
	RegistryHosts docker.RegistryHosts
	Leases        leases.Manager
}

// Resolve reads the options of one export.
func (e *Exporter) Resolve(ctx context.Context, id int, opt map[string]string) (exporter.ExporterInstance, error) {
	rec := &recorder{}
	inner, err := containerimage.New(containerimage.Opt{
		Images: rec, SessionManager: e.Sessions, ImageWriter: e.Writer, RegistryHosts: e.RegistryHosts, LeaseManager: e.Leases,
	})
	if err != nil {
		return nil, err
	}
	// An image without a name is one too, as "image ls" shows it.
	attrs := map[string]string{
		string(exptypes.OptKeyDanglingPrefix):    blobs.NoName,
		string(exptypes.OptKeyDanglingEmptyOnly): "true",
	}
	for k, v := range opt {
		if k == string(exptypes.OptKeyUnpack) {
			continue // the engine unpacks, or need not
		}
		attrs[k] = v
	}
	i, err := inner.Resolve(ctx, id, attrs)
	if err != nil {
		return nil, err
	}
	return &instance{ExporterInstance: i, images: e.Images, names: rec}, nil
}

// instance is one export.
type instance struct {
	exporter.ExporterInstance
	images *blobs.Images
	names  *recorder
}

// Export makes the image and adds it to the engine. The names go over to it last,
// once all of it is there.
func (i *instance) Export(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (_ map[string]string, _ exporter.FinalizeFunc, ref exporter.DescriptorReference, err error) {
	resp, finalize, ref, err := i.ExporterInstance.Export(ctx, src, info)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := i.add(ctx); err != nil {
		if ref != nil {
			err = errors.Join(err, ref.Release())
		}
		return nil, nil, nil, err
	}
	return resp, finalize, ref, nil
}

func (i *instance) add(ctx context.Context) (err error) {
	if len(i.names.images) == 0 {
		return nil
	}
	done := progress.OneOff(ctx, "adding to the image store")
	defer func() { err = done(err) }()
	return i.images.Add(ctx, i.names.images...)
}

// recorder is an images.Store that remembers the names which the exporter gives,
// before all of the image is there.
type recorder struct {
	images.Store
	images []images.Image
}

func (r *recorder) Create(_ context.Context, img images.Image) (images.Image, error) {
	r.images = append(r.images, img)
	return img, nil
}

func (r *recorder) Update(_ context.Context, img images.Image, _ ...string) (images.Image, error) {
	return img, fmt.Errorf("image %s: %w", img.Name, errdefs.ErrNotFound)
}
