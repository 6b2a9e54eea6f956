package image

import (
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
)

// Inspection is what "docker image inspect" prints for an image (moby,
// api/types/image, InspectResponse).
type Inspection struct {
	ID           string `json:"Id"`
	RepoTags     []string
	RepoDigests  []string
	Parent       string
	Comment      string
	Created      string
	Author       string
	Config       ContainerConfig
	Architecture string
	Variant      string `json:",omitempty"`
	Os           string
	OsVersion    string `json:",omitempty"`
	Size         int64
	GraphDriver  struct {
		Data map[string]string
		Name string
	}
	RootFS struct {
		Type   string
		Layers []digest.Digest
	}
	Metadata struct {
		LastTagTime time.Time
	}
	Descriptor struct {
		MediaType string        `json:"mediaType"`
		Digest    digest.Digest `json:"digest"`
		Size      int64         `json:"size"`
	}
}

// DockerInspect describes an image, which takes size bytes of disk, in Docker's
// shape.
func DockerInspect(img Image, size int64) Inspection {
	var v Inspection
	v.ID = img.ID.String()
	v.RepoTags = append([]string{}, img.Names...)
	v.RepoDigests = append([]string{}, img.RepoDigests...)
	if n := len(img.Config.History); n > 0 {
		v.Comment = img.Config.History[n-1].Comment
	}
	v.Created = img.Created.Format(time.RFC3339Nano)
	v.Author = img.Config.Author
	v.Config = img.Config.Config
	v.Architecture, v.Variant = img.Platform.Architecture, img.Platform.Variant
	v.Os, v.OsVersion = img.Platform.OS, img.Platform.OSVersion
	v.Size = size
	v.GraphDriver.Name = "overlay2"
	v.RootFS.Type = "layers"
	v.RootFS.Layers = img.DiffIDs()
	v.Metadata.LastTagTime = img.Tagged
	v.Descriptor.MediaType, v.Descriptor.Digest, v.Descriptor.Size = img.Manifest.MediaType, img.Manifest.Digest, img.Manifest.Size
	return v
}

// HistoryItem is one line of "docker image history" (moby, api/types/image,
// HistoryResponseItem).
type HistoryItem struct {
	ID        string `json:"Id"` // of the image for the newest step, then "<missing>"
	Created   int64  // seconds since 1970
	CreatedBy string
	Tags      []string
	Size      int64 // of the layer, unpacked, bytes
	Comment   string
}

// DockerHistory returns the steps an image was made in, newest first. sizes are
// those of its layers.
func DockerHistory(img Image, sizes []int64) []HistoryItem {
	var items []HistoryItem
	layer := 0
	for _, h := range img.Config.History {
		item := HistoryItem{ID: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment}
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
		items = append(items, HistoryItem{ID: "<missing>", Size: sizes[layer], Comment: "layer " + strconv.Itoa(layer+1)})
	}
	slices.Reverse(items)
	if len(items) > 0 {
		items[0].ID = img.ID.String()
		items[0].Tags = img.Names
	}
	return items
}
