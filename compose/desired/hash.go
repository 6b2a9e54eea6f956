package desired

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/netns/endpoint"
	"github.com/stack-run/stack/volumes/volume"
)

// HashVersion is the version of the rules by which Hash is made. Hashes of
// different versions say nothing about each other; whoever sees another version
// compares the specs themselves.
const HashVersion = "v1:"

// Hash is the fingerprint of what a container is made from: HashVersion and 64
// hex digits. It is the same for all replicas of a service, and it does not
// change with the image's ID, the number of replicas, the place of the Compose
// file, the order of what has no order, or a release of stack: a field that a
// later release adds to container.Spec must be omitempty.
func Hash(s *container.Spec) string {
	data, err := json.Marshal(Comparable(s))
	if err != nil {
		// container.Spec has no type that JSON cannot hold.
		panic("internal error: cannot encode a container spec: " + err.Error())
	}
	sum := sha256.Sum256(data)
	return HashVersion + hex.EncodeToString(sum[:])
}

// Comparable is a copy of s without what may differ between a container and its
// wanted spec with nothing to recreate for: ImageID (compared on its own), what
// numbers a replica, labels of ours, contents (their digests stay), and order
// where it means nothing.
func Comparable(s *container.Spec) container.Spec {
	c := *s
	if generatedName(s) {
		c.Name = ""
	}
	c.ImageID = ""
	c.Labels = maps.Clone(s.Labels)
	maps.DeleteFunc(c.Labels, func(k, _ string) bool { return strings.HasPrefix(k, LabelPrefix) })
	if len(c.Labels) == 0 {
		c.Labels = nil
	}
	c.Network.ID, c.Network.Key, c.Network.Owner = "", "", ""
	c.Network.Reserved = nil // what others ask for is no reason to recreate
	c.Network.Names = slices.DeleteFunc(slices.Clone(s.Network.Names), func(n string) bool { return n == s.Name })
	c.Network.Ports = slices.Clone(s.Network.Ports)
	slices.SortStableFunc(c.Network.Ports, comparePorts)
	c.Mounts = make([]volume.Mount, len(s.Mounts))
	for i, m := range s.Mounts {
		m.Content, m.ContentFrom, m.Origin, m.ImageID = nil, "", "", ""
		c.Mounts[i] = m
	}
	slices.SortStableFunc(c.Mounts, func(a, b volume.Mount) int { return strings.Compare(a.Target, b.Target) })
	c.Process.Env = slices.Clone(s.Process.Env)
	slices.Sort(c.Process.Env)
	return c
}

func comparePorts(a, b endpoint.Port) int {
	return cmp.Or(
		cmp.Compare(a.ContainerPort, b.ContainerPort),
		strings.Compare(a.Protocol, b.Protocol),
		a.HostIP.Compare(b.HostIP),
		cmp.Compare(a.HostPort, b.HostPort),
	)
}

// generatedName says that the container's name is made from project, service
// and number, and is not a container_name.
func generatedName(s *container.Spec) bool {
	for _, separator := range []string{"-", "_"} {
		parts := []string{s.Labels[LabelProject], s.Labels[LabelService], s.Labels[LabelContainerNumber]}
		if s.Name == strings.Join(parts, separator) {
			return true
		}
	}
	return false
}

// ServiceHashes are the lines of "config --hash": service and hash, by name,
// for the services named or all. A service scaled to 0 has no hash.
func (d *Project) ServiceHashes(names ...string) ([]string, error) {
	if len(names) == 0 {
		names = slices.Collect(maps.Keys(d.Services))
	}
	names = slices.Sorted(slices.Values(names))
	var lines []string
	for _, name := range names {
		s, ok := d.Services[name]
		if !ok {
			return nil, fmt.Errorf("no such service: %q%s", name, DidYouMean(name, slices.Sorted(maps.Keys(d.Services))))
		}
		if len(s.Replicas) > 0 {
			lines = append(lines, name+" "+s.Replicas[0].Hash)
		}
	}
	return lines, nil
}
