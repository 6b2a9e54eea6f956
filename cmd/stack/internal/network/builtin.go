package network

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/stack-run/stack/cmd/stack/internal/runspec"
	"github.com/stack-run/stack/netns"
)

// Docker's three networks are always there. Of ours host and none are no more
// than names, and bridge comes with the first container that is on it.

// isBuiltin tells whether a network is one of them.
func isBuiltin(name string) bool {
	return name == runspec.DefaultNetwork || name == "host" || name == "none"
}

// withBuiltin adds those that are not there.
func withBuiltin(all []netns.Network) []netns.Network {
	for _, b := range []struct{ name, driver string }{{runspec.DefaultNetwork, "bridge"}, {"host", "host"}, {"none", "null"}} {
		if !slices.ContainsFunc(all, func(n netns.Network) bool { return n.Name == b.name }) {
			sum := sha256.Sum256([]byte("network " + b.name))
			all = append(all, netns.Network{
				NetworkSpec: netns.NetworkSpec{Name: b.name, Driver: b.driver, DisableIPv6: true},
				ID:          hex.EncodeToString(sum[:]),
			})
		}
	}
	return all
}

func refuseBuiltin(verb, name string) error {
	if isBuiltin(name) {
		return fmt.Errorf("cannot %s network %s: it is predefined", verb, name)
	}
	return nil
}
