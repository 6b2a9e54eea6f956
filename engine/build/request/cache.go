package request

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// Cache asks about the build cache, or, for prune, what to remove of it.
type Cache struct {
	DataRoot string `json:"dataRoot"`
	RunRoot  string `json:"runRoot"`
	// Filters are in BuildKit's words, such as "type==regular". A record must
	// match one of them.
	Filters []string `json:"filters,omitempty"`

	// All removes what is internal or shared with images as well.
	All bool `json:"all,omitempty"`
	// Keep spares what was used within that time.
	Keep time.Duration `json:"keep,omitempty"`
	// Sizes are in bytes, 0 is no limit: what is always kept, what is kept at
	// most, and what must be free on the disk.
	Reserved, MaxUsed, MinFree int64
	// DryRun only tells what would be removed.
	DryRun bool `json:"dryRun,omitempty"`
}

// Record is one entry of the build cache.
type Record struct {
	ID          string     `json:"ID"`
	Parents     []string   `json:"Parents,omitempty"`
	Type        string     `json:"Type"`
	Description string     `json:"Description"`
	InUse       bool       `json:"InUse"`
	Shared      bool       `json:"Shared"`
	Mutable     bool       `json:"Mutable"`
	Size        int64      `json:"Size"` // bytes
	CreatedAt   time.Time  `json:"CreatedAt"`
	LastUsedAt  *time.Time `json:"LastUsedAt,omitempty"`
	UsageCount  int        `json:"UsageCount"`
}

// Records answers a Cache.
type Records struct {
	Records []Record `json:"records"`
	// Empties says that, for prune, nothing is left in the cache.
	Empties bool `json:"empties,omitempty"`
	// Blobs are the compressed layers that records have, by their IDs.
	Blobs map[string]digest.Digest `json:"blobs,omitempty"`
}

// MarkShared says which records are shared with images, whose blobs has tells of.
// BuildKit's own word on records with a blob depends on what it had forgotten, or not
// found out yet, when it was asked.
func (r Records) MarkShared(has func(digest.Digest) bool) {
	for i, x := range r.Records {
		if d := r.Blobs[x.ID]; d != "" {
			r.Records[i].Shared = has(d)
		}
	}
}

// Size adds up what the records take by themselves. What they share with images
// is not theirs to free.
func (r Records) Size() (bytes int64) {
	for _, x := range r.Records {
		if !x.Shared {
			bytes += x.Size
		}
	}
	return bytes
}
