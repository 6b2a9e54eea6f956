package image

import (
	"slices"
	"strconv"
	"time"

	docker "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/storage"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Inspection is what "docker image inspect" prints. Its Config is ours: Docker's
// has no StopTimeout, nor what else an image may say, such as old Docker's Hostname.
type Inspection struct {
	docker.InspectResponse
	Config ContainerConfig
}

// DockerInspect describes an image, which takes size bytes of disk, in Docker's
// shape.
func DockerInspect(img Image, size int64) Inspection {
	v := Inspection{Config: img.Config.Config, InspectResponse: docker.InspectResponse{
		ID:           img.ID.String(),
		RepoTags:     append([]string{}, img.Names...),
		RepoDigests:  append([]string{}, img.RepoDigests...),
		Created:      img.Created.Format(time.RFC3339Nano),
		Author:       img.Config.Author,
		Architecture: img.Platform.Architecture,
		Variant:      img.Platform.Variant,
		Os:           img.Platform.OS,
		OsVersion:    img.Platform.OSVersion,
		Size:         size,
		GraphDriver:  &storage.DriverData{Name: "overlay2"},
		RootFS:       docker.RootFS{Type: "layers"},
		Metadata:     docker.Metadata{LastTagTime: img.Tagged},
		Descriptor:   &ocispec.Descriptor{MediaType: img.Manifest.MediaType, Digest: img.Manifest.Digest, Size: img.Manifest.Size},
	}}
	if n := len(img.Config.History); n > 0 {
		v.Comment = img.Config.History[n-1].Comment
	}
	for _, id := range img.DiffIDs() {
		v.RootFS.Layers = append(v.RootFS.Layers, id.String())
	}
	return v
}

// DockerHistory returns the steps an image was made in, newest first. sizes are
// those of its layers.
func DockerHistory(img Image, sizes []int64) []docker.HistoryResponseItem {
	var items []docker.HistoryResponseItem
	layer := 0
	for _, h := range img.Config.History {
		item := docker.HistoryResponseItem{ID: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment}
		if h.Created != nil {
			item.Created = h.Created.Unix()
		}
		if !h.EmptyLayer && layer < len(img.Layers) {
			item.Size = sizes[layer]
			layer++
		}
		items = append(items, item)
	}
	// Layers without a history are shown all the same.
	for ; layer < len(img.Layers); layer++ {
		items = append(items, docker.HistoryResponseItem{ID: "<missing>", Size: sizes[layer], Comment: "layer " + strconv.Itoa(layer+1)})
	}
	slices.Reverse(items)
	if len(items) > 0 {
		items[0].ID = img.ID.String()
		items[0].Tags = img.Names
	}
	return items
}
