package image

import ()

// Pruned is what is gone already, or in a dry run would be.
type Pruned struct {
	Containers []string // IDs
	Cache      bool     // all of the build cache
}
