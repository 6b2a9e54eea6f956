package engine

import (
	"context"
	"path/filepath"

	"github.com/stack-run/stack/internal/lock"
	"github.com/stack-run/stack/netns"
)

// DefaultNetwork is what a container that names no network is attached to, as
// Docker's "bridge". It exists while somebody uses it.
const DefaultNetwork = "bridge"

// HoldDefaultNetwork makes the default network if it is not there, and keeps
// others from removing it until release.
func (e *Engine) HoldDefaultNetwork(ctx context.Context) (release func(), err error) {
	held, err := lock.Shared(ctx, e.defaultNetworkLock(), lock.MakeDir(), lock.Of("the default network"))
	if err != nil {
		return nil, err
	}
	release = func() { held.Unlock() }
	nets, err := e.Networks()
	if err == nil {
		if _, getErr := nets.Get(DefaultNetwork); getErr != nil {
			_, err = nets.Create(ctx, netns.NetworkSpec{Name: DefaultNetwork, Driver: "bridge", DisableIPv6: true})
			if _, getErr := nets.Get(DefaultNetwork); getErr == nil {
				err = nil // another process made it meanwhile
			}
		}
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// DropDefaultNetwork removes the default network if nobody is on it. Who holds it does
// so later.
func (e *Engine) DropDefaultNetwork(ctx context.Context) error {
	held, _, err := lock.TryExclusive(e.defaultNetworkLock(), lock.MakeDir())
	if held == nil || err != nil {
		return err
	}
	defer held.Unlock()
	nets, err := e.Networks()
	if err != nil {
		return err
	}
	if users, err := nets.Users(DefaultNetwork); err != nil || len(users) > 0 {
		return nil //nolint:nilerr // it is gone already
	}
	return nets.Remove(ctx, DefaultNetwork)
}

func (e *Engine) defaultNetworkLock() string {
	return filepath.Join(e.run, "locks", "default-network")
}
