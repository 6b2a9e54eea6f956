package runner

import (
	"slices"

	"github.com/containerd/containerd/v2/core/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// overlay is a container's overlay mount in containerd's terms, which knows how
// to mount long lists of layers.
func overlay(m specs.Mount) []mount.Mount {
	options := slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "ro" || o == "rbind" || o == "bind" })
	return []mount.Mount{{Type: m.Type, Source: m.Source, Options: options}}
}
