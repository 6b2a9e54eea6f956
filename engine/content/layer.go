package content

import "github.com/opencontainers/go-digest"

// Layer names one layer of an image: the blob it comes in, and the digest of
// the tar archive in it, which is what the layer is.
type Layer struct {
	Digest    digest.Digest `json:"digest"` // of the blob
	DiffID    digest.Digest `json:"diffID"` // of the uncompressed tar
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"` // of the blob, bytes
}
